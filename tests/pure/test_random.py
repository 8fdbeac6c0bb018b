"""Laws of every sampler in `pure.random`.

Each is a pure function of its key; vmap equals a loop and compiled equals eager; a sample in parts equals the
whole; and memory is that of the result and one block.
"""

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

Sampler = Callable[[Tensor], Tensor]


def ramp(key: Tensor, size: int = 101) -> Tensor:
    """Numbers from -2 to 2 on the key's device."""
    return torch.linspace(-2, 2, size, device=key.device)


def logits(key: Tensor) -> Tensor:
    return ramp(key, 35).reshape(5, 7)


SAMPLERS: dict[str, Sampler] = {
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
OFFSET_SAMPLERS: dict[str, Callable[..., Tensor]] = {  # called with key, shape and offset
    "bits": random.bits,
    "uniform": random.uniform,
    "uniform, scaled": lambda key, shape, offset: random.uniform(
        key, shape, minval=-1, maxval=3, offset=offset
    ),
    "normal": random.normal,
    "truncated_normal": lambda key, shape, offset: random.truncated_normal(key, -1, 2, shape, offset=offset),
    "gumbel": random.gumbel,
}
for_each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
for_each_offset_sampler = pytest.mark.parametrize(
    "sampler", OFFSET_SAMPLERS.values(), ids=OFFSET_SAMPLERS.keys()
)


def identical(a: Tensor, b: Tensor) -> bool:
    """Compare dtype, shape and every value (torch.equal does not support all unsigned types)."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.array_equal(*(x.view(numpy_dtype(x)).numpy() for x in (a, b)))
    )


def numpy_dtype(x: Tensor) -> torch.dtype:
    """The dtype of x, or int16 for bfloat16, which NumPy lacks."""
    return torch.int16 if x.dtype == torch.bfloat16 else x.dtype


@for_each_sampler
def test_the_same_key_gives_the_same_sample_and_another_key_another(sampler: Sampler) -> None:
    key = random.key(3)
    first = sampler(key)
    assert identical(sampler(key), first)
    assert key.tolist() == [0, 3]
    assert not identical(sampler(random.key(4)), first)


@for_each_sampler
def test_sampling_under_vmap_over_keys_equals_a_loop(sampler: Sampler) -> None:
    keys = random.split(random.key(3), 4)
    assert identical(torch.func.vmap(sampler)(keys), torch.stack([sampler(key) for key in keys]))


COMPILED_SAMPLERS = {
    name: SAMPLERS[name]
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


@pytest.mark.parametrize("sampler", COMPILED_SAMPLERS.values(), ids=COMPILED_SAMPLERS.keys())
def test_a_compiled_sampler_equals_eager(sampler: Sampler) -> None:
    torch.compiler.reset()
    key = random.key(3)
    assert identical(torch.compile(sampler, fullgraph=True, backend="aot_eager")(key), sampler(key))


@pytest.mark.parametrize("name", ["fold_in", "uniform, scaled", "permutation"])
def test_a_compiled_sampler_under_vmap_equals_eager(name: str) -> None:
    torch.compiler.reset()
    keys, sampler = random.split(random.key(3), 2), torch.func.vmap(SAMPLERS[name])
    assert identical(torch.compile(sampler, fullgraph=True, backend="aot_eager")(keys), sampler(keys))


@pytest.mark.slow
def test_inductor_equals_eager() -> None:
    """Keys, uniform and normal numbers in one graph: Inductor rounds and overflows as eager code does."""

    def sample_all(key: Tensor) -> tuple[Tensor, ...]:
        keys = random.split(key, 3)
        uniform = torch.func.vmap(lambda k: random.uniform(k, (333,), minval=-0.1, maxval=0.7))(keys)
        return keys, uniform, random.normal(keys[1], (333,))

    torch.compiler.reset()
    key = random.key(3)
    *exact, normal = torch.compile(sample_all, fullgraph=True)(key)
    *expected, expected_normal = sample_all(key)
    assert all(identical(a, b) for a, b in zip(exact, expected, strict=True))
    torch.testing.assert_close(normal, expected_normal, rtol=5e-7, atol=0)


@for_each_offset_sampler
def test_a_sample_from_an_offset_equals_a_slice_of_the_whole_sample(sampler: Callable[..., Tensor]) -> None:
    """Also across blocks, with a tensor as offset, and under vmap."""
    key, start, size = random.key(3), BLOCK["cpu"] - 2, BLOCK["cpu"] + 5
    whole = sampler(key, (2 * BLOCK["cpu"] + 10,), offset=0)
    assert identical(sampler(key, (size,), offset=start), whole[start : start + size])
    assert identical(sampler(key, (9,), offset=torch.tensor(start)), whole[start : start + 9])
    keys = key.expand(2, 2)
    stacked = torch.func.vmap(lambda k: sampler(k, (size,), offset=0))(keys)
    assert identical(stacked, whole[:size].expand(2, -1))


def test_a_compiled_block_is_not_recompiled_for_another_offset() -> None:
    torch.compiler.reset()
    sample_block = torch.compile(
        lambda key, offset: random.normal(key, (64,), offset=offset), fullgraph=True, backend="aot_eager"
    )
    key = random.key(3)
    with torch._dynamo.config.patch(error_on_recompile=True):
        sample = torch.cat([sample_block(key, torch.tensor(start)) for start in range(0, 256, 64)])
    assert identical(sample, random.normal(key, (256,)))


class LargeStorageRecorder(TorchDispatchMode):
    """Records the storages that are larger than one block."""

    def __init__(self) -> None:
        super().__init__()
        self.large: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() > 8 * BLOCK["cpu"]:
                self.large.add(x.untyped_storage().data_ptr())
        return result


@for_each_offset_sampler
def test_the_only_large_storage_of_a_sampler_is_its_result(sampler: Callable[..., Tensor]) -> None:
    with LargeStorageRecorder() as recorder:
        sample = sampler(random.key(3), (4 * BLOCK["cpu"],), offset=0)
    assert recorder.large == {sample.untyped_storage().data_ptr()}


@for_each_sampler
def test_a_sampler_runs_on_the_device_of_its_key(sampler: Sampler) -> None:
    """On the meta device: no value is read back, and no tensor is made on another device."""
    assert sampler(random.key(3, device="meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@for_each_sampler
def test_sampling_on_cuda_equals_cpu_and_does_not_synchronize(sampler: Sampler) -> None:
    key = random.key(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample = sampler(key)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = sampler(random.key(3))
    if expected.is_floating_point():
        torch.testing.assert_close(sample.cpu(), expected, rtol=1e-6, atol=1e-6)
    else:
        assert identical(sample.cpu(), expected)


@pytest.mark.parametrize(
    ("sampler", "message"),
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
def test_bad_arguments_are_refused_with_a_fix(sampler: Sampler, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        sampler(random.key(0))
