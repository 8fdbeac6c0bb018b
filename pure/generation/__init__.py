"""Generation: prompts in, sampled tokens out, by a model's KV cache."""
