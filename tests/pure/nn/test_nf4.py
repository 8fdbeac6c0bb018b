"""NF4's codes and scales are bitsandbytes', and its products those of the dequantised matrix."""

from __future__ import annotations

import bitsandbytes.functional as peer
import pytest
import torch

from pure import random
from pure.nn.linear import linear
from pure.nn.nf4 import NF4, dequantize, dynamic_code, nf4_bytes, quantize

SHAPES = [(5, 192), (128, 576), (33, 100), (3, 2)]


def matrix(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rows = random.uniform(random.key(2), (shape[0], 1)) + 0.1
    return (random.normal(random.key(1), shape) * rows).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("double", [True, False])
def test_equals_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype, double: bool) -> None:
    weight = matrix(shape, dtype)
    codes, state = peer.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type="nf4")
    ours = quantize(weight, double=double)
    assert torch.equal(ours.codes.flatten(), codes.flatten())
    if not double:
        assert torch.equal(ours.scales, state.absmax)
        torch.testing.assert_close(
            dequantize(ours, dtype), peer.dequantize_4bit(codes, state), rtol=0, atol=0
        )
    else:
        torch.testing.assert_close(ours.superscales, state.state2.absmax, rtol=0, atol=0)
        torch.testing.assert_close(ours.offset, state.offset, rtol=0, atol=0)
        assert_scales_equal(weight, ours, state.absmax)


def assert_scales_equal(weight: torch.Tensor, ours: NF4, theirs: torch.Tensor) -> None:
    """Equal, but where a scale lies within 2e-5 of the middle between two codes, of which ours is the
    nearer."""
    flat = torch.nn.functional.pad(weight.float().flatten(), (0, -weight.numel() % 64))
    centred = flat.reshape(-1, 64).abs().amax(-1) - ours.offset
    spread = ours.superscales.repeat_interleave(256)[: len(centred)]
    relative, code = centred / spread, dynamic_code()
    other = (ours.scales != theirs) & (spread > 0)
    distances = [(relative - code[found.int()]).abs()[other] for found in (ours.scales, theirs)]
    assert (distances[0] <= distances[1]).all()
    assert (distances[1] - distances[0] < 4e-5).all()
    assert other.float().mean() < 0.01


def test_the_dynamic_code_is_bitsandbytes() -> None:
    torch.testing.assert_close(dynamic_code(), peer.create_dynamic_map(), rtol=0, atol=0)


def test_error_is_that_of_the_nearest_level() -> None:
    weight = matrix((64, 128))
    packed = quantize(weight, double=False)
    scale = weight.reshape(-1, 64).abs().amax(-1).repeat_interleave(64).reshape(64, 128)
    assert (
        (dequantize(packed) - weight).abs() <= 0.152 * scale
    ).all()  # half the widest gap between two levels


def test_a_matrix_of_zeros_comes_back_as_zeros() -> None:
    assert not dequantize(quantize(torch.zeros(4, 64))).any()
    assert not dequantize(quantize(torch.zeros(4, 64), double=False)).any()


def test_product_and_gradients() -> None:
    packed, x, bias = quantize(matrix((5, 192))), random.normal(random.key(3), (2, 7, 192)), torch.ones(5)
    plain = dequantize(packed)

    def total(x: torch.Tensor, bias: torch.Tensor, weight: object) -> torch.Tensor:
        return linear(weight, x, bias).square().sum()  # type: ignore[arg-type]

    for ours, expected in zip(
        torch.func.grad(total, (0, 1))(x, bias, packed),
        torch.func.grad(total, (0, 1))(x, bias, plain),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    each = torch.func.vmap(torch.func.grad(total), (0, None, None))(x, bias, packed)
    torch.testing.assert_close(each, torch.func.grad(total)(x, bias, plain), rtol=1e-4, atol=1e-4)
    compiled = torch.compile(
        lambda x: torch.func.grad(total)(x, bias, packed), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), each, rtol=1e-4, atol=1e-4)


def test_remembers_the_codes_alone() -> None:
    packed, saved = quantize(matrix((128, 576))), []
    x = random.normal(random.key(3), (7, 576)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda y: saved.append(y.numel()) or y, lambda y: y):
        linear(packed, x)
    assert sum(saved) < 128 * 576


def test_size() -> None:
    took, wide = nf4_bytes({"layers": [quantize(matrix((576, 1536)))]})
    assert wide == 2 * 576 * 1536
    assert took < 0.27 * wide


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(2, 3), r"expected a matrix \[O, I\] with I even, got \(2, 3\)"),
        (torch.full((2, 2), torch.nan), "is not finite"),
    ],
)
def test_refuses(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(weight)
