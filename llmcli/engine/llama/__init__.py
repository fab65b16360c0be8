"""llama.cpp through its C API: library, model, vocabulary, context and hardware."""
