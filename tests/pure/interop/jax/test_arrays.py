"""Arrays, trees and keys across the border: exact, copied, or refused by path."""

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

NARROW = tuple(t for t, j in SHARED_DTYPES.items() if jax.dtypes.canonicalize_dtype(j) == j)
WIDE = tuple(t for t in SHARED_DTYPES if t not in NARROW)
SIZES = (1, 64, 2**22)


class Pair(NamedTuple):
    first: Any
    second: Any


def bits(x: Any) -> tuple:
    """Returns shape, dtype's name and bytes of an array of either library."""
    if isinstance(x, torch.Tensor):
        flat = torch.empty(x.shape, dtype=x.dtype).copy_(x).reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes() if x.numel() else b""
        return tuple(x.shape), str(x.dtype).removeprefix("torch."), content
    return x.shape, str(x.dtype), np.asarray(x).tobytes()


def address(x: Any) -> int:
    return x.data_ptr() if isinstance(x, torch.Tensor) else x.unsafe_buffer_pointer()


@st.composite
def tensors(draw: Callable) -> torch.Tensor:
    """Tensors of any bits, any shape with empty and 0-d ones, and any layout in memory."""
    dtype = draw(st.sampled_from(NARROW))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(shape, dtype=int))
    content = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, count * dtype.itemsize, np.uint8
    )
    content = content % 2 if dtype == torch.bool else content
    x = torch.frombuffer(bytearray(content.tobytes() or b"0" * 8), dtype=dtype)[:count].reshape(shape)
    form = draw(st.sampled_from(("as it is", "transposed", "every second", "expanded")))
    if form == "transposed" and x.dim() > 1:
        return x.transpose(0, -1)
    if form == "every second" and x.dim():
        return x[::2]
    if form == "expanded":
        return x.expand(2, *x.shape)
    return x


TREES = st.recursive(
    st.one_of(tensors(), st.none(), st.integers(0, 9)),
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
def test_a_tree_goes_there_and_back(given_tree: Any) -> None:
    there = to_jax(given_tree)
    back = to_torch(there)
    assert tree.structure(there) == tree.structure(back) == tree.structure(given_tree)
    assert jax.tree.leaves(there) == [] or len(jax.tree.leaves(there)) == len(tree.leaves(given_tree))
    for x, y, z, w in zip(
        tree.leaves(given_tree), tree.leaves(there), jax.tree.leaves(there), tree.leaves(back), strict=True
    ):
        assert y is z
        if isinstance(x, int):
            assert x == y == w
        else:
            assert isinstance(y, jax.Array)
            assert bits(x) == bits(y) == bits(w)
            assert w.is_contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_copy_is_a_copy(size: int, dtype: torch.dtype) -> None:
    source = torch.ones(size, dtype=dtype)
    there = to_jax(source)
    total = jax.jit(jnp.sum)(there.astype(jnp.float32))
    source.zero_()
    assert address(there) != address(source)
    assert float(total) == float(there.astype(jnp.float32).sum()) == size

    back = to_torch(there)
    assert address(back) != address(there)
    back.zero_()
    assert float(there.astype(jnp.float32).sum()) == size

    # Mixed trees: what is in the right library already is copied too.
    again, tensor = to_jax(there), to_torch(source)
    there.delete()
    tensor.fill_(2)
    assert float(again.astype(jnp.float32).sum()) == size
    assert not source.any()


@pytest.mark.parametrize("size", SIZES)
def test_numpy_is_copied(size: int) -> None:
    source = np.ones(size, np.float32)
    there, tensor = to_jax(source), to_torch(source)
    source[:] = 0
    assert float(there.sum()) == float(tensor.sum()) == size
    tensor.zero_()
    assert float(there.sum()) == size


@pytest.mark.parametrize("size", SIZES)
def test_zero_copy_shares(size: int) -> None:
    source = torch.ones(size)
    there = to_jax(source, zero_copy=True)
    back = to_torch(there, zero_copy=True)
    assert address(source) == address(there) == address(back)
    assert to_jax(there, zero_copy=True) is there
    assert to_torch(source, zero_copy=True) is source


def test_zero_copy_waits_for_the_numbers() -> None:
    x = jax.jit(lambda x: (x @ x @ x).sum(0))(jnp.full((600, 600), 1 / 600))
    assert torch.allclose(to_torch(x, zero_copy=True), torch.full((600,), 1 / 600) * 600)


@pytest.mark.parametrize(
    ("leaf", "words"),
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
def test_zero_copy_refuses_what_would_be_copied(leaf: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"leaf 'a/1' .*{words}"):
        to_jax({"a": [torch.ones(1), leaf]}, zero_copy=True)
    assert to_jax(leaf).shape == tuple(leaf.shape)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_64_bits_are_refused_or_exact(dtype: torch.dtype) -> None:
    x = torch.tensor([1, 2], dtype=torch.int64).to(dtype)
    for leaf in (x, x[0], np.asarray(x), np.asarray(x)[0]):
        with pytest.raises(ValueError, match=r"leaf 'a' is \w+64.*would cut to.*jax_enable_x64|complex128"):
            to_jax({"a": leaf})
    with jax.enable_x64(True):
        assert bits(to_jax(x)) == bits(x)
        assert bits(to_torch(to_jax(x))) == bits(x)


def traced_by_jax(convert: Callable) -> None:
    jax.jit(lambda x: convert({"p": {"w": x}}) and x)(jnp.ones(2))


def traced_by_torch(convert: Callable) -> None:
    torch.func.vmap(lambda x: convert({"p": {"w": x}}) and x)(torch.ones(2))


def donated() -> jax.Array:
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
    "frozen": (to_jax, flax.core.freeze({"a": 1}), "FrozenDict.*unfreeze"),
    "frozen there": (to_torch, flax.core.freeze({"a": 1}), "FrozenDict.*unfreeze"),
    "deleted": (to_torch, donated(), "donated or deleted"),
    "deleted here": (to_jax, donated(), "donated or deleted"),
    "int4": (to_torch, jnp.ones(2, jnp.int4), "int4, which torch has not"),
    "numpy e3m4": (to_torch, np.ones(2, ml_dtypes.float8_e3m4), "torch has not"),
    "typed key": (to_torch, jax.random.key(0), "typed key.*key_to_torch"),
    "float0": (to_torch, np.zeros(2, jax.dtypes.float0), "torch has not"),
    "shape only": (to_torch, jax.ShapeDtypeStruct((2,), jnp.float32), "ShapeDtypeStruct"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_leaf_is_refused_by_its_path(name: str) -> None:
    convert, leaf, words = REFUSED[name]
    for zero_copy in (False, True):
        with pytest.raises(
            (TypeError, ValueError), match=rf"^{convert.__name__}: leaf 'p/w' .*{words}"
        ) as error:
            convert({"p": {"w": leaf}}, zero_copy=zero_copy)
        assert "\n" not in str(error.value)


def test_traced_leaves_are_refused_by_their_path() -> None:
    with pytest.raises(TypeError, match=r"leaf 'p/w' is traced.*torch_fn_in_jax"):
        traced_by_jax(to_torch)
    with pytest.raises(TypeError, match="leaf 'p/w' is traced"):
        traced_by_jax(to_jax)
    with pytest.raises(TypeError, match=r"leaf 'p/w' is inside a transform.*jax_fn_in_torch"):
        traced_by_torch(to_jax)


def test_a_tree_that_is_one_array_has_no_path() -> None:
    with pytest.raises(ValueError, match="to_jax: the array is int64"):
        to_jax(torch.arange(3))


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_keys_draw_the_same_numbers(shape: tuple[int, ...]) -> None:
    keys = random.split(random.key(3), shape) if shape else random.key(3)
    typed = jax.random.split(jax.random.key(3), shape) if shape else jax.random.key(3)
    assert bool((key_to_jax(keys) == typed).all())
    raw = key_to_jax(keys, typed=False)
    for theirs in (typed, raw, np.asarray(raw)):
        assert torch.equal(key_to_torch(theirs), keys)


def test_what_is_no_key_is_refused() -> None:
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: pure.interop.jax needs JAX, which is not installed: pip install 'intro2llm[jax]'"
    )


def test_sharded_arrays_are_gathered() -> None:
    """On two simulated devices, which need a process of their own."""
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
