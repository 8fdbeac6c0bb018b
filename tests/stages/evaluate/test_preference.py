"""The preference task: accuracy and margins equal those that the DPO stage reports."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_pipes.chat.chat import Encoded
from data_pipes.preference import preference_pipe, with_reference
from data_pipes.record_encoding import Pair
from pure import optim, random, tree
from stages.dpo import dpo
from stages.evaluate.preference import preference
from stages.evaluate.task import run_task
from stages.run.validation import mean_loss
from tests.stages.evaluate.small_model import small_model

MODEL, PARAMS, TOKENIZER = small_model(64)[:3]
OTHER_PARAMS = MODEL.init(random.key(5))


def _pairs(count: int = 12) -> list[Pair]:
    """Preference pairs: answers of two to five tokens after prompts of three."""
    draw = np.random.default_rng(0)

    def answer(prompt: np.ndarray, extra: int) -> Encoded:
        row = np.concatenate([prompt, draw.integers(0, 290, 2 + extra)])
        return Encoded(row, np.arange(len(row)) >= 3)

    return [Pair(answer(p, i % 3), answer(p, i % 4)) for i, p in enumerate(draw.integers(0, 290, (count, 3)))]


def test_accuracy_and_margin_equal_those_of_the_dpo_stage() -> None:
    pairs = _pairs()
    pipe = with_reference(
        preference_pipe(pairs, batch_size=4, length=16, key=None, shuffle=False), MODEL, PARAMS
    )
    stage = dpo(MODEL, optim.sgd(0.1), beta=0.5)
    expected = mean_loss(stage, pipe, ("rewards/accuracies", "rewards/margins"))(OTHER_PARAMS)
    found = run_task(preference(MODEL, OTHER_PARAMS, TOKENIZER, pairs, reference=PARAMS)).figures
    assert found["accuracy"].value == pytest.approx(expected["val_rewards/accuracies"])
    assert 0.5 * found["margin"].value == pytest.approx(expected["val_rewards/margins"], rel=1e-4)


def test_a_model_equal_to_its_reference_has_no_margins() -> None:
    task = preference(MODEL, PARAMS, TOKENIZER, _pairs(), reference=tree.map(torch.clone, PARAMS))
    found = run_task(task).figures
    assert (found["accuracy"].value, found["margin"].value) == (0.0, 0.0)


def test_without_a_reference_log_probabilities_are_compared() -> None:
    report = run_task(preference(MODEL, PARAMS, TOKENIZER, _pairs()))
    for sample in report.samples:
        assert sample["margin"] == pytest.approx(sample["logps"][0] - sample["logps"][1])


def test_a_row_without_a_prompt_is_refused() -> None:
    without_prompt = Encoded(np.array([1, 2]), np.array([True, True]))
    with pytest.raises(ValueError, match="expected an answer after a prompt"):
        preference(MODEL, PARAMS, TOKENIZER, [Pair(without_prompt, without_prompt)])
