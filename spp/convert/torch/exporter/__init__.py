"""A net as the source of a torch module."""
