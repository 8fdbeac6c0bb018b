"""`from_optax(optax.adamw)` beside our own AdamW, on a model of 919k parameters in 38 leaves.

Columns: "ours" is `from_optax`, "peer" our own AdamW; the ratio is peer over `from_optax`. All leaves cross
to JAX and back at each update, as one call. The target, 0.77, is a step of at most 1.3 times ours.

    OMP_NUM_THREADS=1 python benchmarks/optax_border.py [--pairs N] [--compile]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax
from _timing import make_parser, print_header, print_row, time_pairs

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.interop.jax import from_optax
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.types import GradientTransformation
from stages.pretrain import pretrain

ROWS, LENGTH = 8, 128
MODEL = transformer(
    ModelConfig(
        vocab_size=1000,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
    )
)
TARGET = 1 / 1.3


def update_fn(optimizer: GradientTransformation) -> Callable[[], Any]:
    """Return a function that computes one update."""
    params = MODEL.init(random.key(0))
    grads = tree.map(lambda x: x.cos(), params)
    state = optimizer.init(params)
    return lambda: optimizer.update(grads, state, params)


def step_fn(optimizer: GradientTransformation, compile: bool) -> Callable[[], Any]:
    """Return a function that takes one step of pretraining."""
    stage = pretrain(MODEL, optimizer)
    step = jit(stage.step) if compile else stage.step
    state = stage.init(random.key(0))
    drawn = random.randint(random.key(1), (ROWS, LENGTH + 1), 0, 1000).long()
    batch = {"tokens": drawn[:, :-1], "labels": drawn[:, 1:]}
    return lambda: step(state, batch)


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--compile", action="store_true", help="also time the compiled step (Inductor)")
    given = parser.parse_args()
    leaves = len(tree.leaves(MODEL.spec))
    print(f"{tree.count(MODEL.spec):,} parameters, {leaves} leaves; {ROWS} x {LENGTH} tokens")
    print_header()
    ours, theirs = optim.adamw(1e-3), from_optax(optax.adamw(1e-3))
    print_row("update, eager", time_pairs(update_fn(theirs), update_fn(ours), given.pairs), TARGET)
    for compiled in (False, True)[: 1 + given.compile]:
        times = time_pairs(step_fn(theirs, compiled), step_fn(ours, compiled), given.pairs)
        print_row(f"step, {'compiled' if compiled else 'eager'}", times, TARGET)


if __name__ == "__main__":
    main()
