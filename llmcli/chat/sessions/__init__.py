"""Conversations on disk: one JSON object per line."""
