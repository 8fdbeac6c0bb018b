"""Numbers on the command line that cannot work, refused before any work, each by the name of its flag."""

from __future__ import annotations

import math
from typing import Any

LARGEST = 2**31 - 1
"""Counts of steps are int32, as optax's are."""

AT_LEAST_ZERO = (
    "learning_rate", "final_learning_rate", "weight_decay", "max_grad_norm", "warmup", "z_loss", "save_every",
    "eval_every", "patience", "beta", "center", "value_weight", "entropy_weight", "table_every",
)  # fmt: skip
AT_LEAST_ONE = (
    "batch_size", "num_epochs", "max_length", "gradient_accumulation", "keep_last", "max_steps", "examples", "samples",
    "max_new_tokens", "iterations", "epochs", "minibatches",
)  # fmt: skip
SHARES = ("label_smoothing",)


def refuse(options: Any) -> None:
    """Looks at every number that the flags have.

    Args:
        options: a dataclass of flags; flags that it has not, and those that are None, are not looked at.

    Raises:
        ValueError: for a number out of range, or two that contradict each other; it names the flags.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in [name for name in given if name in AT_LEAST_ZERO]:
        if not 0 <= given[name] < math.inf:
            raise ValueError(f"--{name}: expected a finite number, at least 0, got {given[name]}")
    for name in [name for name in given if name in AT_LEAST_ONE]:
        if given[name] > LARGEST:
            raise ValueError(f"--{name}: expected at most {LARGEST}, got {given[name]}")
        if given[name] < 1:
            hint = "; leave it out for --num_epochs" if name == "max_steps" else ""
            raise ValueError(f"--{name}: expected at least 1, got {given[name]}{hint}")
    for name in [name for name in given if name in SHARES]:
        if not 0 <= given[name] < 1:
            raise ValueError(f"--{name}: expected a share in [0, 1), got {given[name]}")
    refuse_seed(given.get("seed", 0))
    if "ema" in given and not 0 < given["ema"] < 1:
        raise ValueError(f"--ema: expected a decay in (0, 1), such as 0.999, got {given['ema']}")
    if not given.get("temperature", 1.0) > 0:
        raise ValueError(f"--temperature: expected a number above 0, got {given['temperature']}; answers are to differ")
    if given.get("patience") and not given.get("eval_every"):
        raise ValueError("--patience counts validations, and --eval_every 0 makes none before the end; set both")
    rows, parts = given.get("batch_size", 1), given.get("gradient_accumulation", 1)
    if rows % parts:
        raise ValueError(
            f"--gradient_accumulation {parts} does not divide --batch_size {rows}: it cuts a batch into equal pieces"
        )


def refuse_seed(seed: int) -> None:
    """Looks at a seed.

    Raises:
        ValueError: if it does not fit into 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed: expected 0 to {2**32 - 1}, got {seed}")
