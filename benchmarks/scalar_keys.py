"""What the random keys of a step cost: two scalar `fold_in` in every eager step, against jax.random's.

    OMP_NUM_THREADS=1 python benchmarks/scalar_keys.py [--pairs N]

A step folds its number and a name into the run's key, whatever else it draws. The first line compares the
time of both with jax.random.fold_in, called eagerly as well; the second says how much of the eager step of a
tiny model they take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import torch
from _model import small_config
from _timing import make_parser, print_header, print_row, time_pairs

from pure import optim, random
from pure.nn.transformer import transformer
from stages.pretrain import pretrain
from stages.step import LOSS_KEY

CALLS = 20


def main() -> None:
    """Print the time of two scalar keys, and of the step around them."""
    options = make_parser(__doc__).parse_args()
    print_header()
    result = time_pairs(our_keys, jax_keys, options.pairs)
    print_row(f"two scalar keys, {CALLS} times", result, 1.0)
    milliseconds = cpu_milliseconds(our_keys, 3 + options.pairs) / CALLS
    model = transformer(
        small_config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    made = pretrain(model, optim.adamw(1e-3))
    state, tokens = made.init(random.key(0)), torch.zeros(4, 16, dtype=torch.long)
    step = lambda: made.step(state, {"tokens": tokens, "labels": tokens})  # noqa: E731
    whole = cpu_milliseconds(step, 3 + options.pairs)
    verdict = "reached" if milliseconds < 0.5 else "MISSED"
    print(
        f"two scalar keys: {milliseconds:.2f} ms of CPU, of a step's {whole:.1f} ms (aim: under 0.50 ms)  {verdict}"
    )


def cpu_milliseconds(function: Callable[[], Any], calls: int) -> float:
    """Return the least CPU time of a call: on a shared machine, the other load's time is not counted."""

    def once() -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    return 1e3 * min(once() for _ in range(calls))


def our_keys() -> None:
    """Fold a step's number and a name into a key."""
    key, step = random.key(0), torch.tensor(7)
    for _ in range(CALLS):
        random.fold_in(random.fold_in(key, step), LOSS_KEY)


def jax_keys() -> Any:
    """The same in JAX."""
    key = jax.random.PRNGKey(0)
    return [jax.random.fold_in(jax.random.fold_in(key, 7), LOSS_KEY) for _ in range(CALLS)]


if __name__ == "__main__":
    main()
