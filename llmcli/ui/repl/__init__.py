"""The chat on a terminal or in a pipe: one turn after another."""
