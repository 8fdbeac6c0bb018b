"""Torch functions computed by JAX: all dtypes, views of one memory, and stored programs."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest
import torch
from torch import Tensor

from pure import random
from pure.interop.jax import torch_jit
from pure.interop.jax.torch_jit import Programs, jit_torch

DTYPES = (
    "bool",
    "uint8",
    "uint32",
    "int8",
    "int16",
    "int32",
    "int64",
    "bfloat16",
    "float16",
    "float32",
    "float64",
)


def test_every_dtype_crosses_unchanged() -> None:
    values = {name: torch.tensor([[0, 1, 1]]).to(getattr(torch, name)) for name in DTYPES}
    values["int64"][0, 1] = 2**40
    values["float64"][0, 1] = 1 + 1e-12
    numbers: dict = {**values, "key": random.key(7), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    numbers |= {"strided": torch.arange(12.0).view(3, 4).t()[1:, ::2], "n": 3, "name": "x", "none": None}
    result = jit_torch(lambda t: {"same": t, "wide": t["int64"] * 2, "transposed": t["strided"].t()})(numbers)
    assert (result["same"]["n"], result["same"]["name"], result["same"]["none"]) == (3, "x", None)
    for name, x in numbers.items():
        if isinstance(x, Tensor):
            assert result["same"][name].dtype == x.dtype
            assert torch.equal(result["same"][name], x)
    assert result["wide"].tolist() == [[0, 2**41, 2]]
    assert torch.equal(result["transposed"], numbers["strided"].t())
    assert not jax.config.read("jax_enable_x64")


def test_results_stay_when_arguments_are_written_afterwards() -> None:
    step = jit_torch(lambda x: x * 2)
    for size in (1, 64, 1 << 20):
        x = torch.ones(size)
        y = step(x)
        x.zero_()
        assert (y == 2).all()
        assert (step(y) == 4).all()


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Receives an entry for each trace."""
    seen: list = []
    traced = torch_jit.trace_covered
    monkeypatch.setattr(torch_jit, "trace_covered", lambda *a, **k: seen.append(1) or traced(*a, **k))
    return seen


def test_a_stored_program_is_not_traced_again(traces: list) -> None:
    stored: dict[str, bytes] = {}
    programs = Programs(stored.get, stored.__setitem__)
    table = torch.arange(3.0)
    x = torch.ones(2, 3)
    function = lambda tree: {"y": tree["x"] @ table, "n": tree["n"]}  # noqa: E731
    expected = function({"x": x, "n": 4})
    for count in (1, 1, 1):
        result = jit_torch(function, programs=programs)({"x": x, "n": 4})
        assert torch.equal(result["y"], expected["y"])
        assert result["n"] == 4
        assert (len(traces), len(stored)) == (count, 1)
    jit_torch(function, programs=programs)({"x": x, "n": 5})
    jit_torch(function, programs=programs)({"x": x.double()[:1].float(), "n": 4})
    assert (len(traces), len(stored)) == (3, 3)


def test_a_damaged_program_is_traced_again_and_a_large_one_not_stored(traces: list) -> None:
    stored: dict[str, bytes] = {}
    programs = Programs(stored.get, stored.__setitem__)
    x = torch.ones(3)
    jit_torch(lambda x: x + 1, programs=programs)(x)
    (name,) = stored
    whole = stored[name]
    stored[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    assert jit_torch(lambda x: x + 1, programs=programs)(x).tolist() == [2.0] * 3
    assert (len(traces), stored[name]) == (2, whole)
    frozen = torch.ones(600, 600)
    jit_torch(lambda x: x.sum() + frozen, programs=programs)(x)
    assert list(stored) == [name]
