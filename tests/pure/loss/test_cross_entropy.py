"""`pure.loss.cross_entropy`: compared with a float64 loop and with torch; whole and in chunks."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pure import random
from pure.loss.cross_entropy import chunk_cross_entropy, cross_entropy, linear_cross_entropy
from pure.transform.grad import value_and_grad

VOCABULARY, HIDDEN_SIZE = 11, 5
LABELS = torch.tensor([[3, -100, 0, 10], [-100, 7, 7, 1]])


def random_logits(seed: int = 0, scale: float = 3.0) -> Tensor:
    return random.normal(random.key(seed), (*LABELS.shape, VOCABULARY)) * scale


def naive_loss(logits: Tensor, labels: Tensor, smoothing: float, z_loss: float) -> tuple[float, int]:
    """Compute (sum, count) one position at a time, in Python floats."""
    total, count = 0.0, 0
    for row, label in zip(logits.double().flatten(0, -2).tolist(), labels.flatten().tolist(), strict=True):
        if label == -100:
            continue
        log_z = math.log(sum(math.exp(x) for x in row))
        total += log_z - (1 - smoothing) * row[label] - smoothing * sum(row) / len(row) + z_loss * log_z**2
        count += 1
    return total, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_cross_entropy_equals_a_float64_loop(smoothing: float, z_loss: float) -> None:
    logits = random_logits()
    total, count = cross_entropy(logits, LABELS, label_smoothing=smoothing, z_loss=z_loss)
    expected, positions = naive_loss(logits, LABELS, smoothing, z_loss)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert count == positions == 6


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torch_in_value_and_gradient(smoothing: float) -> None:
    ours = value_and_grad(lambda x: cross_entropy(x, LABELS, label_smoothing=smoothing).sum)
    peer = value_and_grad(
        lambda x: F.cross_entropy(
            x.flatten(0, 1), LABELS.flatten(), reduction="sum", label_smoothing=smoothing
        )
    )
    torch.testing.assert_close(ours(random_logits()), peer(random_logits()), rtol=1e-5, atol=1e-6)


def test_ignored_positions_with_huge_logits_get_no_gradient() -> None:
    logits = torch.where((LABELS == -100)[..., None], 1e30, random_logits())
    value, grad = value_and_grad(lambda x: cross_entropy(x, LABELS).sum)(logits)
    assert value.isfinite()
    assert (grad[LABELS == -100] == 0).all()


def test_weights_multiply_the_losses_and_are_counted_where_labels_are() -> None:
    logits, labels = (
        torch.randn(4, 5, generator=torch.Generator().manual_seed(0)),
        torch.tensor([1, -100, 4, 0]),
    )
    weights, before = torch.tensor([2.0, 3.0, 0.0, 0.5]), logits.clone()
    total, count = cross_entropy(logits, labels, weights)
    losses = -logits.double().log_softmax(-1)
    assert total.item() == pytest.approx((2 * losses[0, 1] + 0.5 * losses[3, 0]).item(), rel=1e-6)
    assert count.item() == 2.5
    assert torch.equal(logits, before)


def test_a_batch_of_ignored_labels_has_loss_gradient_and_count_zero() -> None:
    value, grad = value_and_grad(lambda x: cross_entropy(x, torch.full_like(LABELS, -100)).sum)(
        random_logits()
    )
    assert value == 0
    assert (grad == 0).all()
    assert cross_entropy(random_logits(), torch.full_like(LABELS, -100)).count == 0


def project_to_logits(params: dict, hidden: Tensor) -> Tensor:
    return hidden @ params["head"].T


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    params = {"head": random.normal(random.key(1), (VOCABULARY, HIDDEN_SIZE)), "unused": torch.ones(2)}
    hidden = random.normal(random.key(2), (*LABELS.shape, HIDDEN_SIZE))

    def loss(inputs: tuple[dict, Tensor], chunk: int | None) -> Tensor:
        return linear_cross_entropy(
            *inputs, LABELS, logits=project_to_logits, chunk=chunk, z_loss=1e-3, label_smoothing=0.1
        ).sum

    whole = value_and_grad(partial(loss, chunk=None))((params, hidden))
    cut = value_and_grad(partial(loss, chunk=chunk))((params, hidden))
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_vmap_of_the_gradient_of_a_chunked_loss_equals_a_loop() -> None:
    params = {"head": random.normal(random.key(1), (VOCABULARY, HIDDEN_SIZE))}
    hidden = random.normal(random.key(2), (*LABELS.shape, HIDDEN_SIZE))

    def loss(head_weight: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return linear_cross_entropy(
            {"head": head_weight}, h[None], y[None], logits=project_to_logits, chunk=2
        ).sum

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params["head"], hidden, LABELS)
    looped = [torch.func.grad(loss)(params["head"], h, y) for h, y in zip(hidden, LABELS, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(looped), rtol=1e-5, atol=1e-6)


def test_a_loss_of_bfloat16_logits_is_computed_in_float32() -> None:
    logits = random_logits().bfloat16()
    total, _ = cross_entropy(logits, LABELS)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(naive_loss(logits, LABELS, 0.0, 0.0)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"z_loss": -1.0}, "z_loss must be at least 0"),
    ],
)
def test_a_smoothing_or_z_loss_out_of_range_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropy(random_logits(), LABELS, **options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected labels \[\.\.\.\]"):
        cross_entropy(random_logits(), LABELS[:, :-1])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        linear_cross_entropy({}, random_logits(), LABELS, logits=project_to_logits, chunk=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_chunked_loss_saves_no_logits_for_the_backward_pass(compiled: bool) -> None:
    """Every tensor that autograd saves is smaller than the logits of one chunk."""
    from pure.transform.jit import jit, region

    params = {"head": random.normal(random.key(1), (VOCABULARY * 40, HIDDEN_SIZE)).requires_grad_()}
    hidden = random.normal(random.key(2), (4, 16, HIDDEN_SIZE)).requires_grad_()
    labels = random.randint(random.key(3), (4, 16), 0, VOCABULARY).long()
    part = region(partial(chunk_cross_entropy, logits=project_to_logits, options={}))
    saved_sizes = []

    def loss(hidden: Tensor) -> Tensor:
        return linear_cross_entropy(params, hidden, labels, logits=project_to_logits, chunk=8, part=part).sum

    def save(x: Tensor) -> Tensor:
        saved_sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
        (jit(loss, regions=True, backend="aot_eager") if compiled else loss)(hidden)
    assert saved_sizes
    assert max(saved_sizes) < 8 * VOCABULARY * 40


def test_a_label_outside_the_vocabulary_is_refused_or_gives_nan_when_traced() -> None:
    for label in (VOCABULARY, -1):
        labels = torch.where(LABELS == 7, label, LABELS)
        total = torch.compile(lambda x, y: cross_entropy(x, y).sum, backend="eager")(random_logits(), labels)
        assert total.isnan()
    totals = torch.func.vmap(lambda x, y: cross_entropy(x, y).sum)(
        random_logits(), torch.full_like(LABELS, VOCABULARY)
    )
    assert totals.isnan().all()
    with pytest.raises(
        ValueError, match=f"expected labels in 0 .. {VOCABULARY - 1}, or -100 .* got {VOCABULARY} at"
    ):
        cross_entropy(random_logits(), torch.full_like(LABELS, VOCABULARY))
