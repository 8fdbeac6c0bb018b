"""Sums of clipped per-sample gradients: against the plain gradient, and against Opacus' ghost clipping.

    OMP_NUM_THREADS=1 python benchmarks/per_sample_clipping.py [--pairs N]

The default model (5.8M parameters tied, 6.8M untied), 8 rows of 128 tokens, float32, eager, each example
clipped to norm 1. Opacus refuses tied embeddings with ghost clipping, so the peer is the untied model, as a
torch module with torch.nn.RMSNorm and SDPA; its norms are checked against ours. A time is the least CPU time
of `--pairs` calls, in turn with those of the other rows: on a machine with other work the least is close to
that without it. The process keeps the memory that it frees, as runs of this library do. Memory is measured in
new processes: the peak during the call minus what was in use before it, the result included.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from _timing import make_parser, peak_memory
from per_sample_grad import CONFIG, batch, module

from pure import random, tree
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.ghost import clipped_sum, per_sample_norms
from pure.transform.grad import grad
from pure.transform.per_sample import per_sample_fold
from pure.types import Tree
from stages.run.allocator import keep_freed_memory

MODES = ("plain gradient", "norms", "one pass", "two passes", "fold", "Opacus ghost clipping")
TARGETS: Mapping[str, tuple[float | None, float]] = MappingProxyType(
    {"one pass": (1.25, 1.3), "two passes": (None, 1.1)}
)
"""Mode -> upper bounds of its time and memory, tied, over those of the plain gradient."""


def main() -> None:
    """Print times and memory of each mode over those of the plain gradient, tied and untied."""
    options = make_parser(__doc__, pairs=8).parse_args()
    keep_freed_memory()
    check_norms()
    for tied in (True, False):
        modes = [mode for mode in MODES if not (tied and "Opacus" in mode)]
        functions = {mode: prepare(mode, tied) for mode in modes}
        times = least_times(functions, options.pairs)
        memory = {mode: peak_memory(prepare, mode, tied, warmup=2).above_rest for mode in modes}
        print(
            f"{'tied' if tied else 'untied'} embeddings, times and memory over those of the plain gradient:"
        )
        for mode in modes:
            time_ratio, memory_ratio = times[mode] / times[modes[0]], memory[mode] / memory[modes[0]]
            aims = TARGETS.get(mode, (None, None)) if tied else (None, None)
            print(
                f"{mode:<24} {1e3 * times[mode]:7.0f} ms {time_ratio:5.2f}x{_verdict(time_ratio, aims[0])} "
                f"{memory[mode] / 2**20:6.0f} MiB {memory_ratio:5.2f}x{_verdict(memory_ratio, aims[1])}"
            )
    faster = times["Opacus ghost clipping"] / times["one pass"]
    print(f"one pass is {faster:.2f}x as fast as Opacus' ghost clipping (target 1.50x)")


def prepare(mode: str, tied: bool) -> Callable[[], Any]:
    """Return a function that computes a gradient, norms or a clipped sum."""
    if "Opacus" in mode:
        return peer()
    torch.set_num_threads(1)
    model = transformer(replace(CONFIG, tie_word_embeddings=tied))

    def loss(params: Tree, data: Tree, key: Any) -> tuple:
        return (*cross_entropy(model.forward(params, data["tokens"]), data["labels"]), {})

    params, data, key = model.init(random.key(0)), batch(), random.key(2)
    if mode == "plain gradient":
        return lambda: grad(lambda p: loss(p, data, key)[0])(params)
    if mode == "fold":
        fold = per_sample_fold(loss, add_clipped)
        return lambda: fold(params, data, key, tree.zeros_like(params))
    if mode == "norms":
        return partial(per_sample_norms(loss), params, data, key)
    return partial(clipped_sum(loss, 1.0, keep=mode == "one pass"), params, data, key)


def add_clipped(total: Tree, grads: Tree) -> Tree:
    """Clip one gradient to norm 1, and add it."""
    factor = (1 / tree.norm(grads)).clamp(max=1)
    return tree.map(lambda t, g: torch.add(t, g * factor), total, grads)


def peer() -> Callable[[], Any]:
    """Return a function that computes clipped sum and norms of the untied model with Opacus."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    hooked = GradSampleModuleFastGradientClipping(
        module(replace(CONFIG, tie_word_embeddings=False)), max_grad_norm=1.0, loss_reduction="sum"
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(hooked.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    data = batch()

    def clip() -> Any:
        logits = hooked(data["tokens"]).transpose(1, 2)
        losses = F.cross_entropy(logits, data["labels"], reduction="none").sum(1)
        DPTensorFastGradientClipping(hooked, optimizer, losses, "sum").backward()
        grads = [p.grad for p in hooked.parameters()]
        optimizer.zero_grad(set_to_none=True)
        return grads, hooked.per_sample_gradient_norms

    return clip


def least_times(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Time functions in turn, and return the least CPU seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for warm in (True, *[False] * rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if not warm:
                times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}


def check_norms() -> None:
    """Check that Opacus' norms are ours."""
    ours, theirs = prepare("norms", tied=False)(), peer()()[1]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    print("norms of both sides are equal within 1e-4")


def _verdict(ratio: float, aim: float | None) -> str:
    """Format an upper bound, and whether it was kept."""
    if aim is None:
        return ""
    return f" (aim {aim}x, missed)" if ratio > aim else f" (aim {aim}x)"


if __name__ == "__main__":
    main()
