"""The laws of every loss's arguments. A new loss is one row of LOSSES.

Each argument in turn gets another shape or dtype: that is refused in a sentence of ours, which names it, or
changes nothing. What the functions promise of their values is tested in `tests/pure/loss/`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.loss.advantages import equal_rewards, group_advantages, leave_one_out
from pure.loss.cross_entropy import cross_entropy, linear_cross_entropy
from pure.loss.dpo import VARIANTS, dpo_loss
from pure.loss.grpo import CLIPS, grpo_loss, policy_metrics
from pure.loss.kl import ESTIMATORS, adaptive_coefficient, kl
from pure.loss.kto import kto_loss, mismatched_divergence
from pure.loss.log_probability import linear_log_probabilities, log_probabilities
from pure.loss.orpo import orpo_loss
from pure.loss.ppo import gae, ppo_policy_loss, ppo_value_loss, whiten
from pure.loss.reward import bradley_terry

SIZE, VOCABULARY = 4, 7
"""B = T, so that a [B] combined with a [B, T] would silently be broadcast over the wrong axis."""

NAN, INF = float("nan"), float("inf")


class Row(NamedTuple):
    name: str
    function: Callable
    arguments: Mapping[str, Tensor]
    bad: Mapping[str, tuple] = {}  # hyperparameters, and values of them that are refused
    empty: bool = True  # no rows are an answer of nothing; False: they are refused


def random_logps(number: int, *shape: int) -> Tensor:
    return -0.5 - random.uniform(random.key(number), shape)


def row(number: int) -> Tensor:
    return random_logps(number, SIZE)


def table(number: int) -> Tensor:
    return random_logps(number, SIZE, SIZE)


MASK = torch.arange(SIZE) < torch.tensor([4, 2, 3, 1])[:, None]
LABELS = torch.arange(SIZE * SIZE).view(SIZE, SIZE) % VOCABULARY
TOKENS = torch.arange(1, SIZE + 1)
PAIRS = {"policy_chosen": row(0), "policy_rejected": row(1)}
REFERENCES = {"reference_chosen": row(2), "reference_rejected": row(3)}
COUNTS = {"chosen_tokens": TOKENS, "rejected_tokens": TOKENS.flip(0)}
POLICY = {"logps": table(0), "old_logps": table(1)}
NOT_POSITIVE, NEGATIVE = (0.0, -1.0, NAN, INF), (-1.0, NAN, INF)


def product(params: Any, hidden: Tensor) -> Tensor:
    return hidden @ torch.ones(3, VOCABULARY, dtype=hidden.dtype).cumsum(1)


HIDDEN = {"hidden": random_logps(5, SIZE, SIZE, 3), "labels": LABELS}
LOSSES = (
    Row("cross_entropy", cross_entropy, {"logits": random_logps(4, SIZE, SIZE, VOCABULARY), "labels": LABELS},
        {"label_smoothing": (1.0, -0.1, NAN), "z_loss": NEGATIVE}),
    Row("linear_cross_entropy", partial(linear_cross_entropy, {}, logits=product), HIDDEN),
    Row("log_probabilities", log_probabilities, {"logits": random_logps(4, SIZE, SIZE, VOCABULARY), "labels": LABELS}),
    Row("linear_log_probabilities", partial(linear_log_probabilities, {}, logits=product), HIDDEN,
        {"temperature": (*NOT_POSITIVE, torch.ones(VOCABULARY))}),
    *(Row(f"dpo_loss-{name}", partial(dpo_loss, variant=name, beta=0.1),
          {**PAIRS, **REFERENCES, **COUNTS}, {"beta": NOT_POSITIVE, "margin": NEGATIVE})
      for name in VARIANTS if name != "simpo"),
    Row("dpo_loss-simpo", partial(dpo_loss, reference_chosen=None, reference_rejected=None, variant="simpo", beta=2.0),
        {**PAIRS, **COUNTS}, {"beta": NOT_POSITIVE, "margin": NEGATIVE}),
    Row("orpo_loss", partial(orpo_loss, beta=0.1), {**PAIRS, **COUNTS}, {"beta": NEGATIVE}),
    Row("kto_loss", partial(kto_loss, beta=0.1),
        {"policy": row(0), "reference": row(1), "desirable": TOKENS > 2, "divergence": torch.tensor(0.1)},
        {"beta": NOT_POSITIVE, "desirable_weight": NOT_POSITIVE, "undesirable_weight": NOT_POSITIVE}),
    Row("mismatched_divergence", mismatched_divergence, {"policy": row(0), "reference": row(1)}, empty=False),
    Row("bradley_terry", bradley_terry, {"chosen": row(0), "rejected": row(1), "margin": TOKENS.float()},
        {"center": NEGATIVE}),
    *(Row(f"kl-{name}", partial(kl, estimator=name), {"policy_logps": table(0), "reference_logps": table(1)})
      for name in ESTIMATORS),
    Row("adaptive_coefficient", partial(adaptive_coefficient, target=6.0, horizon=10.0),
        {"coefficient": torch.tensor(0.1), "divergence": torch.tensor(3.0)},
        {"target": NOT_POSITIVE, "horizon": NOT_POSITIVE, "steps": (0, -1)}),
    Row("group_advantages", group_advantages, {"rewards": table(0)}, {"eps": NEGATIVE}),
    Row("leave_one_out", leave_one_out, {"rewards": table(0)}),
    Row("equal_rewards", equal_rewards, {"rewards": table(0)}),
    *(Row(f"grpo_loss-{name}", partial(grpo_loss, variant=name, max_length=9, beta=0.1),
          {**POLICY, "reference_logps": table(2), "advantages": row(3), "mask": MASK},
          {"beta": NEGATIVE, "clip_low": NEGATIVE, "clip_high": NEGATIVE, "max_length": (0, -1), "dual_clip": (1, NAN)})
      for name in CLIPS),
    Row("policy_metrics", partial(policy_metrics, clip_low=0.2, clip_high=0.2),
        {**POLICY, "advantages": row(3), "mask": MASK}, {"clip_low": NEGATIVE, "clip_high": NEGATIVE}),
    Row("gae", gae, {"rewards": table(0), "values": table(1), "mask": MASK},
        {"gamma": (-0.1, 1.1, NAN), "lam": (-0.1, 1.1, NAN)}),
    Row("whiten", whiten, {"x": table(0), "mask": MASK}, {"eps": NEGATIVE}),
    Row("ppo_policy_loss", ppo_policy_loss, {**POLICY, "advantages": table(2), "mask": MASK}, {"clip": NOT_POSITIVE}),
    Row("ppo_value_loss", ppo_value_loss,
        {"values": table(0), "old_values": table(1), "returns": table(2), "mask": MASK}, {"clip": NOT_POSITIVE}),
)  # fmt: skip
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def call_unwrapped(loss: Row, **changes: Any) -> list[Tensor]:
    """The leaves of what it gives, called as it is outside the tests: these check docstrings before it
    does."""
    function, bound = loss.function, {}
    if isinstance(function, partial):
        bound, args, function = dict(function.keywords), function.args, function.func
        function = partial(inspect.unwrap(function), *args)
    else:
        function = inspect.unwrap(function)
    return tree.leaves(function(**(bound | dict(loss.arguments) | changes)))


def other_shapes(x: Tensor) -> Iterator[Tensor]:
    """Shapes that torch would broadcast, and shapes that it would not."""
    yield x[..., None]
    yield x[None]
    if x.ndim:
        yield x[..., :1]
        yield x[..., :-1]
        yield x[:1]
        yield x[:-1]
        yield x[0]
        yield torch.cat([x, x])


def other_dtypes(x: Tensor) -> Iterator[Tensor]:
    """A mask of 0 and 1, labels as floats, log-probabilities as integers."""
    yield x.float() if not x.is_floating_point() else x.long()
    yield x.long() if x.dtype == torch.bool else x.bool()


def all_close(found: list[Tensor], expected: list[Tensor], rtol: float = 0.0) -> bool:
    return len(found) == len(expected) and all(
        x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=rtol, atol=rtol, equal_nan=True)
        for x, y in zip(found, expected, strict=True)
    )


@every_loss
def test_another_shape_or_dtype_is_refused_by_name_or_means_the_same(loss: Row) -> None:
    """A single argument may have any size; several must have sizes that fit."""
    right = call_unwrapped(loss)
    for name, x in loss.arguments.items():
        for other in [*other_shapes(x), *other_dtypes(x)]:
            if (name == "hidden" and other.shape[:-1] == x.shape[:-1]) or (
                name == "margin" and not other.ndim
            ):
                continue  # another width is `logits`' to refuse; a margin may be one number
            found = outcome(loss, {name: other})
            if isinstance(found, Exception):
                assert refused_by_us(str(found), loss.name), (name, other.shape, other.dtype, found)
            else:
                alone = len(loss.arguments) == 1 and other.ndim == x.ndim
                assert alone or all_close(found, right), (name, other.shape, other.dtype)


def outcome(loss: Row, changes: dict[str, Any]) -> list[Tensor] | Exception:
    try:
        return call_unwrapped(loss, **changes)
    except (ValueError, TypeError) as error:
        return error


def refused_by_us(message: str, name: str) -> bool:
    """A loss that is computed by another may leave it to that one."""
    whole = name.split("-")[0]
    return message.startswith((f"{whole}: expected", f"{whole.removeprefix('linear_')}: expected"))


@every_loss
def test_half_precision_is_computed_in_float32(loss: Row) -> None:
    halves = {name: x.half() for name, x in loss.arguments.items() if x.is_floating_point()}
    exact = {name: x.float() for name, x in halves.items()}
    found = call_unwrapped(loss, **halves)
    assert all(x.dtype in (torch.float32, torch.bool) for x in found)
    assert all_close(found, call_unwrapped(loss, **exact), rtol=2e-3 if "linear" in loss.name else 1e-6)


@every_loss
def test_a_number_out_of_range_is_refused_by_name_and_a_tensor_is_not_looked_at(loss: Row) -> None:
    for name, values in loss.bad.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                call_unwrapped(loss, **{name: value})
        with pytest.raises((ValueError, TypeError), match=rf"{name}|'{name.removeprefix('clip_')}'"):
            call_unwrapped(loss, **{name: torch.ones(SIZE)})
    for name in loss.bad:
        at = 1.25 if name in ("dual_clip", "max_length", "steps") else 0.25
        if (loss.name, name) == ("grpo_loss-cispo", "dual_clip"):
            continue
        tensor, expected = torch.tensor(at), call_unwrapped(loss, **{name: at})
        assert all_close(call_unwrapped(loss, **{name: tensor}), expected, rtol=1e-6), name
        traced = torch.compile(
            lambda x, name=name: call_unwrapped(loss, **{name: x}), backend="eager", fullgraph=True
        )
        torch._dynamo.reset()
        assert all_close(traced(tensor), expected, rtol=1e-6), name


@every_loss
def test_none_for_a_tensor_is_refused_by_name(loss: Row) -> None:
    for name in loss.arguments:
        if name in ("chosen_tokens", "rejected_tokens") and "dpo" in loss.name:
            continue  # only the variants that divide by them need them, and say so
        with pytest.raises((TypeError, ValueError)) as found:
            call_unwrapped(loss, **{name: None})
        assert any(
            words in str(found.value)
            for words in (
                f"{name} to be a tensor",
                f"{name} must be a number",
                "needs reference_logps",
                "takes both references",
                f"parameter '{name}'",  # of a private function, whose types the tests check
            )
        )


@every_loss
def test_no_rows_are_an_answer_of_nothing_or_refused(loss: Row) -> None:
    nothing = {name: x[:0] for name, x in loss.arguments.items() if x.ndim}
    if not loss.empty:
        with pytest.raises(ValueError, match="at least one"):
            call_unwrapped(loss, **nothing)
        return
    for x in call_unwrapped(loss, **nothing):
        assert x.numel() == 0 or bool((x == 0).all()) or loss.name == "adaptive_coefficient"
