"""The slash commands of the chat: each is one decorated function."""
