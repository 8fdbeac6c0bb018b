"""Every name of jax.random exists in `pure.random`, or its AttributeError says what to write instead."""

from __future__ import annotations

import types

import jax
import pytest
import torch

from pure import random
from pure.random.names import INSTEAD


def test_every_name_of_jax_random_exists_or_has_a_replacement() -> None:
    public = {
        name
        for name in dir(jax.random)
        if not name.startswith("_") and not isinstance(getattr(jax.random, name), types.ModuleType)
    }
    assert public <= {*random.__all__, *INSTEAD}
    assert not set(random.__all__) & set(INSTEAD)


def test_a_missing_name_raises_an_error_with_its_replacement() -> None:
    with pytest.raises(AttributeError, match=r"pure.random has no PRNGKey; write random.key\(seed\)"):
        random.PRNGKey  # noqa: B018
    with pytest.raises(
        AttributeError, match=r"has no gamma; with JAX installed, .*jax_fn_in_torch\(jax.random.gamma"
    ):
        random.gamma  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'pure.random' has no attribute 'nothing'"):
        random.nothing  # noqa: B018


@pytest.mark.parametrize("name", [name for name, line in INSTEAD.items() if line.startswith("write")])
def test_each_replacement_that_is_code_runs(name: str) -> None:
    values = {
        "shape": (3, 2),
        "seed": 1,
        "n": 5,
        "x": torch.arange(4),
        "key": random.key(0),
        "random": random,
    }
    values |= {"torch": torch, "mean": torch.zeros(2), "cov": torch.eye(2)}
    values |= dict.fromkeys(("sigma", "scale", "concentration", "b"), 2.0)
    assert eval(INSTEAD[name].removeprefix("write "), values) is not None
