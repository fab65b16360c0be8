"""Temperature policies: what they are, how they are written, and the built-in ones."""
