"""GGUF files: the header of one, and which files make up a model."""
