"""From tokens to text: stop strings, reasoning, and where in the text the next token stands."""
