"""The parts of a solver: learning rates, update rules, loss scale, snapshots, reporting, learnable parameters."""
