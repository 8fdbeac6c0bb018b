"""The laws of all that draws: pure; vmap = loop; compiled = eager; pieces = the whole; nothing larger is
held."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pure import random
from pure.random.threefry import BLOCK

Draw = Callable[[Tensor], Tensor]


def ramp(key: Tensor, size: int = 101) -> Tensor:
    """Numbers from -2 to 2 on the key's device."""
    return torch.linspace(-2, 2, size, device=key.device)


def logits(key: Tensor) -> Tensor:
    return ramp(key, 35).reshape(5, 7)


DRAWS: dict[str, Draw] = {
    "split": lambda key: random.split(key, (3, 2)),
    "fold_in": lambda key: random.fold_in(key, 7),
    "bits": lambda key: random.bits(key, (101,)),
    "bits of 16": lambda key: random.bits(key, (101,), torch.uint16),
    "bits of 64": lambda key: random.bits(key, (101,), torch.uint64),
    "uniform": random.uniform,
    "uniform, scaled": lambda key: random.uniform(key, (3, 4), torch.bfloat16, -3, ramp(key, 4)),
    "uniform, float64": lambda key: random.uniform(key, (101,), torch.float64),
    "randint": lambda key: random.randint(
        key, (101,), torch.arange(101, device=key.device), 150, torch.uint8
    ),
    "bernoulli": lambda key: random.bernoulli(key, ramp(key).sigmoid()),
    "bernoulli, high": lambda key: random.bernoulli(key, 0.3, (101,), "high"),
    "permutation": lambda key: random.permutation(key, 1000),
    "permutation of lines": lambda key: random.permutation(key, logits(key), 1, independent=True),
    "normal": lambda key: random.normal(key, (101,)),
    "truncated_normal": lambda key: random.truncated_normal(key, -3, ramp(key)),
    "gumbel": lambda key: random.gumbel(key, (101,), torch.float16),
    "gumbel, high": lambda key: random.gumbel(key, (101,), mode="high"),
    "categorical": lambda key: random.categorical(key, logits(key), shape=(4, 5)),
    "categorical without replacement": lambda key: random.categorical(
        key, logits(key), 0, (4, 7), replace=False
    ),
    "at an offset": lambda key: random.normal(key, (5,), offset=torch.full((), 1 << 33, device=key.device)),
}
IN_PIECES: dict[str, Callable[..., Tensor]] = {
    "bits": random.bits,
    "uniform": random.uniform,
    "uniform, scaled": lambda key, shape, offset: random.uniform(
        key, shape, minval=-1, maxval=3, offset=offset
    ),
    "normal": random.normal,
    "truncated_normal": lambda key, shape, offset: random.truncated_normal(key, -1, 2, shape, offset=offset),
    "gumbel": random.gumbel,
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
in_pieces = pytest.mark.parametrize("draw", IN_PIECES.values(), ids=IN_PIECES.keys())


def assert_same(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every value (torch.equal does not know all unsigned types)."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.array_equal(*(x.view(narrow(x)).numpy() for x in (a, b)))
    )


def narrow(x: Tensor) -> torch.dtype:
    """A type of the same width that NumPy has."""
    return torch.int16 if x.dtype == torch.bfloat16 else x.dtype


@draws
def test_pure(draw: Draw) -> None:
    key = random.key(3)
    first = draw(key)
    assert assert_same(draw(key), first)
    assert key.tolist() == [0, 3]
    assert not assert_same(draw(random.key(4)), first)


@draws
def test_many_keys_at_once_equal_one_by_one(draw: Draw) -> None:
    keys = random.split(random.key(3), 4)
    assert assert_same(torch.func.vmap(draw)(keys), torch.stack([draw(key) for key in keys]))


ONE_OF_EACH = {
    name: DRAWS[name]
    for name in (
        "split",
        "fold_in",
        "bits of 64",
        "uniform, scaled",
        "randint",
        "bernoulli, high",
        "permutation of lines",
        "truncated_normal",
        "gumbel, high",
        "categorical",
        "at an offset",
    )
}


@pytest.mark.parametrize("draw", ONE_OF_EACH.values(), ids=ONE_OF_EACH.keys())
def test_compiled_equals_eager(draw: Draw) -> None:
    torch.compiler.reset()
    key = random.key(3)
    assert assert_same(torch.compile(draw, fullgraph=True, backend="aot_eager")(key), draw(key))


@pytest.mark.parametrize("name", ["fold_in", "uniform, scaled", "permutation"])
def test_compiled_for_many_keys(name: str) -> None:
    torch.compiler.reset()
    keys, draw = random.split(random.key(3), 2), torch.func.vmap(DRAWS[name])
    assert assert_same(torch.compile(draw, fullgraph=True, backend="aot_eager")(keys), draw(keys))


@pytest.mark.slow
def test_inductor_equals_eager() -> None:
    """Keys, uniforms and normals in one graph, whose vector code neither rounds nor overflows in its own
    way."""

    def several(key: Tensor) -> tuple[Tensor, ...]:
        keys = random.split(key, 3)
        uniform = torch.func.vmap(lambda k: random.uniform(k, (333,), minval=-0.1, maxval=0.7))(keys)
        return keys, uniform, random.normal(keys[1], (333,))

    torch.compiler.reset()
    key = random.key(3)
    *exact, normal = torch.compile(several, fullgraph=True)(key)
    *expected, expected_normal = several(key)
    assert all(assert_same(a, b) for a, b in zip(exact, expected, strict=True))
    torch.testing.assert_close(normal, expected_normal, rtol=5e-7, atol=0)


@in_pieces
def test_pieces_equal_the_whole(draw: Callable[..., Tensor]) -> None:
    """In blocks, from any offset, and with an offset that is a tensor."""
    key, start, size = random.key(3), BLOCK["cpu"] - 2, BLOCK["cpu"] + 5
    whole = draw(key, (2 * BLOCK["cpu"] + 10,), offset=0)
    assert assert_same(draw(key, (size,), offset=start), whole[start : start + size])
    assert assert_same(draw(key, (9,), offset=torch.tensor(start)), whole[start : start + 9])
    keys = key.expand(2, 2)
    many = torch.func.vmap(lambda k: draw(k, (size,), offset=0))(keys)
    assert assert_same(many, whole[:size].expand(2, -1))


def test_one_compiled_block_serves_every_place() -> None:
    torch.compiler.reset()
    block = torch.compile(
        lambda key, offset: random.normal(key, (64,), offset=offset), fullgraph=True, backend="aot_eager"
    )
    key = random.key(3)
    with torch._dynamo.config.patch(error_on_recompile=True):
        drawn = torch.cat([block(key, torch.tensor(start)) for start in range(0, 256, 64)])
    assert assert_same(drawn, random.normal(key, (256,)))


class Sizes(TorchDispatchMode):
    """Notes how many tensors with more elements than a block are made."""

    def __init__(self) -> None:
        super().__init__()
        self.large: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() > 8 * BLOCK["cpu"]:
                self.large.add(x.untyped_storage().data_ptr())
        return result


@in_pieces
def test_a_large_draw_holds_its_result_and_blocks(draw: Callable[..., Tensor]) -> None:
    with Sizes() as sizes:
        drawn = draw(random.key(3), (4 * BLOCK["cpu"],), offset=0)
    assert sizes.large == {drawn.untyped_storage().data_ptr()}


@draws
def test_device(draw: Draw) -> None:
    """Meta tensors have no values: nothing is read back, and nothing is made on another device."""
    assert draw(random.key(3, device="meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@draws
def test_cuda_equals_cpu(draw: Draw) -> None:
    key = random.key(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = draw(key)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = draw(random.key(3))
    if expected.is_floating_point():
        torch.testing.assert_close(drawn.cpu(), expected, rtol=1e-6, atol=1e-6)
    else:
        assert assert_same(drawn.cpu(), expected)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda key: random.normal(key, (2, -3)), r"shape must have lengths of at least 0, got \(2, -3\)"),
        (
            lambda key: random.uniform(key, (3,), torch.int32),
            "float32, float16, bfloat16 or float64, got torch.int32",
        ),
        (
            lambda key: random.uniform(key, (3,), minval=torch.zeros(4)),
            r"\[4\] does not broadcast to shape \[3\]",
        ),
        (
            lambda key: random.uniform(key, (), maxval=torch.ones(4)),
            r"\[4\] does not broadcast to shape \[\]",
        ),
        (lambda key: random.uniform(key, (3,), offset=-1), "offset must be at least 0, got -1"),
        (lambda key: random.bits(key, (3,), torch.int32), "uint8, uint16, uint32 or uint64, got torch.int32"),
        (
            lambda key: random.randint(key, (3,), 0, 9, torch.int64),
            "at most 32 bits, got torch.int64; use int32",
        ),
        (
            lambda key: random.randint(key, (3,), 0, 9, torch.float32),
            "integer of at most 32 bits, got torch.float32",
        ),
        (
            lambda key: random.randint(key, (3,), torch.tensor(0.5), 9),
            "bounds must be integers, .*; use random.uniform",
        ),
        (lambda key: random.bernoulli(key, 1), "p must be a float or a tensor of floats, got 1; convert"),
        (lambda key: random.bernoulli(key, 0.5, (3,), "medium"), 'mode must be "low" or "high"'),
        (lambda key: random.gumbel(key, (3,), mode="highest"), 'mode must be "low" or "high"'),
        (lambda key: random.gumbel(key, (3,), mode="high", offset=3), "has no offset"),
        (
            lambda key: inspect.unwrap(random.categorical)(key, logits(key).long()),
            "logits must be floats, got torch.int64",
        ),
        (lambda key: random.categorical(key, logits(key), shape=(7,)), r"must end in \(5,\), .* got \(7,\)"),
        (
            lambda key: random.categorical(key, logits(key), shape=(8, 5), replace=False),
            "8 draws .* from 7; draw at most 7",
        ),
        (lambda key: random.permutation(key, -1), "x must be at least 0, got -1"),
        (lambda key: random.split(key, -1), "num must be at least 0, got -1"),
        (lambda key: random.fold_in(key, -1), r"in \[0, 2\*\*32\), got -1; take it modulo"),
        (lambda key: random.fold_in(key, 1 << 32), r"in \[0, 2\*\*32\), got 4294967296"),
        (lambda key: random.fold_in(key, torch.tensor(0.5)), r"one integer, got torch.float32 \[\]"),
        (
            lambda key: random.fold_in(key, torch.arange(3)),
            r"one integer, got torch.int64 \[3\]; for many use .*vmap",
        ),
        (
            lambda key: random.key(1 << 63),
            r"at most 64 bits, got 9223372036854775808; take it modulo 2\*\*32",
        ),
        (lambda key: random.key(torch.arange(3)), "one integer"),
    ],
)
def test_refusals_tell_the_fix(draw: Draw, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        draw(random.key(0))
