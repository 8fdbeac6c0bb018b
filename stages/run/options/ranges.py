"""Range checks for numeric flags, and for flags that contradict each other, refused by name before any
work."""

from __future__ import annotations

import math
from typing import Any

from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import DPOOptions, GRPOOptions, OnlineOptions, PPOOptions, TuningOptions

LARGEST = 2**31 - 1
"""Counts of steps are int32, as optax's are."""

AT_LEAST_ZERO = (
    "learning_rate", "final_learning_rate", "weight_decay", "max_grad_norm", "warmup", "z_loss", "save_every",
    "eval_every", "patience", "beta", "center", "value_weight", "entropy_weight", "table_every", "held_out",
)  # fmt: skip
AT_LEAST_ONE = (
    "batch_size", "num_epochs", "max_length", "gradient_accumulation", "keep_last", "max_steps", "examples", "samples",
    "max_new_tokens", "iterations", "epochs", "minibatches", "lora_rank", "top_k",
)  # fmt: skip
ABOVE_ZERO = ("temperature", "target_kl", "lora_alpha")
SHARES = ("label_smoothing", "lora_dropout")
COUNTS = ("save_every", "eval_every", "patience", "table_every", *AT_LEAST_ONE)


def refuse(options: Any) -> None:
    """Checks every number that the flags have, then those that depend on each other.

    Args:
        options: a dataclass of flags; flags that it has not, and those that are None, are not looked at.

    Raises:
        ValueError: for a number out of range, two that contradict each other, or one that would have no
            effect; it names the flags, and says what to type instead.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name, value in given.items():
        _refuse_range(name, value)
    refuse_seed(given.get("seed", 0))
    if isinstance(options, PretrainOptions | TuningOptions):
        _refuse_pieces(options.batch_size, "--batch_size", options.gradient_accumulation)
        _refuse_idle_validation(options)
        _refuse_unread(options)
    if isinstance(options, DPOOptions):
        _refuse_smoothing(options)
    if isinstance(options, OnlineOptions):
        _refuse_online(options)


def refuse_no_held_out(options: TuningOptions, rows: int) -> None:
    """Checks, once the rows are counted, that there is something to validate on where validation is asked
    for.

    Raises:
        ValueError: if not; it names the flag.
    """
    for name, value in (("patience", options.patience), ("eval_every", options.eval_every)):
        if value:
            raise ValueError(
                f"--{name} {value} needs held-out rows, and of {rows} rows none can be held out (a fifth at most): "
                f"give more rows, or --{name} 0"
            )


def _refuse_range(name: str, value: Any) -> None:
    """One flag by itself."""
    if name in AT_LEAST_ZERO and not 0 <= value < math.inf:
        raise ValueError(f"--{name}: expected a finite number, at least 0, got {value}")
    if name in COUNTS and value > LARGEST:
        raise ValueError(f"--{name}: expected at most {LARGEST}, got {value}")
    if name in AT_LEAST_ONE and value < 1:
        hint = "; leave it out for --num_epochs" if name == "max_steps" else ""
        raise ValueError(f"--{name}: expected at least 1, got {value}{hint}")
    if name in ABOVE_ZERO and not 0 < value < math.inf:
        hint = "; answers are to differ" if name == "temperature" else ""
        raise ValueError(f"--{name}: expected a finite number above 0, got {value}{hint}")
    if name in SHARES and not 0 <= value < 1:
        raise ValueError(f"--{name}: expected a share in [0, 1), got {value}")
    if name == "ema" and not 0 < value < 1:
        raise ValueError(
            f"--ema: expected a decay in (0, 1), such as 0.999, got {value}; leave it out for no average"
        )
    if name == "top_p" and not 0 < value <= 1:
        raise ValueError(
            f"--top_p: expected a probability in (0, 1], got {value}; 1 or no flag samples among all"
        )


def _refuse_pieces(rows: int, what: str, parts: int) -> None:
    """A batch is cut into equal pieces."""
    if rows % parts:
        near = max(n for n in range(1, parts + 1) if rows % n == 0)
        raise ValueError(
            f"--gradient_accumulation {parts} does not divide {what} {rows}: it cuts a batch into equal pieces; "
            f"--gradient_accumulation {near} would"
        )


def _refuse_idle_validation(options: PretrainOptions | TuningOptions) -> None:
    """Validation that never happens, and what waits for it."""
    if options.patience and not options.eval_every:
        raise ValueError(
            "--patience counts validations, and --eval_every 0 makes none before the end; set both"
        )
    if isinstance(options, PretrainOptions):
        if not 0 < options.held_out <= 0.5:
            raise ValueError(
                f"--held_out: expected a share in (0, 0.5], got {options.held_out}; 0.05 keeps a twentieth apart"
            )
        return
    for name, value in (("patience", options.patience), ("eval_every", options.eval_every)):
        if value and not options.held_out:
            raise ValueError(
                f"--{name} {value} needs rows to validate on, and --held_out 0 leaves none: raise one, or "
                f"--{name} 0"
            )


def _refuse_unread(options: PretrainOptions | TuningOptions) -> None:
    """Parts of the embedded data, which has none; a number of embedded rows where others are read."""
    embedded = options.data_path == "embedded"
    for name, value, usual in (("split", options.split, "train"), ("subset", options.subset, None)):
        if embedded and value != usual:
            raise ValueError(f"--{name} {value}: the embedded data is one data set; leave --{name} out")
    if isinstance(options, TuningOptions) and not embedded and options.examples != TuningOptions.examples:
        raise ValueError(
            f"--examples {options.examples} counts embedded rows, and --data_path {options.data_path} is read; leave "
            "it out, or take --max_steps"
        )


def _refuse_smoothing(options: DPOOptions) -> None:
    """Smoothing that the loss has not; a preference loss that has no pull to follow."""
    smoothing, variant = options.label_smoothing, options.variant
    if smoothing and variant not in ("conservative", "robust"):
        raise ValueError(
            f"--label_smoothing {smoothing} has no effect on --variant {variant}; it is for conservative and robust"
        )
    if not smoothing < 0.5:
        raise ValueError(
            f"--label_smoothing: expected a share in [0, 0.5) for --variant {variant}, got {smoothing}"
        )
    if not options.beta and variant != "orpo":
        raise ValueError(
            f"--beta 0 makes the loss of --variant {variant} constant, so that nothing is learned; 0.1 is "
            "usual"
        )


def _refuse_online(options: OnlineOptions) -> None:
    """Groups, minibatches, weights of rewards, a divergence that is steered."""
    weights, rewards = options.reward_weights, options.reward
    if weights and len(weights) != len(rewards):
        raise ValueError(
            f"--reward_weights has {len(weights)} numbers for {len(rewards)} rewards ({' '.join(rewards)}); give one "
            "for each"
        )
    if weights and not (all(map(math.isfinite, weights)) and any(weights)):
        raise ValueError(
            f"--reward_weights {' '.join(map(str, weights))}: expected finite numbers, not all of them 0"
        )
    if isinstance(options, GRPOOptions) and options.samples < 2:
        raise ValueError(
            "--samples 1: a group of one answer has nothing to be compared with, so that nothing is learned; take at "
            "least 2"
        )
    if isinstance(options, PPOOptions):
        _refuse_minibatches(options)


def _refuse_minibatches(options: PPOOptions) -> None:
    """Equal minibatches, cut into equal pieces; β that is 0 is never steered."""
    rows, parts = options.batch_size, options.minibatches
    if rows % parts:
        raise ValueError(f"--minibatches {parts} does not divide --batch_size {rows}: they are of equal size")
    _refuse_pieces(
        rows // parts,
        f"a minibatch (--batch_size {rows} / --minibatches {parts}) of",
        options.gradient_accumulation,
    )
    if options.target_kl and not options.beta:
        raise ValueError(
            "--target_kl steers --beta by factors, and 0 stays 0; begin with --beta 0.02, for instance"
        )


def refuse_seed(seed: int) -> None:
    """Looks at a seed.

    Raises:
        ValueError: if it does not fit into 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed: expected 0 to {2**32 - 1}, got {seed}")
