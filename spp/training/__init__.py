"""What a solver needs besides its net: rates, update rules, loss scale, snapshots, reports, learnable parameters."""
