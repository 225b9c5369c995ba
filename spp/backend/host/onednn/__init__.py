"""oneDNN's convolutions and matrix products, where its wheel is installed."""
