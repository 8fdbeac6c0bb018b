"""The noise scale in a running job: what it adds to a step.

    OMP_NUM_THREADS=1 python benchmarks/noise_scale.py [--pairs N]

A model of 127k parameters, 32 rows of 32 tokens, AdamW, float32, eager. `noise_scale(parts=4)` against the
step that it is compared with: the same four micro-batches without it, where one accumulates anyway, and one
whole batch. The exact estimate, `gradient_noise(loss)` of one row a micro-batch, is a function of its own,
called by the loop every k-th step: the last line says which k adds 10%.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any

from _model import small_config
from _timing import make_parser, print_header, print_row, time_call, time_pairs

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.noise_scale import gradient_noise, noise_scale
from stages.pretrain import pretrain
from stages.stage import loss_of

ROWS, LENGTH = 32, 32
MODEL = transformer(
    small_config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
)


def main() -> None:
    """Print the steps with and without the noise scale, and the cost of the exact estimate."""
    options = make_parser(__doc__).parse_args()
    print(f"{tree.count(MODEL.spec):,} parameters, {ROWS} rows of {LENGTH} tokens")
    print_header()
    measured = step_with(gradient=noise_scale(4))
    four, whole = step_with(accumulation=4), step_with()
    print_row("noise scale, against accumulation 4", time_pairs(measured, four, options.pairs), 0.91)
    print_row("noise scale, against one whole batch", time_pairs(measured, whole, options.pairs))
    halves = step_with(gradient=noise_scale(2))
    print_row("two micro-batches, against one whole batch", time_pairs(halves, whole, options.pairs))
    made = pretrain(MODEL, optim.adamw(1e-3))
    params = made.init(random.key(0)).params
    exact = partial(gradient_noise(loss_of(made)), params, batch(), random.key(0))
    ratios = sorted(time_call(exact) / time_call(whole) for _ in range(max(3, options.pairs // 4)))
    times = ratios[len(ratios) // 2]
    print(f"exact, one row a micro-batch: {times:.2f} steps; 10% of the time every {ceil(10 * times)} steps")


def step_with(**given: Any) -> Callable[[], Any]:
    """Return a function that takes one step of a stage with these arguments."""
    made = pretrain(MODEL, optim.adamw(1e-3), **given)
    return partial(made.step, made.init(random.key(0)), batch())


def batch() -> dict[str, Any]:
    """Return random tokens and labels [B, T]."""
    tokens = random.randint(random.key(1), (ROWS, LENGTH + 1), 0, MODEL.config.vocab_size).long()
    return {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}


if __name__ == "__main__":
    main()
