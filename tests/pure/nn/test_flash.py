"""Memory of flash attention, which does not grow with the square of the length."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pure import random
from pure.nn.flash import flash
from pure.nn.naive import naive


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            self.numel = max(self.numel, x.numel() if isinstance(x, Tensor) else 0)
        return out


def inputs(length: int) -> list[Tensor]:
    shapes = [(1, length, heads, 4) for heads in (2, 1, 1)]
    return [random.normal(random.key(i), shape).requires_grad_() for i, shape in enumerate(shapes)]


def largest(way: Callable, length: int) -> int:
    """Elements of the largest tensor, forward and backward."""
    given = inputs(length)
    with Largest() as seen:
        torch.autograd.grad(way(*given).square().sum(), given)
    return seen.numel


def saved(way: Callable, length: int) -> int:
    """Elements kept for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    given = inputs(length)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = way(*given)
    assert y.shape == given[0].shape
    return sum(kept.values())


@pytest.mark.parametrize("measure", [largest, saved])
def test_memory_grows_with_the_length_and_not_with_its_square(
    measure: Callable[[Callable, int], int],
) -> None:
    way = partial(flash, tile=32)
    assert measure(way, 512) <= 2.1 * measure(way, 256)
    assert measure(way, 512) <= measure(naive, 512) / 4
    assert measure(naive, 512) > 3.5 * measure(naive, 256)


def test_the_gradient_of_the_logarithm_of_the_sum() -> None:
    """The second result of the function carries gradient as well, for who combines parts of attention."""
    from pure.nn.flash import _flash

    q, k, v = (random.normal(random.key(i), (1, 1, 6, 4)).double().requires_grad_() for i in range(3))
    _, log_sum = _flash(q, k, v, None, None, None, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf)
    expected = scores.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(log_sum, expected)
    for a, b in zip(*(torch.autograd.grad(x.sin().sum(), (q, k)) for x in (log_sum, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_refuses_an_empty_tile() -> None:
    with pytest.raises(ValueError, match="flash: tile is a number of keys and must be at least 1, got 0"):
        flash(*inputs(4), tile=0)
