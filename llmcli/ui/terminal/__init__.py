"""The terminal: streams, tables, progress, questions, signals."""
