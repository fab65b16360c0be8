"""HTTP in front of `inference/`: other programs use a model through the forms of OpenAI, Anthropic and llama-server."""
