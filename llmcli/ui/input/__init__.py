"""The input line of the chat, and its replacement in a pipe."""
