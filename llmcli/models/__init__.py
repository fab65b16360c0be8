"""GGUF files on disk and on the Hub: find them, read their headers, download and remove them; not llama.cpp."""
