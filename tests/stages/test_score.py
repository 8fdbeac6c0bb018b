"""Scores by Python functions of text, with their errors, and by a reward model on the same rows."""

from __future__ import annotations

import math

import pytest
import torch

from pure import random
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from stages.online import weighted_sum
from stages.reward import answer_scores
from stages.rollout import arrange
from stages.score import decode_completions, model_score, text_score
from tests.laws.test_stages import small

ROLLOUTS = arrange(
    prompts=torch.tensor([[1, 2, 0], [3, 0, 0]]),
    lengths=torch.tensor([2, 1]),
    completions=torch.tensor([[4, 5], [6, 0]]),
    completion_lengths=torch.tensor([2, 1]),
    logps=torch.zeros(2, 2),
    row=torch.tensor([1, 0]),
    stop_tokens=(5,),
)
ROWS = [{"answer": "f"}, {"answer": "de"}]
DATA = {"decode": lambda ids: "".join(chr(96 + i) for i in ids), "prompts": ["c", "ab"], "rows": ROWS}


def is_right(prompt: str, completion: str, row: dict) -> float:
    return float(completion == row["answer"])


def length(prompt: str, completion: str, row: dict) -> float:
    return len(prompt) + 10 * len(completion)


def test_functions_see_prompt_completion_and_row() -> None:
    assert decode_completions(ROLLOUTS, DATA["decode"]) == ["de", "f"]
    scores = text_score({"right": is_right, "length": length}, **DATA)(ROLLOUTS)
    assert scores.tolist() == [[1, 22], [1, 11]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *_: math.nan, "gave nan"), (lambda *_: math.inf, "gave inf"),
        (lambda *_: 1e39, r"gave 1e\+39"),
        (lambda *_: "1", r"gave '1' \(str\)"), (lambda *_: (1, 2), r"gave \(1, 2\) \(tuple\)"),
        (lambda *_: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_an_invalid_reward_names_function_prompt_and_completion(function: object, message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"'mine' {message}.* prompt 'ab' and the completion 'de'.*on_bad_reward skip"
    ):
        text_score({"mine": function}, **DATA)(ROLLOUTS)


def test_a_reward_of_none_is_left_out_of_the_sum() -> None:
    some = lambda prompt, completion, row: None if completion == "f" else 2  # noqa: E731
    scores = text_score({"right": is_right, "some": some}, **DATA)(ROLLOUTS)
    assert scores[0].tolist() == [1, 2]
    assert scores[1].isnan().tolist() == [False, True]
    assert weighted_sum(scores).tolist() == [3, 1]


def test_a_failed_reward_is_nan_and_reported_if_errors_are_skipped() -> None:
    messages: list[str] = []
    functions = {"right": is_right, "bad": lambda *_: 1 / 0}
    scores = text_score(functions, **DATA, on_bad=messages.append)(ROLLOUTS)
    assert scores[:, 0].tolist() == [1, 1]
    assert scores[:, 1].isnan().all()
    assert len(messages) == 2


def test_a_reward_model_scores_the_rows_as_it_was_trained_on_them() -> None:
    model = scalar_model(transformer(small()))
    params = model.init(random.key(0))
    scores = model_score(params, model.score)(ROLLOUTS)
    rows = torch.tensor([[1, 2, 4, 5], [3, 6, 0, 0]])
    labels = torch.tensor([[-100, 4, 5], [6, -100, -100]])
    torch.testing.assert_close(scores[:, 0], answer_scores(params, rows[:, :-1], labels, score=model.score))
