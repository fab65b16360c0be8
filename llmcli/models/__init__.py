"""GGUF files on disk and on the Hugging Face Hub: find them, read their headers, download and remove them.

This package does not load models and does not know llama.cpp. It gives the engine the path of a valid file.
"""
