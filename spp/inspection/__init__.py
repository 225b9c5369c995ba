"""What describes a net: operation counts, drawings, and the values that debug_info prints."""
