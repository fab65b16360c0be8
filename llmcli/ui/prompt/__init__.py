"""The input line of the chat: what the user types, on a terminal or without one."""
