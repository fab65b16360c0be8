"""The Hugging Face Hub: its API, resumable downloads, and its cache on this machine."""
