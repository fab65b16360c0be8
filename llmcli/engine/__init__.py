"""llama.cpp and nothing else: load, tokenize, decode, sample. The only floor that imports llama_cpp."""
