"""The chat on a terminal: the loop, the answer as it streams, the status line."""
