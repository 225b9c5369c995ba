"""A torch module as a net."""
