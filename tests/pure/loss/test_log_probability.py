"""`pure.loss.log_probability`: compared with torch's log_softmax, with entropy, temperature and chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.log_probability import linear_log_probabilities, log_probabilities
from pure.transform.grad import value_and_grad

LABELS = torch.tensor([[3, -100, 0, 10], [-100, 7, 7, 1], [2, 2, -100, -100]])
VOCABULARY, HIDDEN_SIZE = 11, 5


def project_to_logits(params: Tensor, hidden: Tensor) -> Tensor:
    return hidden @ params.T


def random_inputs() -> tuple[Tensor, Tensor]:
    """Return (params, hidden states)."""
    params = random.normal(random.key(1), (VOCABULARY, HIDDEN_SIZE))
    return params, random.normal(random.key(2), (*LABELS.shape, HIDDEN_SIZE))


def test_log_probabilities_equal_the_log_softmax_at_the_labels() -> None:
    logits = project_to_logits(*random_inputs())
    expected = logits.double().log_softmax(-1).gather(-1, LABELS.clamp(min=0)[..., None])[..., 0]
    found = log_probabilities(logits, LABELS)
    torch.testing.assert_close(
        found.double(), torch.where(LABELS == -100, 0.0, expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_entropies_from_hidden_states_equal_those_of_the_logits(
    chunk: int | None, temperature: float
) -> None:
    params, hidden = random_inputs()
    found = linear_log_probabilities(
        params, hidden, LABELS, logits=project_to_logits, temperature=temperature, entropy=True, chunk=chunk
    )
    logps = (project_to_logits(params, hidden).double() / temperature).log_softmax(-1)
    entropy = torch.where(LABELS == -100, 0.0, -(logps.exp() * logps).sum(-1))
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found.logps, log_probabilities(project_to_logits(params, hidden) / temperature, LABELS)
    )


def test_entropy_is_zero_unless_it_is_requested() -> None:
    assert (linear_log_probabilities(*random_inputs(), LABELS, logits=project_to_logits).entropy == 0).all()


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_change_no_gradient(chunk: int) -> None:
    def total(both: tuple[Tensor, Tensor], chunk: int | None) -> Tensor:
        found = linear_log_probabilities(*both, LABELS, logits=project_to_logits, chunk=chunk, entropy=True)
        return (found.logps * found.entropy).sum()

    whole, cut = (value_and_grad(total)(random_inputs(), size) for size in (None, chunk))
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_ignored_positions_get_no_gradient() -> None:
    _, grad = value_and_grad(lambda x: log_probabilities(x, LABELS).sum())(
        project_to_logits(*random_inputs())
    )
    assert (grad[LABELS == -100] == 0).all()
    assert (grad[LABELS != -100] != 0).any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected labels \[\.\.\.\]"):
        log_probabilities(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        linear_log_probabilities(*random_inputs(), LABELS, logits=project_to_logits, chunk=0)
