"""Log-probabilities against torch's log_softmax, with entropies, temperatures and chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.log_probability import linear_log_probabilities, log_probabilities
from pure.transform.grad import value_and_grad

LABELS = torch.tensor([[3, -100, 0, 10], [-100, 7, 7, 1], [2, 2, -100, -100]])
VOCABULARY, WIDTH = 11, 5


def head(params: Tensor, hidden: Tensor) -> Tensor:
    return hidden @ params.T


def inputs() -> tuple[Tensor, Tensor]:
    return random.normal(random.key(1), (VOCABULARY, WIDTH)), random.normal(
        random.key(2), (*LABELS.shape, WIDTH)
    )


def test_it_is_the_log_softmax_at_the_label() -> None:
    logits = head(*inputs())
    expected = logits.double().log_softmax(-1).gather(-1, LABELS.clamp(min=0)[..., None])[..., 0]
    found = log_probabilities(logits, LABELS)
    torch.testing.assert_close(
        found.double(), torch.where(LABELS == -100, 0.0, expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_from_hidden_states_with_entropy(chunk: int | None, temperature: float) -> None:
    params, hidden = inputs()
    found = linear_log_probabilities(
        params, hidden, LABELS, logits=head, temperature=temperature, entropy=True, chunk=chunk
    )
    logps = (head(params, hidden).double() / temperature).log_softmax(-1)
    entropy = torch.where(LABELS == -100, 0.0, -(logps.exp() * logps).sum(-1))
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.logps, log_probabilities(head(params, hidden) / temperature, LABELS))


def test_entropy_is_left_out_unless_it_is_wanted() -> None:
    assert (linear_log_probabilities(*inputs(), LABELS, logits=head).entropy == 0).all()


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_change_no_gradient(chunk: int) -> None:
    def total(both: tuple[Tensor, Tensor], chunk: int | None) -> Tensor:
        found = linear_log_probabilities(*both, LABELS, logits=head, chunk=chunk, entropy=True)
        return (found.logps * found.entropy).sum()

    whole, cut = (value_and_grad(total)(inputs(), size) for size in (None, chunk))
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_ignored_positions_get_no_gradient() -> None:
    _, grad = value_and_grad(lambda x: log_probabilities(x, LABELS).sum())(head(*inputs()))
    assert (grad[LABELS == -100] == 0).all()
    assert (grad[LABELS != -100] != 0).any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected labels \[\.\.\.\]"):
        log_probabilities(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        linear_log_probabilities(*inputs(), LABELS, logits=head, chunk=0)
