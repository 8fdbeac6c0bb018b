"""KTO's stage against a loop over answers: z₀ of mismatched answers, the loss, and TRL's metrics."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.ghost import per_sample_norms
from pure.transform.per_sample import per_sample_grad
from pure.types import Tree
from stages.kto import kto, mismatched
from stages.run.validation import mean_loss
from stages.stage import loss_of
from tests.laws.test_stages import ROWS, answers, same_bits, small

MODEL = transformer(small())
REFERENCE, POLICY = MODEL.init(random.key(77)), MODEL.init(random.key(0))
OPTIONS = {"beta": 2.0, "desirable_weight": 1.5, "undesirable_weight": 0.75}


def prompt_and_answer(batch: Tree, row: int) -> tuple[list[int], list[int]]:
    """Prompt and answer of a row, as lists of ids."""
    labels = batch["labels"][row].tolist()
    first = next(i for i, label in enumerate(labels) if label >= 0)
    return batch["tokens"][row, : first + 1].tolist(), [label for label in labels if label >= 0]


def logp(params: Tree, prompt: list[int], answer: list[int]) -> float:
    """Log-probability of the answer after the prompt; the text is cut to the length of a row."""
    text = (prompt + answer)[: small().max_position_embeddings]
    logps = MODEL.forward(params, torch.tensor([text]))[0].double().log_softmax(-1)
    return sum(logps[i - 1, text[i]].item() for i in range(len(prompt), len(text)))


def loop_over_answers(policy: Tree, batch: Tree) -> tuple[float, list[float], list[float]]:
    """z₀, the log-ratios and the losses, as in TRL's KTOTrainer (but for its order of mismatches)."""
    rows = [row for row in range(ROWS) if (batch["labels"][row] >= 0).any()]
    texts = [prompt_and_answer(batch, row) for row in rows]
    row_length = batch["tokens"].shape[1] + 1

    def log_ratio(prompt: list[int], answer: list[int]) -> float:
        return logp(policy, prompt, answer) - logp(REFERENCE, prompt, answer)

    swapped = [(texts[i][0], texts[(i + 1) % len(texts)][1]) for i in range(len(texts))]
    swapped_ratios = [log_ratio(prompt, answer[: row_length - len(prompt)]) for prompt, answer in swapped]
    estimate = max(0.0, sum(swapped_ratios) / len(texts))
    ratios = [log_ratio(prompt, answer) for prompt, answer in texts]
    losses = []
    for row, x in zip(rows, ratios, strict=True):
        sign, weight = (1, 1.5) if batch["desirable"][row] else (-1, 0.75)
        losses.append(weight * (1 - 1 / (1 + math.exp(-2.0 * sign * (x - estimate)))))
    return estimate, ratios, losses


def test_mismatched_gives_each_prompt_the_answer_of_the_next() -> None:
    batch = answers(0)
    tokens, labels = mismatched(batch["tokens"], batch["labels"])
    assert (labels[-1] == -100).all()  # padding
    for row in range(ROWS - 1):
        prompt, _ = prompt_and_answer(batch, row)
        _, answer = prompt_and_answer(batch, (row + 1) % (ROWS - 1))
        found = prompt_and_answer({"tokens": tokens, "labels": labels}, row)
        assert found == (prompt, answer[: len(found[1])])
        assert len(found[1]) == min(len(answer), tokens.shape[1] + 1 - len(prompt))


def test_a_step_equals_the_loop_over_answers() -> None:
    """The policy after some steps, where z₀ is above 0."""
    a_stage = kto(MODEL, optim.adam(1e-2), reference=REFERENCE, **OPTIONS)
    state = functools.reduce(
        a_stage.step, [answers(i) for i in range(6)], a_stage.init(random.key(0), REFERENCE)
    )
    batch = answers(9)
    metrics = a_stage.step(state, batch).metrics
    estimate, ratios, losses = loop_over_answers(state.params, batch)
    assert estimate > 0
    assert metrics["kl"].item() == pytest.approx(estimate, abs=1e-5)
    assert metrics["loss"].item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    means = {}
    for name, expected in (("chosen", True), ("rejected", False)):
        is_desirable = batch["desirable"].tolist()
        chosen = [
            2.0 * x
            for x, desirable in zip(ratios, is_desirable[: len(ratios)], strict=True)
            if desirable == expected
        ]
        means[name] = sum(chosen) / len(chosen)
        assert metrics[f"rewards/{name}"].item() == pytest.approx(means[name], abs=1e-5)
    assert metrics["rewards/margins"].item() == pytest.approx(means["chosen"] - means["rejected"], abs=1e-5)


def test_a_stored_reference_gives_the_same_step() -> None:
    batch = answers(0)
    a_stage = kto(MODEL, optim.sgd(0.1), reference=REFERENCE)
    state = a_stage.init(random.key(0))
    stored = torch.tensor(
        [logp(REFERENCE, *prompt_and_answer(batch, row)) if row < ROWS - 1 else 0.0 for row in range(ROWS)]
    )
    metrics = a_stage.step(state, {**batch, "reference": stored}).metrics
    for name, value in a_stage.step(state, batch).metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5)


def test_validation_uses_the_divergence_of_its_own_batch() -> None:
    """At the reference every loss is a half, whatever the label."""
    a_stage = kto(MODEL, optim.sgd(0.1), reference=REFERENCE)
    assert mean_loss(a_stage, [answers(0), answers(1)])(REFERENCE)["val_loss"] == pytest.approx(0.5)
    assert same_bits(a_stage.init(random.key(0), POLICY).params, POLICY)


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="kto: undesirable_weight must be above 0"):
        kto(MODEL, optim.sgd(0.1), reference=REFERENCE, undesirable_weight=0.0)


@pytest.mark.parametrize("desirable", [True, False])
def test_a_batch_of_one_kind_has_no_margin(desirable: bool) -> None:
    """The mean reward of no answer is 0 in the metrics; its difference from the other mean is no margin."""
    a_stage = kto(MODEL, optim.sgd(0.1), reference=REFERENCE, **OPTIONS)
    batch = answers(0)
    one_kind = {**batch, "desirable": torch.full_like(batch["desirable"], desirable)}
    metrics = a_stage.step(a_stage.init(random.key(0)), one_kind).metrics
    assert metrics["rewards/margins"].isnan()
    assert metrics["loss"].isfinite()


@pytest.mark.parametrize("measure", [per_sample_grad, per_sample_norms])
def test_gradients_of_single_answers_need_the_divergence_of_the_batch(measure: Callable) -> None:
    """Alone, each answer would estimate z₀ from itself."""
    model = transformer(small(num_hidden_layers=1))
    made = kto(model, optim.sgd(0.1), reference=model.init(random.key(7)), beta=1.0)
    params, batch, key = model.init(random.key(1)), answers(0), random.key(0)
    loss = loss_of(made)
    with pytest.raises(
        ValueError, match="an answer alone has no other prompt to estimate z₀ from; give the rows"
    ):
        measure(loss)(params, batch, key)
    total, count = loss(params, {"batch_position": torch.arange(8), **batch}, None)[2]["kl"]
    batch["divergence"] = (total / count).expand(8)
    found = measure(loss)(params, batch, key)
    assert all(len(x) == 8 for x in tree.leaves(found))
