"""Models on disk: Hugging Face folders, GGUF files, adapters, reward models."""
