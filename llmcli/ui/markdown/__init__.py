"""An answer in Markdown on a terminal, while it is still being written."""
