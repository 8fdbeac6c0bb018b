"""`reward_function`: every supported signature and return type, and the rewards it gives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from data_pipes.answers.reward_function import (
    Completions,
    check_reward_function,
    compute_rewards,
    takes_batch,
)
from stages.run.rewards.coroutines import gather

ROWS = [{"prompt": "a", "answer": "xx"}, {"prompt": "b", "answer": "y", "level": 3}]
ANSWERS = Completions(["a", "b"], ["xx", "z"], [[1, 1], [2]], ROWS)


class Length:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, prompt: str, completion: str, row: dict) -> float:
        return self.scale * len(completion)


class Batched:
    async def __call__(self, completions: list[str], **columns: object) -> list[int]:
        return [len(text) for text in completions]


async def coroutine_length(prompt: str, completion: str, row: dict) -> int:
    return len(completion)


def answer_matches(completions: list[str], answer: list[str], **_: object) -> list[bool]:
    return [a == c for a, c in zip(answer, completions, strict=True)]


def scaled_length(prompt: str, completion: str, row: dict, *, scale: float) -> float:
    return scale * len(completion)


FORMS: tuple[tuple[str, Callable, list[float]], ...] = (
    ("lambda", lambda p, c, r: len(c), [2, 1]),
    ("partial", functools.partial(scaled_length, scale=0.5), [1, 0.5]),
    ("object", Length(2.0), [4, 2]),
    ("method", Length(3.0).__call__, [6, 3]),
    ("coroutine", coroutine_length, [2, 1]),
    ("object of coroutines, a batch", Batched(), [2, 1]),
    ("truth values", lambda p, c, r: c == r["answer"], [1, 0]),
    ("numpy scalars", lambda p, c, r: np.float32(0.5), [0.5, 0.5]),
    ("torch scalars", lambda p, c, r: torch.tensor(0.25), [0.25, 0.25]),
    ("none", lambda p, c, r: None if p == "a" else 1, [math.nan, 1]),
    ("batch with a column", answer_matches, [1, 0]),
    ("batch, numpy array", lambda prompts, completions: np.arange(2), [0, 1]),
    ("batch, torch tensor", lambda completions: torch.ones(2), [1, 1]),
    ("batch, tuple with none", lambda completions, **_: (None, 2), [math.nan, 2]),
    ("batch, ids", lambda completion_ids: [sum(ids) for ids in completion_ids], [2, 2]),
    ("batch, a column that not all rows have", lambda completions, level: [x or 0 for x in level], [0, 3]),
    ("batch, keywords only", lambda **given: [len(c) for c in given["completions"]], [2, 1]),
)


@pytest.mark.parametrize(("name", "function", "expected"), FORMS, ids=[form[0] for form in FORMS])
def test_each_form_of_reward_function_gives_its_rewards(
    name: str, function: Callable, expected: list[float]
) -> None:
    def fail(text: str) -> None:
        raise AssertionError(text)

    check_reward_function(name, function, ("prompt", "answer", "level"))
    found = compute_rewards(name, function, ANSWERS, on_bad=fail, gather=gather())
    assert takes_batch(function) == ("batch" in name)
    np.testing.assert_array_equal(found, expected)


def test_a_function_gets_messages_when_the_rows_hold_messages() -> None:
    seen: dict = {}

    def record(prompts: list, completions: list, **_: object) -> list[float]:
        seen.update(prompts=prompts, completions=completions)
        return [0.0]

    talk = [{"role": "user", "content": "a"}]
    compute_rewards("record", record, Completions(["a"], ["x"], [[1]], [{"prompt": talk}]), on_bad=print)
    assert seen == {"prompts": [talk], "completions": [[{"role": "assistant", "content": "x"}]]}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda completions: [1.0], "gave 1, expected a list of 2 rewards"),
        (lambda completions: 1.0, "gave a float, expected a list of 2"),
        (lambda completions: None, "gave a NoneType, expected a list of 2"),
        (lambda completions: {"a": 1, "b": 2}, "gave a dict, expected a list of 2"),
    ],
)
def test_a_batch_of_rewards_of_the_wrong_length_is_refused(function: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=f"the reward 'mine' {words}"):
        compute_rewards("mine", function, ANSWERS, on_bad=print)


def test_one_bad_reward_is_reported_and_the_others_are_kept() -> None:
    messages: list[str] = []
    found = compute_rewards("mine", lambda completions: [1e39, 1.0], ANSWERS, on_bad=messages.append)
    assert found[1] == 1
    assert math.isnan(found[0])
    assert messages[0].startswith("the reward 'mine' gave 1e+39; expected a number that is finite in float32")
    raised = compute_rewards("mine", lambda completions: 1 / 0, ANSWERS, on_bad=messages.append)
    assert all(math.isnan(reward) for reward in raised)
    assert "raised ZeroDivisionError: division by zero, for a batch of 2 completions" in messages[1]


def test_one_coroutine_that_raises_does_not_lose_the_other_rewards() -> None:
    async def raises_for_one(prompt: str, completion: str, row: dict) -> float:
        return 1 / (len(completion) - 1)

    messages: list[str] = []
    found = compute_rewards(
        "raises_for_one", raises_for_one, ANSWERS, on_bad=messages.append, gather=gather()
    )
    assert found[0] == 1
    assert math.isnan(found[1])
    assert len(messages) == 1
    with pytest.raises(ValueError, match=r"'later' is a coroutine; give gather="):
        compute_rewards("later", coroutine_length, ANSWERS, on_bad=print)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda completions, solution: 0,
            "takes 'solution', and the rows have no such column; they have answer",
        ),
        (lambda completions, trainer_state: 0, "takes 'trainer_state', and only TRL's trainer passes it"),
        (lambda completion: 0, r"takes \(completion\); expected \(prompt, completion, row\)"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_the_first_answer(
    function: Callable, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check_reward_function("mine", function, ["answer"])
