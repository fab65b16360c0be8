"""The streamed answer on a terminal."""
