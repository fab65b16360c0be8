"""models/: GGUF files on disk (and, later, on the hub): finding them, reading their headers, fetching them.

Nothing here loads a model or knows llama.cpp: the engine takes over once a path holds a sound file.
"""
