"""Scores by Python functions of text, also if they raise, and by a reward model on the same rows."""

from __future__ import annotations

import math

import pytest
import torch

from pure import random
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from stages.online import weighted_sum
from stages.reward import answer_scores
from stages.rollout import Rollouts, arrange
from stages.score import completions, model_score, text_score
from tests.laws.test_stages import small

ROLLOUTS = arrange(
    torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([2, 1]), torch.tensor([[4, 5], [6, 0]]), torch.tensor([2, 1]),
    torch.zeros(2, 2), torch.tensor([1, 0]), (5,),
)  # fmt: skip
ROWS = [{"answer": "f"}, {"answer": "de"}]
DATA = {"decode": lambda ids: "".join(chr(96 + i) for i in ids), "prompts": ["c", "ab"], "rows": ROWS}


def right(prompt: str, completion: str, row: dict) -> float:
    return float(completion == row["answer"])


def length(prompt: str, completion: str, row: dict) -> float:
    return len(prompt) + 10 * len(completion)


def test_functions_see_prompt_completion_and_row() -> None:
    assert completions(ROLLOUTS, DATA["decode"]) == ["de", "f"]
    found = text_score({"right": right, "length": length}, **DATA)(ROLLOUTS)
    assert found.tolist() == [[1, 22], [1, 11]]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda *_: math.nan, "gave nan"), (lambda *_: math.inf, "gave inf"), (lambda *_: 1e39, r"gave 1e\+39"),
        (lambda *_: "1", r"gave '1' \(str\)"), (lambda *_: (1, 2), r"gave \(1, 2\) \(tuple\)"),
        (lambda *_: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_a_bad_reward_names_function_prompt_and_answer(function: object, words: str) -> None:
    with pytest.raises(
        ValueError, match=rf"'mine' {words}.* prompt 'ab' and the completion 'de'.*on_bad_reward skip"
    ):
        text_score({"mine": function}, **DATA)(ROLLOUTS)


def test_none_is_no_error_and_the_others_count() -> None:
    found = text_score({"right": right, "some": lambda p, c, r: None if c == "f" else 2}, **DATA)(ROLLOUTS)
    assert found[0].tolist() == [1, 2]
    assert found[1].isnan().tolist() == [False, True]
    assert weighted_sum(found).tolist() == [3, 1]


def test_a_skipped_score_is_nan_and_reported() -> None:
    messages: list[str] = []
    found = text_score({"right": right, "bad": lambda *_: 1 / 0}, **DATA, on_bad=messages.append)(ROLLOUTS)
    assert found[:, 0].tolist() == [1, 1]
    assert found[:, 1].isnan().all()
    assert len(messages) == 2


def test_a_reward_model_scores_the_rows_as_it_was_trained_on_them() -> None:
    model = scalar_model(transformer(small()))
    params = model.init(random.key(0))
    found = model_score(params, model.score)(ROLLOUTS)
    rows = torch.tensor([[1, 2, 4, 5], [3, 6, 0, 0]])
    labels = torch.tensor([[-100, 4, 5], [6, -100, -100]])
    torch.testing.assert_close(found[:, 0], answer_scores(params, rows[:, :-1], labels, score=model.score))
    assert isinstance(ROLLOUTS, Rollouts)
