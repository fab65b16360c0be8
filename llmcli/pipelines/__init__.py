"""Many inputs, or inputs of several steps: jobs, batches and tasks."""
