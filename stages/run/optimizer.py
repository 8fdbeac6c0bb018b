"""The optimizer of a run and the schedule of its learning rate, from the flags' values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from pure import optim, tree
from pure.types import GradientTransformation, Schedule
from stages.run.metrics import Observe
from stages.run.options.base import OptimizerFlags
from stages.state import TrainState


class Optimization(NamedTuple):
    """An optimizer and its learning-rate schedule."""

    optimizer: GradientTransformation
    schedule: Schedule


def build(flags: OptimizerFlags, updates: int, dtype: torch.dtype) -> Optimization:
    """Builds optimizer and schedule of a run.

    Args:
        flags: values of the optimizer flags.
        updates: optimizer updates of the whole run.
        dtype: compute dtype.

    Returns:
        Optimization.

    Raises:
        ValueError: for a negative warm-up.
    """
    schedule = make_schedule(
        flags.schedule,
        updates,
        peak=flags.learning_rate,
        end=flags.learning_rate * flags.final_learning_rate,
        warmup=flags.warmup,
    )
    optimizer = make_optimizer(
        flags.optimizer,
        schedule,
        weight_decay=flags.weight_decay,
        max_grad_norm=flags.max_grad_norm,
        dtype=dtype,
        updates=updates,
    )
    return Optimization(optimizer, schedule)


def make_schedule(name: str, updates: int, *, peak: float, end: float, warmup: float) -> Schedule:
    """Makes the schedule of the learning rate.

    Args:
        name: "cosine", "linear", "wsd" or "constant": the decay after the warm-up.
        updates: optimizer updates of the whole run.
        peak: learning rate after the warm-up.
        end: learning rate at the end; not used by "constant".
        warmup: linear warm-up, below 1 a share of all updates, else a number of them.

    Returns:
        A function from the number of the update to its learning rate.

    Raises:
        ValueError: for an unknown name or a negative warm-up.
    """
    if warmup < 0:
        raise ValueError(f"--warmup: expected a share or a number of steps, at least 0, got {warmup}")
    steps = int(warmup * updates if warmup < 1 else warmup)
    begin, steps = (0.0, steps) if steps else (peak, 1)  # without a warm-up: one step at the peak
    updates = max(updates, steps + 1)
    if name == "constant":
        return optim.warmup_constant_schedule(begin, peak, steps)
    if name == "linear":
        return optim.warmup_linear_decay_schedule(begin, peak, steps, updates, end)
    if name == "wsd":
        decay = max(1, updates // 5)
        return optim.wsd_schedule(begin, peak, steps, max(updates - steps - decay, 1), decay, end_value=end)
    if name == "cosine":
        return optim.warmup_cosine_decay_schedule(begin, peak, steps, updates, end)
    raise ValueError(f"--schedule: expected cosine, linear, wsd or constant, got {name!r}")


def make_optimizer(
    name: str,
    schedule: Schedule,
    *,
    weight_decay: float,
    max_grad_norm: float,
    dtype: torch.dtype,
    updates: int,
) -> GradientTransformation:
    """Makes an optimizer, after clipping by the global norm.

    Args:
        name: a choice of `--optimizer`, such as "adamw"; "sgd" has Nesterov momentum 0.9.
        schedule: schedule of the learning rate.
        weight_decay: decay of matrices; norms, biases and embeddings have none.
        max_grad_norm: gradients are clipped to this global norm; 0 disables clipping.
        dtype: compute dtype; Muon's Newton-Schulz iterations are in float32 if it is float32, else
            in bfloat16.
        updates: optimizer updates of the whole run, over which AdEMAMix lengthens its slow mean.

    Returns:
        GradientTransformation.

    Raises:
        ValueError: for an unknown name.
    """
    optimizer = _unclipped(name, schedule, weight_decay, dtype, updates)
    if not max_grad_norm:
        return optimizer
    return optim.chain(optim.clip_by_global_norm(max_grad_norm), optimizer)


def learning_rate(state: TrainState, *, schedule: Schedule) -> dict[str, torch.Tensor]:
    """Returns the learning rate of the last update, by the optimizer's count, which skips do not advance.

    Args:
        state: after a step.
        schedule: the run's schedule.

    Returns:
        {"learning_rate": [] tensor}; {} for an optimizer without a count.
    """
    named = zip(tree.paths(state.opt_state), tree.leaves(state.opt_state), strict=True)
    counts = [leaf for path, leaf in named if path.endswith("count")]
    return {"learning_rate": schedule((counts[0] - 1).clamp(min=0))} if counts else {}


def observe(schedule: Schedule) -> Observe:
    """Makes the function that logs the learning rate."""
    return partial(learning_rate, schedule=schedule)


def _unclipped(
    name: str, schedule: Schedule, decay: float, dtype: torch.dtype, updates: int
) -> GradientTransformation:
    """The optimizer without clipping."""
    mask = optim.decay_mask
    like_adamw: dict[str, Callable[..., GradientTransformation]] = {
        "adamw": optim.adamw,
        "nadamw": optim.nadamw,
        "lamb": optim.lamb,
        "cautious_adamw": optim.cautious_adamw,
        "cautious_decay_adamw": optim.cautious_decay_adamw,
    }
    if name in like_adamw:
        return like_adamw[name](schedule, b2=0.95, weight_decay=decay, mask=mask)
    if name == "ademamix":
        slow, weight = optim.half_life_schedule(0.9, 0.999, updates), optim.linear_schedule(0.0, 5.0, updates)
        return optim.ademamix(schedule, b2=0.95, b3=slow, alpha=weight, weight_decay=decay, mask=mask)
    if name == "soap":
        return optim.soap(schedule, weight_decay=decay, mask=mask, max_precond_dim=2048)
    if name == "adafactor":
        return optim.adafactor(
            schedule,
            multiply_by_parameter_scale=False,  # so the learning rate of AdamW fits
            weight_decay_rate=partial(_multiply, schedule=schedule, factor=decay),
            weight_decay_mask=mask,
        )
    if name == "lion":
        return optim.lion(schedule, weight_decay=decay, mask=mask)
    if name in ("muon", "normuon"):
        build_one: Callable[..., GradientTransformation] = optim.muon if name == "muon" else optim.normuon
        return build_one(
            schedule,
            adam_b2=0.95,
            weight_decay=decay,
            consistent_rms=0.2,  # updates have the RMS of AdamW's, so the same learning rate fits
            muon_weight_dimension_numbers=optim.hidden_matrices,
            ns_dtype=torch.float32 if dtype == torch.float32 else torch.bfloat16,
        )
    if name == "sgd":
        return optim.chain(
            optim.add_decayed_weights(decay, mask=mask), optim.sgd(schedule, momentum=0.9, nesterov=True)
        )
    raise ValueError(f"--optimizer: expected one of the flag's names, such as adamw, got {name!r}")


def _multiply(count: torch.Tensor, *, schedule: Schedule, factor: float) -> torch.Tensor:
    """Multiplies a schedule by a constant: Adafactor's decay is not scaled by its learning rate."""
    return factor * schedule(count)
