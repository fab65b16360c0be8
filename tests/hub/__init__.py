"""A local Hugging Face Hub with faults to order."""
