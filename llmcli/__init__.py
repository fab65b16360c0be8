"""Talk to a local model from a terminal: chat and text generation on llama.cpp."""

__version__ = "0.1.0"
