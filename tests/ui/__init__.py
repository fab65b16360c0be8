"""The terminal floor."""
