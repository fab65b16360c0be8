"""Comparisons on the terminal: the answers side by side, and their statistics."""
