"""Conversions to and from torch."""
