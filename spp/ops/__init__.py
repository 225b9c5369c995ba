"""The mathematics: one file a family, arrays in, `out` arrays written, forward beside backward."""
