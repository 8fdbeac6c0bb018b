"""`pure/transform/modes.py`: every way to carry a tangent is seen, and every way to have no values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from pure.transform.grad import grad
from pure.transform.modes import has_values, is_forward_mode

X = torch.tensor([2.0, 3.0])


def by_dual_numbers(function: Callable, x: Tensor, tangent: Tensor) -> Tensor:
    """The derivative along a tangent by torch's own dual numbers."""
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent


FORWARD: dict[str, Callable] = {
    "jvp": lambda f, x, t: torch.func.jvp(f, (x,), (t,))[1],
    "linearize": lambda f, x, t: torch.func.linearize(f, x)[1](t),
    "dual numbers": by_dual_numbers,
    "jacfwd": lambda f, x, t: torch.func.jacfwd(f)(x) @ t,
    "jvp under make_fx": lambda f, x, t: make_fx(lambda x, t: torch.func.jvp(f, (x,), (t,))[1])(x, t)(x, t),
    "jvp under vmap": lambda f, x, t: torch.func.vmap(lambda x, t: torch.func.jvp(f, (x,), (t,))[1])(
        x[None], t[None]
    )[0],
}


@pytest.mark.parametrize("name", FORWARD)
def test_grad_carries_tangents(name: str) -> None:
    """The derivative of 3 x² is 6 x; a gradient that drops tangents gives 0."""
    tangent = torch.tensor([1.0, -0.5])
    found = FORWARD[name](grad(lambda x: (x**3).sum()), X, tangent)
    torch.testing.assert_close(found, 6 * X * tangent)


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_is_seen(name: str) -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(is_forward_mode())
        return x * 2

    FORWARD[name](function, X, X)
    assert any(seen)
    assert not is_forward_mode()


def test_values_are_absent_under_transforms_tracers_and_for_fake_tensors() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(has_values({"x": x, "none": None}))
        return (x * x).sum()

    torch.func.vmap(function)(X[None])
    torch.func.grad(function)(X)
    make_fx(function)(X)
    torch.compile(function, backend="eager")(X)
    with torch._subclasses.FakeTensorMode() as mode:
        function(mode.from_tensor(X))
    assert not any(seen)
    assert len(seen) == 5
    function(X)
    assert seen[-1]
