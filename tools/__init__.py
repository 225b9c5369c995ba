"""The programs: each parses arguments, calls spp and prints. Installed, they are the commands spp-...."""
