"""Generation beside transformers' `generate`: tokens a second.

Model: 5.8M parameters (256 wide, 6 layers, 8 heads, 4 key-value heads, 768 inside, vocabulary 4096),
bfloat16. 32 prompts of 16 tokens, 64 new tokens each, sampled at temperature 1, no early stop. Ours is
compiled once (its time is printed); the peer is `LlamaForCausalLM.generate` as it is, of the same shape. A
second line truncates to the 50 likeliest words.

    python benchmarks/generation.py [--pairs N]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import _timing
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.nn.transformer import transformer

ROWS, PROMPT, NEW = 32, 16, 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def config() -> ModelConfig:
    """The model of the comparison."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )


def prompts() -> Tensor:
    """Tokens [B, P]."""
    return random.randint(random.key(1), (ROWS, PROMPT), 0, 4096).long().to(DEVICE)


def our_side(compiled: bool, top_k: int | None = None) -> Callable[[], Tensor]:
    """A function that continues the prompts."""
    model, tokens, key = transformer(config()), prompts(), random.key(2, device=DEVICE)
    params = tree.cast(model.init(random.key(0, device=DEVICE)), torch.bfloat16)
    compiled_step = stepper(model, compile=compiled)
    sampling = Sampling(max_new_tokens=NEW, top_k=top_k)
    return lambda: generate(model, params, tokens, sampling, key=key, compile=compiled_step).tokens


def peer_side(**options: Any) -> Callable[[], Tensor]:
    """The same with transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ours, tokens = config(), prompts()
    settings = LlamaConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        num_key_value_heads=ours.num_key_value_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(settings).to(DEVICE, torch.bfloat16).eval()
    given = {"attention_mask": torch.ones_like(tokens), "do_sample": True, "max_new_tokens": NEW}

    def take() -> Tensor:
        with torch.no_grad():
            found = model.generate(tokens, **given, **options)
        assert found.shape == (ROWS, PROMPT + NEW)
        return found

    return take


def main() -> None:
    """Prints the table."""
    arguments = _timing.parser(__doc__).parse_args()
    size = tree.count(transformer(config()).spec)
    print(f"{torch.get_num_threads()} threads, {DEVICE}, torch {torch.__version__}, {size:,} parameters")
    plain, peer = our_side(True), peer_side(top_k=0)
    start = time.perf_counter()
    plain()
    print(f"first call, which compiles: {time.perf_counter() - start:.1f} s")
    _timing.header()
    _timing.row("sampling", _timing.paired(plain, peer, arguments.pairs), 3.0, items=ROWS * NEW, unit="tok")
    few = _timing.paired(our_side(True, top_k=50), peer_side(top_k=50), arguments.pairs)
    _timing.row("sampling, top-k 50", few, items=ROWS * NEW, unit="tok")
    eager = _timing.paired(our_side(False), peer, arguments.pairs)
    _timing.row("sampling, not compiled", eager, items=ROWS * NEW, unit="tok")


if __name__ == "__main__":
    main()
