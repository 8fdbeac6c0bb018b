"""Pretraining step: ours against transformers' Llama, and against its matrix products alone.

Model: 5.8M parameters (`benchmarks/_model.py`). Batch: 8 rows of 256 tokens, bfloat16 products, float32
weights, AdamW, clipping to norm 1. Ours is `jit(step, donate=True, regions=True)`; the peer is
`LlamaForCausalLM` compiled, under autocast, with torch's fused AdamW. Both get the same tokens and labels.

    python benchmarks/pretraining.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _timing
import torch
from _model import DEVICE, describe_setup, small_config, small_llama
from torch import Tensor

from pure import optim, random
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from stages.pretrain import pretrain
from stages.run.allocator import keep_freed_memory

ROWS, LENGTH = 8, 256


def batch() -> tuple[Tensor, Tensor]:
    """Return random tokens and labels [B, T]."""
    tokens = random.randint(random.key(1), (ROWS, LENGTH + 1), 0, 4096).long().to(DEVICE)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def our_step(layers: int = 6) -> Callable[[], Tensor]:
    """Return a function that takes one step and returns its loss."""
    adamw = optim.adamw(1e-3, weight_decay=0.1, mask=optim.decay_mask)
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), adamw)
    model = transformer(small_config(num_hidden_layers=layers))
    stage = pretrain(model, optimizer, compute=torch.bfloat16)
    step = jit(stage.step, donate=True, regions=True)
    state = stage.init(random.key(0, device=DEVICE))
    tokens, labels = batch()

    def take_step() -> Tensor:
        # Donation writes the new state into the tensors of the old one.
        return step(state, {"tokens": tokens, "labels": labels}).metrics["loss"]

    return take_step


def peer_step(layers: int = 6) -> Callable[[], Tensor]:
    """Return the same with transformers and torch.optim."""
    config = small_config(num_hidden_layers=layers)
    model = small_llama(config, use_cache=False).to(DEVICE).train()
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    tokens, labels = batch()

    def take_step() -> Tensor:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(tokens).logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return take_step


def bare_products(layers: int = 6) -> Callable[[], None]:
    """Return a function that runs only the step's matrix products: weights and attention, with gradients."""
    config, tokens = small_config(num_hidden_layers=layers), ROWS * LENGTH
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    queries = heads * (config.head_dim or 0)
    keys = config.num_key_value_heads * (config.head_dim or 0)
    attention = [(queries, width), (keys, width), (keys, width), (width, queries)]
    shapes = [*attention, (inner, width), (inner, width), (width, inner)]
    weights = [(shape, layers) for shape in shapes] + [((config.vocab_size, width), 1)]
    new = {"dtype": torch.bfloat16, "device": DEVICE}
    linear = [
        (torch.randn(o, i, **new), torch.randn(tokens, i, **new), torch.randn(tokens, o, **new), n)
        for (o, i), n in weights
    ]
    q, k = (torch.randn(ROWS * heads, LENGTH, config.head_dim, **new) for _ in range(2))
    scores = torch.randn(ROWS * heads, LENGTH, LENGTH, **new)

    def multiply() -> None:
        for weight, x, y, times in linear:
            for _ in range(times):
                x @ weight.T, y @ weight, y.T @ x
        for _ in range(layers):
            q @ k.mT, scores @ k, scores @ k, scores.mT @ q, scores @ q, scores.mT @ q

    return multiply


def prepare_side(make: Callable[[], Callable[[], Any]], keep_memory: bool = True) -> Callable[[], Any]:
    """Return a side for `run_in_process`; `keep_memory`: keep freed memory, as `stages.run.loop.run` does."""
    if keep_memory:
        keep_freed_memory()
    return make()


def main() -> None:
    """Print the table."""
    arguments = _timing.make_parser(__doc__).parse_args()
    print(describe_setup())
    ours = _timing.run_in_process(prepare_side, our_step)
    ours_default = _timing.run_in_process(prepare_side, our_step, False)
    peer = _timing.run_in_process(prepare_side, peer_step, False)
    peer_keeping = _timing.run_in_process(prepare_side, peer_step)
    _timing.print_header()
    rate = {"items": ROWS * LENGTH, "unit": "tok"}
    _timing.print_row("step, as each is run", _timing.time_pairs(ours, peer, arguments.pairs), 1.5, **rate)
    _timing.print_row(
        "both keep freed memory", _timing.time_pairs(ours, peer_keeping, arguments.pairs), **rate
    )
    _timing.print_row(
        "neither keeps freed memory", _timing.time_pairs(ours_default, peer, arguments.pairs), **rate
    )
    floor = _timing.time_pairs(ours, _timing.run_in_process(prepare_side, bare_products), arguments.pairs)
    _timing.print_row("bare products over the step (at least 1/2)", floor, 0.5)
    mine, theirs = (_timing.peak_memory(make, warmup=2) for make in (our_step, peer_step))
    _timing.print_peak_memory("peer", mine, theirs)
    verdict = "reached" if mine.above_rest <= theirs.above_rest else "MISSED"
    print(f"at most the peer's peak: {verdict}; whole process {mine.peak >> 20} and {theirs.peak >> 20} MiB")


if __name__ == "__main__":
    main()
