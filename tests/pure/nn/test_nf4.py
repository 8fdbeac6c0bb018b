"""`pure.nn.nf4`: codes and scales equal those of bitsandbytes, products those of the dequantised matrix."""

from __future__ import annotations

import bitsandbytes.functional as peer
import pytest
import torch

from pure import random
from pure.nn.linear import linear
from pure.nn.nf4 import (
    NF4,
    block_scales,
    dequantize,
    dynamic_code,
    find_nearest,
    nf4_bytes,
    quantize,
    quantize_scales,
)

SHAPES = [(5, 192), (128, 576), (33, 100), (3, 2)]


def random_matrix(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    row_scales = random.uniform(random.key(2), (shape[0], 1)) + 0.1
    return (random.normal(random.key(1), shape) * row_scales).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("double", [True, False])
def test_quantization_equals_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype, double: bool) -> None:
    weight = random_matrix(shape, dtype)
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
    """Check that 8-bit scales are equal, except halfway between two codes, where ours is the nearer."""
    flat = torch.nn.functional.pad(weight.float().flatten(), (0, -weight.numel() % 64))
    centred = flat.reshape(-1, 64).abs().amax(-1) - ours.offset
    superscales = ours.superscales.repeat_interleave(256)[: len(centred)]
    relative, code = centred / superscales, dynamic_code()
    unequal = (ours.scales != theirs) & (superscales > 0)
    our_error, their_error = (
        (relative - code[scales.int()]).abs()[unequal] for scales in (ours.scales, theirs)
    )
    assert (our_error <= their_error).all()
    assert (their_error - our_error < 4e-5).all()
    assert unequal.float().mean() < 0.01


def test_the_dynamic_code_equals_that_of_bitsandbytes() -> None:
    torch.testing.assert_close(dynamic_code(), peer.create_dynamic_map(), rtol=0, atol=0)


def test_the_nearest_level_is_that_of_a_comparison_with_all_and_the_lower_of_two() -> None:
    levels = torch.tensor([-1.0, -0.25, 0.0, 0.5, 1.0])
    x = torch.arange(-48, 49).reshape(1, -1) / 32  # halfway points among them
    expected = (x[..., None] - levels).abs().argmin(-1)  # the first of equals
    assert torch.equal(find_nearest(x, levels), expected)


@pytest.mark.parametrize("count", [1, 256, 300])
def test_quantised_scales_are_within_half_a_gap_of_the_code(count: int) -> None:
    scales = random.uniform(random.key(4), (count,)) + 0.5
    codes, superscales, offset = quantize_scales(scales)
    assert (codes.dtype, codes.shape, len(superscales)) == (torch.uint8, (count,), -(-count // 256))
    packed = NF4(torch.zeros(1, 1, dtype=torch.uint8), codes, superscales, offset)
    widest = dynamic_code().diff().max() / 2
    spread = superscales.repeat_interleave(256)[:count]
    assert ((block_scales(packed) - scales).abs() <= 1.01 * widest * spread + 1e-6).all()
    torch.testing.assert_close(offset.double(), scales.double().mean(), rtol=1e-6, atol=0)


def test_a_quantised_weight_has_no_gradient() -> None:
    for double in (True, False):
        nf4 = quantize(random_matrix((5, 192)).requires_grad_(), double=double)
        assert not any(x is not None and x.requires_grad for x in nf4)


def test_equal_scales_are_restored() -> None:
    scales = torch.full((300,), 0.75)
    packed = NF4(torch.zeros(1, 1, dtype=torch.uint8), *quantize_scales(scales))
    assert torch.equal(block_scales(packed), scales)


def test_the_error_is_at_most_half_the_widest_gap_between_levels() -> None:
    weight = random_matrix((64, 128))
    quantized = quantize(weight, double=False)
    scale = weight.reshape(-1, 64).abs().amax(-1).repeat_interleave(64).reshape(64, 128)
    assert ((dequantize(quantized) - weight).abs() <= 0.152 * scale).all()


def test_a_matrix_of_zeros_is_dequantised_as_zeros() -> None:
    assert not dequantize(quantize(torch.zeros(4, 64))).any()
    assert not dequantize(quantize(torch.zeros(4, 64), double=False)).any()


def test_gradients_equal_those_of_the_dequantised_matrix_also_under_vmap_and_compiled() -> None:
    quantized, x, bias = (
        quantize(random_matrix((5, 192))),
        random.normal(random.key(3), (2, 7, 192)),
        torch.ones(5),
    )
    plain = dequantize(quantized)

    def sum_of_squares(x: torch.Tensor, bias: torch.Tensor, weight: object) -> torch.Tensor:
        return linear(weight, x, bias).square().sum()  # type: ignore[arg-type]

    for ours, expected in zip(
        torch.func.grad(sum_of_squares, (0, 1))(x, bias, quantized),
        torch.func.grad(sum_of_squares, (0, 1))(x, bias, plain),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    each = torch.func.vmap(torch.func.grad(sum_of_squares), (0, None, None))(x, bias, quantized)
    torch.testing.assert_close(each, torch.func.grad(sum_of_squares)(x, bias, plain), rtol=1e-4, atol=1e-4)
    compiled = torch.compile(
        lambda x: torch.func.grad(sum_of_squares)(x, bias, quantized), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), each, rtol=1e-4, atol=1e-4)


def test_a_product_saves_only_the_codes_for_the_backward_pass() -> None:
    quantized, saved_sizes = quantize(random_matrix((128, 576))), []
    x = random.normal(random.key(3), (7, 576)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda y: saved_sizes.append(y.numel()) or y, lambda y: y):
        linear(quantized, x)
    assert sum(saved_sizes) < 128 * 576


def test_nf4_takes_about_a_quarter_of_the_bytes_of_bfloat16() -> None:
    nf4, bfloat16 = nf4_bytes({"layers": [quantize(random_matrix((576, 1536)))]})
    assert bfloat16 == 2 * 576 * 1536
    assert nf4 < 0.27 * bfloat16


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(2, 3), r"expected a matrix \[O, I\] with I even, got \(2, 3\)"),
        (torch.full((2, 2), torch.nan), "is not finite"),
    ],
)
def test_a_matrix_with_an_odd_input_size_or_nan_is_refused(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(weight)


def test_a_matrix_has_the_dtype_that_is_asked_for_and_the_code_the_device() -> None:
    packed = quantize(random_matrix((5, 192)))
    found = dequantize(packed, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, dequantize(packed, torch.float32).bfloat16())
    assert dynamic_code(torch.device("meta")).device.type == "meta"
