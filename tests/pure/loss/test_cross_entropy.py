"""Cross-entropy against a naive float64 loop, torch's own, and by hand; whole and in chunks."""

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

VOCABULARY, WIDTH = 11, 5
LABELS = torch.tensor([[3, -100, 0, 10], [-100, 7, 7, 1]])


def logits_of(seed: int = 0, scale: float = 3.0) -> Tensor:
    return random.normal(random.key(seed), (*LABELS.shape, VOCABULARY)) * scale


def naive(logits: Tensor, labels: Tensor, smoothing: float, z_loss: float) -> tuple[float, int]:
    """The formula, one position at a time, in Python floats."""
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
def test_equals_the_formula(smoothing: float, z_loss: float) -> None:
    logits = logits_of()
    total, count = cross_entropy(logits, LABELS, label_smoothing=smoothing, z_loss=z_loss)
    expected, positions = naive(logits, LABELS, smoothing, z_loss)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert count == positions == 6


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_equals_torch_in_value_and_gradient(smoothing: float) -> None:
    ours = value_and_grad(lambda x: cross_entropy(x, LABELS, label_smoothing=smoothing).sum)
    peer = value_and_grad(
        lambda x: F.cross_entropy(
            x.flatten(0, 1), LABELS.flatten(), reduction="sum", label_smoothing=smoothing
        )
    )
    torch.testing.assert_close(ours(logits_of()), peer(logits_of()), rtol=1e-5, atol=1e-6)


def test_ignored_positions_get_no_gradient_whatever_they_hold() -> None:
    wild = torch.where((LABELS == -100)[..., None], 1e30, logits_of())
    value, grad = value_and_grad(lambda x: cross_entropy(x, LABELS).sum)(wild)
    assert value.isfinite()
    assert (grad[LABELS == -100] == 0).all()


def test_nothing_but_ignored_labels_is_zero() -> None:
    value, grad = value_and_grad(lambda x: cross_entropy(x, torch.full_like(LABELS, -100)).sum)(logits_of())
    assert value == 0
    assert (grad == 0).all()
    assert cross_entropy(logits_of(), torch.full_like(LABELS, -100)).count == 0


def head(params: dict, hidden: Tensor) -> Tensor:
    return hidden @ params["head"].T


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    params = {"head": random.normal(random.key(1), (VOCABULARY, WIDTH)), "unused": torch.ones(2)}
    hidden = random.normal(random.key(2), (*LABELS.shape, WIDTH))

    def loss(inputs: tuple[dict, Tensor], chunk: int | None) -> Tensor:
        return linear_cross_entropy(
            *inputs, LABELS, logits=head, chunk=chunk, z_loss=1e-3, label_smoothing=0.1
        ).sum

    whole = value_and_grad(partial(loss, chunk=None))((params, hidden))
    cut = value_and_grad(partial(loss, chunk=chunk))((params, hidden))
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_chunks_work_under_vmap_of_grad() -> None:
    params = {"head": random.normal(random.key(1), (VOCABULARY, WIDTH))}
    hidden = random.normal(random.key(2), (*LABELS.shape, WIDTH))

    def loss(head_weight: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return linear_cross_entropy({"head": head_weight}, h[None], y[None], logits=head, chunk=2).sum

    together = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params["head"], hidden, LABELS)
    alone = [torch.func.grad(loss)(params["head"], h, y) for h, y in zip(hidden, LABELS, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = logits_of().bfloat16()
    total, _ = cross_entropy(logits, LABELS)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(naive(logits, LABELS, 0.0, 0.0)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"z_loss": -1.0}, "z_loss must be at least 0"),
    ],
)
def test_weights_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits_of(), LABELS, **options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected labels \[\.\.\.\]"):
        cross_entropy(logits_of(), LABELS[:, :-1])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        linear_cross_entropy({}, logits_of(), LABELS, logits=head, chunk=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_hold_no_logits_until_the_backward_pass_compiled_or_not(compiled: bool) -> None:
    """Nothing that autograd keeps is as large as the logits of one chunk."""
    from pure.transform.jit import jit, region

    params = {"head": random.normal(random.key(1), (VOCABULARY * 40, WIDTH)).requires_grad_()}
    hidden = random.normal(random.key(2), (4, 16, WIDTH)).requires_grad_()
    labels = random.randint(random.key(3), (4, 16), 0, VOCABULARY).long()
    part = region(partial(chunk_cross_entropy, logits=head, options={}))
    kept = []

    def loss(hidden: Tensor) -> Tensor:
        return linear_cross_entropy(params, hidden, labels, logits=head, chunk=8, part=part).sum

    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        (jit(loss, regions=True, backend="aot_eager") if compiled else loss)(hidden)
    assert kept
    assert max(kept) < 8 * VOCABULARY * 40


def test_a_label_that_is_no_word_is_refused_or_nan_where_its_value_is_not_known() -> None:
    for label in (VOCABULARY, -1):
        labels = torch.where(LABELS == 7, label, LABELS)
        total = torch.compile(lambda x, y: cross_entropy(x, y).sum, backend="eager")(logits_of(), labels)
        assert total.isnan()
    mapped = torch.func.vmap(lambda x, y: cross_entropy(x, y).sum)(
        logits_of(), torch.full_like(LABELS, VOCABULARY)
    )
    assert mapped.isnan().all()
    with pytest.raises(
        ValueError, match=f"expected labels in 0 .. {VOCABULARY - 1}, or -100 .* got {VOCABULARY} at"
    ):
        cross_entropy(logits_of(), torch.full_like(LABELS, VOCABULARY))
