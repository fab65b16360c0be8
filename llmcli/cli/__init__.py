"""argv: one module per command, shared options, and the one place that catches and exits."""
