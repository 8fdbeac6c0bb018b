"""`pure.interop.jax.arrays`: conversion of trees and keys is exact and copies, or names the refused leaf."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pure import random, tree
from pure.interop.jax.arrays import key_to_jax, key_to_torch, to_jax, to_torch
from pure.interop.jax.leaf_checks import SHARED_DTYPES

NARROW_DTYPES = tuple(t for t, j in SHARED_DTYPES.items() if jax.dtypes.canonicalize_dtype(j) == j)
# Of 64 bits a number, which JAX narrows to 32 unless jax_enable_x64 is set.
WIDE_DTYPES = tuple(t for t in SHARED_DTYPES if t not in NARROW_DTYPES)
SIZES = (1, 64, 2**22)


class Pair(NamedTuple):
    first: Any
    second: Any


def bits(x: Any) -> tuple:
    """Return shape, name of the dtype and bytes of an array of either library."""
    if isinstance(x, torch.Tensor):
        flat = torch.empty(x.shape, dtype=x.dtype).copy_(x).reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes() if x.numel() else b""
        return tuple(x.shape), str(x.dtype).removeprefix("torch."), content
    return x.shape, str(x.dtype), np.asarray(x).tobytes()


def address(x: Any) -> int:
    return x.data_ptr() if isinstance(x, torch.Tensor) else x.unsafe_buffer_pointer()


@st.composite
def any_tensors(draw: Callable) -> torch.Tensor:
    """Tensors of any bits, any shape with empty and 0-d ones, and any layout in memory."""
    dtype = draw(st.sampled_from(NARROW_DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(shape, dtype=int))
    content = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, count * dtype.itemsize, np.uint8
    )
    content = content % 2 if dtype == torch.bool else content
    x = torch.frombuffer(bytearray(content.tobytes() or b"0" * 8), dtype=dtype)[:count].reshape(shape)
    layout = draw(st.sampled_from(("contiguous", "transposed", "every second", "expanded")))
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, -1)
    if layout == "every second" and x.dim():
        return x[::2]
    if layout == "expanded":
        return x.expand(2, *x.shape)
    return x


TREES = st.recursive(
    st.one_of(any_tensors(), st.none(), st.integers(0, 9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.lists(st.tuples(st.sampled_from("zyx"), inner), max_size=2).map(OrderedDict),
        st.tuples(inner, inner),
    ),
    max_leaves=6,
)


@given(TREES)
def test_a_tree_converted_to_jax_and_back_is_equal(original: Any) -> None:
    in_jax = to_jax(original)
    in_torch = to_torch(in_jax)
    assert tree.structure(in_jax) == tree.structure(in_torch) == tree.structure(original)
    assert jax.tree.leaves(in_jax) == [] or len(jax.tree.leaves(in_jax)) == len(tree.leaves(original))
    converted = tree.leaves(in_jax)
    assert all(x is y for x, y in zip(converted, jax.tree.leaves(in_jax), strict=True))
    for before, between, after in zip(tree.leaves(original), converted, tree.leaves(in_torch), strict=True):
        if isinstance(before, int):
            assert before == between == after
        else:
            assert isinstance(between, jax.Array)
            assert bits(before) == bits(between) == bits(after)
            assert after.is_contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_conversion_copies_in_both_directions(size: int, dtype: torch.dtype) -> None:
    source = torch.ones(size, dtype=dtype)
    in_jax = to_jax(source)
    total = jax.jit(jnp.sum)(in_jax.astype(jnp.float32))
    source.zero_()
    assert address(in_jax) != address(source)
    assert float(total) == float(in_jax.astype(jnp.float32).sum()) == size

    in_torch = to_torch(in_jax)
    assert address(in_torch) != address(in_jax)
    in_torch.zero_()
    assert float(in_jax.astype(jnp.float32).sum()) == size

    # An array that is already of the target library is copied too.
    copied, copied_tensor = to_jax(in_jax), to_torch(source)
    in_jax.delete()
    copied_tensor.fill_(2)
    assert float(copied.astype(jnp.float32).sum()) == size
    assert not source.any()


@pytest.mark.parametrize("size", SIZES)
def test_conversion_of_numpy_arrays_copies(size: int) -> None:
    source = np.ones(size, np.float32)
    in_jax, copied_tensor = to_jax(source), to_torch(source)
    source[:] = 0
    assert float(in_jax.sum()) == float(copied_tensor.sum()) == size
    copied_tensor.zero_()
    assert float(in_jax.sum()) == size


@pytest.mark.parametrize("size", SIZES)
def test_zero_copy_shares_the_memory(size: int) -> None:
    source = torch.ones(size)
    in_jax = to_jax(source, zero_copy=True)
    in_torch = to_torch(in_jax, zero_copy=True)
    assert address(source) == address(in_jax) == address(in_torch)
    assert to_jax(in_jax, zero_copy=True) is in_jax
    assert to_torch(source, zero_copy=True) is source


def test_zero_copy_waits_for_jax_to_finish_computing() -> None:
    x = jax.jit(lambda x: (x @ x @ x).sum(0))(jnp.full((600, 600), 1 / 600))
    assert torch.allclose(to_torch(x, zero_copy=True), torch.full((600,), 1 / 600) * 600)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (torch.ones(4, 4).T, "not contiguous"),
        (torch.ones(8)[::2], "not contiguous"),
        (torch.ones(1).expand(3), "not contiguous"),
        (torch.ones(65)[1:], "multiple of 64 bytes"),
        (torch.ones(3, dtype=torch.complex64).conj(), "conjugated"),
        (np.ones(3, np.float32), "NumPy"),
    ],
    ids=str,
)
def test_zero_copy_refuses_what_would_be_copied(leaf: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"leaf 'a/1' .*{message}"):
        to_jax({"a": [torch.ones(1), leaf]}, zero_copy=True)
    assert to_jax(leaf).shape == tuple(leaf.shape)


@pytest.mark.parametrize("dtype", WIDE_DTYPES, ids=str)
def test_64_bit_arrays_are_refused_without_x64_and_exact_with_it(dtype: torch.dtype) -> None:
    x = torch.tensor([1, 2], dtype=torch.int64).to(dtype)
    for leaf in (x, x[0], np.asarray(x), np.asarray(x)[0]):
        with pytest.raises(ValueError, match=r"leaf 'a' is \w+64.*would cut to.*jax_enable_x64|complex128"):
            to_jax({"a": leaf})
    with jax.enable_x64(True):
        assert bits(to_jax(x)) == bits(x)
        assert bits(to_torch(to_jax(x))) == bits(x)


def convert_inside_jit(convert: Callable) -> None:
    jax.jit(lambda x: convert({"p": {"w": x}}) and x)(jnp.ones(2))


def convert_inside_vmap(convert: Callable) -> None:
    torch.func.vmap(lambda x: convert({"p": {"w": x}}) and x)(torch.ones(2))


def deleted_array() -> jax.Array:
    x = jnp.ones(2)
    x.delete()
    return x


REFUSED = {
    "requires grad": (to_jax, torch.ones(2, requires_grad=True), "requires grad.*detach"),
    "parameter": (to_jax, torch.nn.Parameter(torch.ones(2)), "requires grad.*detach"),
    "meta": (to_jax, torch.ones(2, device="meta"), "without numbers"),
    "sparse": (to_jax, torch.ones(2).to_sparse(), "to_dense"),
    "packed": (to_jax, torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "JAX has not"),
    "text": (to_jax, "text", "is a str"),
    "object": (to_jax, np.array([None]), "NumPy array"),
    "frozen, to jax": (to_jax, flax.core.freeze({"a": 1}), "FrozenDict.*unfreeze"),
    "frozen, to torch": (to_torch, flax.core.freeze({"a": 1}), "FrozenDict.*unfreeze"),
    "deleted, to torch": (to_torch, deleted_array(), "donated or deleted"),
    "deleted, to jax": (to_jax, deleted_array(), "donated or deleted"),
    "int4": (to_torch, jnp.ones(2, jnp.int4), "int4, which torch has not"),
    "numpy e3m4": (to_torch, np.ones(2, ml_dtypes.float8_e3m4), "torch has not"),
    "typed key": (to_torch, jax.random.key(0), "typed key.*key_to_torch"),
    "float0": (to_torch, np.zeros(2, jax.dtypes.float0), "torch has not"),
    "shape only": (to_torch, jax.ShapeDtypeStruct((2,), jnp.float32), "ShapeDtypeStruct"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_leaf_is_named_by_its_path(name: str) -> None:
    convert, leaf, message = REFUSED[name]
    for zero_copy in (False, True):
        with pytest.raises(
            (TypeError, ValueError), match=rf"^{convert.__name__}: leaf 'p/w' .*{message}"
        ) as error:
            convert({"p": {"w": leaf}}, zero_copy=zero_copy)
        assert "\n" not in str(error.value)


def test_traced_leaves_are_refused() -> None:
    with pytest.raises(TypeError, match=r"leaf 'p/w' is traced.*torch_fn_in_jax"):
        convert_inside_jit(to_torch)
    with pytest.raises(TypeError, match="leaf 'p/w' is traced"):
        convert_inside_jit(to_jax)
    with pytest.raises(TypeError, match=r"leaf 'p/w' is inside a transform.*jax_fn_in_torch"):
        convert_inside_vmap(to_jax)


def test_a_single_array_is_refused_without_a_path() -> None:
    with pytest.raises(ValueError, match="to_jax: the array is int64"):
        to_jax(torch.arange(3))


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_converted_keys_equal_those_of_jax(shape: tuple[int, ...]) -> None:
    keys = random.split(random.key(3), shape) if shape else random.key(3)
    typed = jax.random.split(jax.random.key(3), shape) if shape else jax.random.key(3)
    assert bool((key_to_jax(keys) == typed).all())
    raw = key_to_jax(keys, typed=False)
    for theirs in (typed, raw, np.asarray(raw)):
        assert torch.equal(key_to_torch(theirs), keys)


def test_arrays_that_are_not_keys_are_refused() -> None:
    for convert, wrong in (
        (key_to_jax, torch.ones(2)),
        (key_to_torch, jnp.ones(2)),
        (key_to_jax, jnp.ones(2)),
    ):
        with pytest.raises(TypeError, match=r"expected a key.*float32 \[2\]"):
            inspect.unwrap(convert)(wrong)
    with pytest.raises(TypeError, match="one of rbg, whose numbers only JAX draws"):
        key_to_torch(jax.random.key(0, impl="rbg"))
    with jax.threefry_partitionable(False), pytest.raises(ValueError, match="jax_threefry_partitionable"):
        key_to_jax(random.key(0))


def test_without_jax_one_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['jax'] = None; import pure.interop.jax"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stderr.splitlines()[-1] == (
        "ImportError: pure.interop.jax needs JAX, which is not installed: pip install 'intro2llm[jax]'"
    )


def test_sharded_arrays_are_gathered() -> None:
    """In another process, as the number of simulated devices is set before JAX is imported."""
    code = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, torch
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from pure.interop.jax import to_jax, to_torch
mesh = jax.make_mesh((2,), ("data",))
for spec in (P("data"), P()):
    x = jax.device_put(jnp.arange(4), NamedSharding(mesh, spec))
    assert to_torch(x).tolist() == [0, 1, 2, 3]
    assert to_jax(x).sharding.is_equivalent_to(x.sharding, 1)
    try:
        to_torch({"a": x}, zero_copy=True)
    except ValueError as error:
        assert "leaf 'a' is sharded over 2 devices" in str(error)
    else:
        raise AssertionError
x = jax.device_put(jnp.arange(4), jax.devices()[1])
assert to_torch(x).tolist() == to_torch(x, zero_copy=True).tolist() == [0, 1, 2, 3]
with jax.default_device(jax.devices()[1]):
    assert to_jax(torch.ones(2)).devices() == {jax.devices()[1]}
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
