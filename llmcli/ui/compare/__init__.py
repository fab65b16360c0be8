"""Several answers on the screen at once, and what their figures say."""
