"""A small random model with a tokenizer, for the tests of evaluations."""

from __future__ import annotations

from data_pipes import tokenizer as tokenizers
from pure import random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.models.language_model import Pretrained

TEXT = "def add(a, b):\n    return a + b\n\nQuestion: what is it?\nAnswer: A B C D\n" * 20


def small_model(length: int = 256, seed: int = 0) -> Pretrained:
    """A model whose weights are so large that choices differ, and a byte-level tokenizer of 300 ids."""
    tokenizer = tokenizers.train([TEXT], vocab_size=300)
    end = tokenizers.special_tokens(tokenizer)["<|endoftext|>"]
    config = ModelConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
        initializer_range=0.2,
        eos_token_id=end,
    )
    model = transformer(config)
    return Pretrained(model, model.init(random.key(seed)), tokenizer)
