"""A local Hugging Face Hub that produces faults on request."""
