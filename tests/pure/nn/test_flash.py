"""`pure.nn.flash`: its memory does not grow with the square of the length (values: see test_backend)."""

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


class LargestTensor(TorchDispatchMode):
    """Record the number of elements of the largest tensor that any operation makes."""

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


def random_inputs(length: int) -> list[Tensor]:
    shapes = [(1, length, heads, 4) for heads in (2, 1, 1)]
    return [random.normal(random.key(i), shape).requires_grad_() for i, shape in enumerate(shapes)]


def largest_tensor(attend: Callable, length: int) -> int:
    """Number of elements of the largest tensor in the forward and backward pass."""
    leaves = random_inputs(length)
    with LargestTensor() as recorded:
        torch.autograd.grad(attend(*leaves).square().sum(), leaves)
    return recorded.numel


def saved_elements(attend: Callable, length: int) -> int:
    """Number of elements saved for the backward pass, each storage once."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    leaves = random_inputs(length)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = attend(*leaves)
    assert y.shape == leaves[0].shape
    return sum(sizes.values())


@pytest.mark.parametrize("measure", [largest_tensor, saved_elements])
def test_memory_of_flash_grows_linearly_and_that_of_naive_quadratically(
    measure: Callable[[Callable, int], int],
) -> None:
    attend = partial(flash, tile=32)
    assert measure(attend, 512) <= 2.1 * measure(attend, 256)
    assert measure(attend, 512) <= measure(naive, 512) / 4
    assert measure(naive, 512) > 3.5 * measure(naive, 256)


def test_the_log_sum_exp_of_the_scores_has_the_right_value_and_gradient() -> None:
    """The second output is differentiable too, so that attention over parts of the keys can be combined."""
    from pure.nn.flash import _flash

    q, k, v = (random.normal(random.key(i), (1, 1, 6, 4)).double().requires_grad_() for i in range(3))
    # None: start, segment_ids and dropout_mask; 1 group; tiles of 4 keys.
    _, log_sum = _flash(q, k, v, None, None, None, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf)
    expected = scores.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(log_sum, expected)
    grads = torch.autograd.grad(log_sum.sin().sum(), (q, k))
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sin().sum(), (q, k)))


def test_a_tile_of_no_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="flash: tile is a number of keys and must be at least 1, got 0"):
        flash(*random_inputs(4), tile=0)
