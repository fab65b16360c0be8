"""The terminal: the only floor that prints."""
