"""Generation: ours against transformers' `generate`, in tokens per second.

Model: 5.8M parameters (`benchmarks/_model.py`), bfloat16. 32 prompts of 16 tokens, 64 new tokens
each, sampled at temperature 1, no early stop. Ours is compiled once (the time is printed); the peer is
`LlamaForCausalLM.generate` with its defaults, on a model of the same shape. A second line samples from the 50
most probable tokens.

    python benchmarks/generation.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _timing
import torch
from _model import DEVICE, describe_setup, small_config, small_llama
from torch import Tensor

from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.nn.transformer import transformer

ROWS, PROMPT, NEW = 32, 16, 64


def prompts() -> Tensor:
    """Return random prompts, tokens [B, P]."""
    return random.randint(random.key(1), (ROWS, PROMPT), 0, 4096).long().to(DEVICE)


def our_side(compiled: bool, top_k: int | None = None) -> Callable[[], Tensor]:
    """Return a function that generates after the prompts, compiled or eager."""
    model, tokens, key = transformer(small_config()), prompts(), random.key(2, device=DEVICE)
    params = tree.cast(model.init(random.key(0, device=DEVICE)), torch.bfloat16)
    compiled_step = stepper(model, compile=compiled)
    sampling = Sampling(max_new_tokens=NEW, top_k=top_k)
    return lambda: generate(model, params, tokens, sampling, key=key, compile=compiled_step).tokens


def peer_side(**options: Any) -> Callable[[], Tensor]:
    """Return a function that generates with transformers; `options` go to its `generate`."""
    tokens = prompts()
    model = small_llama(small_config(), bos_token_id=None, eos_token_id=None, pad_token_id=0)
    model = model.to(DEVICE, torch.bfloat16).eval()
    common = {"attention_mask": torch.ones_like(tokens), "do_sample": True, "max_new_tokens": NEW}

    def run_generate() -> Tensor:
        with torch.no_grad():
            rows = model.generate(tokens, **common, **options)
        assert rows.shape == (ROWS, PROMPT + NEW)
        return rows

    return run_generate


def main() -> None:
    """Print the table."""
    arguments = _timing.make_parser(__doc__).parse_args()
    print(describe_setup())
    plain, peer = our_side(True), peer_side(top_k=0)
    _timing.print_first_call(plain)
    _timing.print_header()
    _timing.print_row(
        "sampling", _timing.time_pairs(plain, peer, arguments.pairs), 3.0, items=ROWS * NEW, unit="tok"
    )
    truncated = _timing.time_pairs(our_side(True, top_k=50), peer_side(top_k=50), arguments.pairs)
    _timing.print_row("sampling, top-k 50", truncated, items=ROWS * NEW, unit="tok")
    eager = _timing.time_pairs(our_side(False), peer, arguments.pairs)
    _timing.print_row("sampling, not compiled", eager, items=ROWS * NEW, unit="tok")


if __name__ == "__main__":
    main()
