"""The laws of the arguments of every loss. A new loss is one row of LOSSES.

Each tensor in turn is replaced by one of another shape or dtype: the loss refuses it in a message that starts
with the loss's name, or returns the same values. The values themselves are tested in `tests/pure/loss/`.
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
from pure.loss.grpo import CLIPS, grpo_loss
from pure.loss.importance import LEVELS, importance_metrics, importance_weights
from pure.loss.kl import ESTIMATORS, adaptive_coefficient, exact_kl, kl
from pure.loss.kto import kto_loss, mismatched_divergence
from pure.loss.log_probability import linear_log_probabilities, log_probabilities
from pure.loss.orpo import orpo_loss
from pure.loss.policy_metrics import policy_metrics
from pure.loss.ppo import gae, ppo_policy_loss, ppo_value_loss
from pure.loss.reward import bradley_terry
from pure.loss.whiten import whiten

SIZE, VOCABULARY = 4, 7
"""B = T = SIZE, so that [B] in place of [B, T] would be broadcast along the wrong axis without an error."""

NAN, INF = float("nan"), float("inf")


class Row(NamedTuple):
    name: str
    function: Callable
    arguments: Mapping[str, Tensor]
    bad: Mapping[str, tuple] = {}  # name of a hyperparameter -> values that are refused
    empty: bool = True  # a batch without rows gives zeros or empty tensors; False: it is refused


def random_logps(seed: int, *shape: int) -> Tensor:
    return -0.5 - random.uniform(random.key(seed), shape)


def random_vector(seed: int) -> Tensor:
    return random_logps(seed, SIZE)


def random_matrix(seed: int) -> Tensor:
    return random_logps(seed, SIZE, SIZE)


MASK = torch.arange(SIZE) < torch.tensor([4, 2, 3, 1])[:, None]
LABELS = torch.arange(SIZE * SIZE).view(SIZE, SIZE) % VOCABULARY
TOKENS = torch.arange(1, SIZE + 1)
PAIRS = {"policy_chosen": random_vector(0), "policy_rejected": random_vector(1)}
REFERENCES = {"reference_chosen": random_vector(2), "reference_rejected": random_vector(3)}
COUNTS = {"chosen_tokens": TOKENS, "rejected_tokens": TOKENS.flip(0)}
POLICY = {"logps": random_matrix(0), "old_logps": random_matrix(1)}
NOT_POSITIVE, NEGATIVE = (0.0, -1.0, NAN, INF), (-1.0, NAN, INF)


def project_to_logits(params: Any, hidden: Tensor) -> Tensor:
    return hidden @ torch.ones(3, VOCABULARY, dtype=hidden.dtype).cumsum(1)


HIDDEN = {"hidden": random_logps(5, SIZE, SIZE, 3), "labels": LABELS}
LOSSES = (
    Row(
        "cross_entropy",
        cross_entropy,
        {"logits": random_logps(4, SIZE, SIZE, VOCABULARY), "labels": LABELS},
        {"label_smoothing": (1.0, -0.1, NAN), "z_loss": NEGATIVE},
    ),
    Row("linear_cross_entropy", partial(linear_cross_entropy, {}, logits=project_to_logits), HIDDEN),
    Row(
        "log_probabilities",
        log_probabilities,
        {"logits": random_logps(4, SIZE, SIZE, VOCABULARY), "labels": LABELS},
    ),
    Row(
        "linear_log_probabilities",
        partial(linear_log_probabilities, {}, logits=project_to_logits),
        HIDDEN,
        {"temperature": (*NOT_POSITIVE, torch.ones(VOCABULARY))},
    ),
    *(
        Row(
            f"dpo_loss-{name}",
            partial(dpo_loss, variant=name, beta=0.1),
            {**PAIRS, **REFERENCES, **COUNTS},
            {"beta": NOT_POSITIVE, "margin": NEGATIVE},
        )
        for name in VARIANTS
        if name != "simpo"
    ),
    Row(
        "dpo_loss-simpo",
        partial(dpo_loss, reference_chosen=None, reference_rejected=None, variant="simpo", beta=2.0),
        {**PAIRS, **COUNTS},
        {"beta": NOT_POSITIVE, "margin": NEGATIVE},
    ),
    Row("orpo_loss", partial(orpo_loss, beta=0.1), {**PAIRS, **COUNTS}, {"beta": NEGATIVE}),
    Row(
        "kto_loss",
        partial(kto_loss, beta=0.1),
        {
            "policy": random_vector(0),
            "reference": random_vector(1),
            "desirable": TOKENS > 2,
            "divergence": torch.tensor(0.1),
        },
        {"beta": NOT_POSITIVE, "desirable_weight": NOT_POSITIVE, "undesirable_weight": NOT_POSITIVE},
    ),
    Row(
        "mismatched_divergence",
        mismatched_divergence,
        {"policy": random_vector(0), "reference": random_vector(1)},
        empty=False,
    ),
    Row(
        "bradley_terry",
        bradley_terry,
        {"chosen": random_vector(0), "rejected": random_vector(1), "margin": TOKENS.float()},
        {"center": NEGATIVE},
    ),
    *(
        Row(
            f"kl-{name}",
            partial(kl, estimator=name),
            {"policy_logps": random_matrix(0), "reference_logps": random_matrix(1)},
        )
        for name in ESTIMATORS
    ),
    Row("exact_kl", exact_kl, {"policy_logits": random_matrix(0), "reference_logits": random_matrix(1)}),
    Row(
        "adaptive_coefficient",
        partial(adaptive_coefficient, target=6.0, horizon=10.0),
        {"coefficient": torch.tensor(0.1), "divergence": torch.tensor(3.0)},
        {"target": NOT_POSITIVE, "horizon": NOT_POSITIVE, "steps": (0, -1)},
    ),
    Row("group_advantages", group_advantages, {"rewards": random_matrix(0)}, {"eps": NEGATIVE}),
    Row("leave_one_out", leave_one_out, {"rewards": random_matrix(0)}),
    Row("equal_rewards", equal_rewards, {"rewards": random_matrix(0)}),
    *(
        Row(
            f"grpo_loss-{name}",
            partial(grpo_loss, variant=name, max_length=9, beta=0.1),
            {**POLICY, "reference_logps": random_matrix(2), "advantages": random_vector(3), "mask": MASK},
            {
                "beta": NEGATIVE,
                "clip_low": NEGATIVE,
                "clip_high": NEGATIVE,
                "max_length": (0, -1),
                "dual_clip": (1, NAN),
            },
        )
        for name in CLIPS
    ),
    Row(
        "grpo_loss-weighted",
        partial(grpo_loss, beta=0.1),
        {
            **POLICY,
            "reference_logps": random_matrix(2),
            "advantages": random_vector(3),
            "mask": MASK,
            "token_weights": -random_matrix(4),
        },
    ),
    *(
        Row(
            f"importance_weights-{level}",
            partial(importance_weights, level=level, cap=2.0),
            {"logps": random_matrix(0), "sampler_logps": random_matrix(1), "mask": MASK},
            {"cap": NOT_POSITIVE},
        )
        for level in LEVELS
    ),
    Row(
        "importance_metrics",
        partial(importance_metrics, cap=0.5),
        {"weights": -random_matrix(0), "mask": MASK},
        {"cap": NOT_POSITIVE},
    ),
    Row(
        "policy_metrics",
        partial(policy_metrics, clip_low=0.2, clip_high=0.2),
        {**POLICY, "advantages": random_vector(3), "mask": MASK},
        {"clip_low": NEGATIVE, "clip_high": NEGATIVE},
    ),
    Row(
        "gae",
        gae,
        {"rewards": random_matrix(0), "values": random_matrix(1), "mask": MASK},
        {"gamma": (-0.1, 1.1, NAN), "lam": (-0.1, 1.1, NAN)},
    ),
    Row("whiten", whiten, {"x": random_matrix(0), "mask": MASK}, {"eps": NEGATIVE}),
    Row(
        "ppo_policy_loss",
        ppo_policy_loss,
        {**POLICY, "advantages": random_matrix(2), "mask": MASK},
        {"clip": NOT_POSITIVE},
    ),
    Row(
        "ppo_policy_loss-weighted",
        ppo_policy_loss,
        {**POLICY, "advantages": random_matrix(2), "mask": MASK, "token_weights": -random_matrix(4)},
    ),
    Row(
        "ppo_value_loss",
        ppo_value_loss,
        {
            "values": random_matrix(0),
            "old_values": random_matrix(1),
            "returns": random_matrix(2),
            "mask": MASK,
        },
        {"clip": NOT_POSITIVE},
    ),
)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def call_loss(loss: Row, **changes: Any) -> list[Tensor]:
    """Call a loss with its arguments, some of them changed; return the leaves of its result.

    The call goes past the check of shapes in docstrings, which only the tests install.
    """
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
    """Tensors of other dtypes, such as a mask of 0 and 1, labels as floats, log-probabilities as integers."""
    yield x.float() if not x.is_floating_point() else x.long()
    yield x.long() if x.dtype == torch.bool else x.bool()


def all_close(found: list[Tensor], expected: list[Tensor], rtol: float = 0.0) -> bool:
    return len(found) == len(expected) and all(
        x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=rtol, atol=rtol, equal_nan=True)
        for x, y in zip(found, expected, strict=True)
    )


@every_loss
def test_a_wrong_shape_or_dtype_is_refused_or_changes_nothing(loss: Row) -> None:
    """A loss's only tensor may have any size; one of several must fit the others."""
    right = call_loss(loss)
    for name, x in loss.arguments.items():
        for other in [*other_shapes(x), *other_dtypes(x)]:
            if (name == "hidden" and other.shape[:-1] == x.shape[:-1]) or (
                name == "margin" and not other.ndim
            ):
                continue  # the function `logits` refuses another hidden size; a margin may be one number
            found = call_or_error(loss, {name: other})
            if isinstance(found, Exception):
                assert is_refusal_of(str(found), loss.name), (name, other.shape, other.dtype, found)
            else:
                alone = len(loss.arguments) == 1 and other.ndim == x.ndim
                assert alone or all_close(found, right), (name, other.shape, other.dtype)


def call_or_error(loss: Row, changes: dict[str, Any]) -> list[Tensor] | Exception:
    try:
        return call_loss(loss, **changes)
    except (ValueError, TypeError) as error:
        return error


def is_refusal_of(message: str, name: str) -> bool:
    """Test for a message that starts with the name of the loss, or of the loss that it calls."""
    function = name.split("-")[0]
    return message.startswith((f"{function}: expected", f"{function.removeprefix('linear_')}: expected"))


@every_loss
def test_half_precision_is_computed_in_float32(loss: Row) -> None:
    halves = {name: x.half() for name, x in loss.arguments.items() if x.is_floating_point()}
    exact = {name: x.float() for name, x in halves.items()}
    found = call_loss(loss, **halves)
    assert all(x.dtype in (torch.float32, torch.bool) for x in found)
    assert all_close(found, call_loss(loss, **exact), rtol=2e-3 if "linear" in loss.name else 1e-6)


@every_loss
def test_a_hyperparameter_out_of_range_is_refused_and_a_scalar_tensor_equals_a_number(loss: Row) -> None:
    """The range of a number is checked; a tensor's is not, as reading it would break a compiled graph."""
    for name, values in loss.bad.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                call_loss(loss, **{name: value})
        with pytest.raises((ValueError, TypeError), match=rf"{name}|'{name.removeprefix('clip_')}'"):
            call_loss(loss, **{name: torch.ones(SIZE)})
    good = {name: 1.25 if name in ("dual_clip", "max_length", "steps") else 0.25 for name in loss.bad}
    if loss.name == "grpo_loss-cispo":
        del good["dual_clip"]  # cispo has none

    def call_with_each(values: dict[str, Any]) -> dict[str, list[Tensor]]:
        return {name: call_loss(loss, **{name: value}) for name, value in values.items()}

    expected, tensors = call_with_each(good), {name: torch.tensor(x) for name, x in good.items()}
    torch._dynamo.reset()
    compiled = torch.compile(call_with_each, backend="eager", fullgraph=True) if good else call_with_each
    eager_results, compiled_results = call_with_each(tensors), compiled(tensors)
    for name in good:
        assert all_close(eager_results[name], expected[name], rtol=1e-6), name
        assert all_close(compiled_results[name], expected[name], rtol=1e-6), name


@every_loss
def test_none_for_a_tensor_is_refused_by_name(loss: Row) -> None:
    for name in loss.arguments:
        if name in ("chosen_tokens", "rejected_tokens") and "dpo" in loss.name:
            continue  # needed only by variants that divide by them; `tests/pure/loss/test_dpo.py` tests those
        if name == "token_weights":
            continue  # None: every token has weight 1
        with pytest.raises((TypeError, ValueError)) as refused:
            call_loss(loss, **{name: None})
        assert any(
            message in str(refused.value)
            for message in (
                f"{name} to be a tensor",
                f"{name} must be a number",
                "needs reference_logps",
                "takes both references",
                f"parameter '{name}'",  # from the check of types in docstrings, for a private function
            )
        )


@every_loss
def test_an_empty_batch_gives_zeros_or_is_refused(loss: Row) -> None:
    no_rows = {name: x[:0] for name, x in loss.arguments.items() if x.ndim}
    if not loss.empty:
        with pytest.raises(ValueError, match="at least one"):
            call_loss(loss, **no_rows)
        return
    for x in call_loss(loss, **no_rows):
        assert x.numel() == 0 or bool((x == 0).all()) or loss.name == "adaptive_coefficient"
