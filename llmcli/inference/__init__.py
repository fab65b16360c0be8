"""One request, one answer: no conversation and no terminal."""
