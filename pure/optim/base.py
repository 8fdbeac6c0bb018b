"""The optimizer's protocol, the chain, and functions that all transformations share.

A `GradientTransformation` (pure/types.py) is optax's pair of functions:

    state = init(params)
    updates, state = update(updates, state, params, **extra)
    params = apply_updates(params, updates)

Updates are *added*, so a descent direction carries its minus sign. Everything is pure and made of
`torch.where`, never of `if`: it compiles as one graph and runs under `vmap`. States have optax's class names,
field names and leaf order.

**Leafwise.** Given `extra`, most transformations act on each leaf by itself: updating a sub-tree (with the
sub-trees of its state; missing leaves are `None`) gives that part of the whole update, so a step may compile
the update of one layer and use it for all. `leafwise` marks such updates. `elementwise` marks those that act
on each element by itself, so that a process may update the rows of a leaf that it holds. Values that depend
on the whole tree are passed in `extra`, computed once by the caller:

    grad_norm  [] float32, the global norm of the gradients, for `clip_by_global_norm`
    finite     [] bool, whether all gradients are finite, for `apply_if_finite`
    value      [] float, the loss, for `reduce_on_plateau`

**Explicit arguments.** `init` and `update` are `functools.partial`s of module-level functions with every
argument bound by name, so that a run's fingerprint can read them. A name in `extra` must therefore not be
that of a bound argument (b1, mask, ...).

**Half precision.** Half-precision leaves are computed in float32 and rounded once, where they are stored.

Hessel et al., "Optax: composable gradient transformation and optimisation, in JAX", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.extra import with_extra
from pure.optim.leafwise import Check, elementwise, mark_by_parts
from pure.optim.same_shapes import check_same_shapes
from pure.plural import count_noun
from pure.transform.modes import may_be_differentiated
from pure.types import GradientTransformation, Schedule, Tree

Scalar = float | Tensor
ScalarOrSchedule = float | Tensor | Schedule

INT32_MAX = 2**31 - 1


class EmptyState(NamedTuple):
    """The state of a transformation without memory."""


def identity() -> GradientTransformation:
    """Builds the identity: updates pass unchanged.

    Example:
        >>> opt = identity()
        >>> opt.update({"w": 3.0}, opt.init({"w": 0.0}))
        ({'w': 3.0}, EmptyState())
    """
    return GradientTransformation(empty_init, identity_update)


def empty_init(params: Tree) -> EmptyState:
    """Returns the state of a transformation without memory."""
    del params
    return EmptyState()


@elementwise
def identity_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Returns (updates, state), the same objects."""
    del params, extra
    return updates, state


def chain(*transforms: GradientTransformation) -> GradientTransformation:
    """Composes transformations: the updates of each are the input of the next.

    Optimizers are short chains: adamw is chain(scale_by_adam, add_decayed_weights, scale_by_learning_rate).
    The result is a transformation again.

    Args:
        transforms: applied from left to right; may themselves be chains.

    Returns:
        GradientTransformation, whose state is the tuple of their states.

    Edge cases: chain() is the identity with state ().

    Raises:
        TypeError: if an argument is not a pair (init, update).
        ValueError: at the update, if the state has another number of parts.

    Example:
        Clip 6 to 2, then multiply by -0.5.

        >>> from pure.optim.clip import clip
        >>> from pure.optim.scale import scale_by_learning_rate
        >>> opt = chain(clip(2.0), scale_by_learning_rate(0.5))
        >>> opt.update({"w": torch.tensor(6.0)}, opt.init({"w": torch.tensor(0.0)}))[0]
        {'w': tensor(-1.)}
    """
    for i, t in enumerate(transforms):
        if not (hasattr(t, "init") and hasattr(t, "update")):
            raise TypeError(
                f"chain: argument {i} must be a GradientTransformation, got {t!r}; "
                "write adamw(1e-3), for example, not adamw"
            )
    transforms = tuple(with_extra(t) for t in transforms)
    return GradientTransformation(
        partial(chain_init, transforms=transforms),
        mark_by_parts(partial(chain_update, transforms=transforms), partial(_links_pass, transforms)),
    )


def chain_init(params: Tree, *, transforms: tuple[GradientTransformation, ...]) -> tuple:
    """Returns the tuple of the states of `transforms`."""
    return tuple(t.init(params) for t in transforms)


def chain_update(
    updates: Tree,
    state: tuple,
    params: Tree | None = None,
    *,
    transforms: tuple[GradientTransformation, ...],
    **extra: Any,
) -> tuple[Tree, tuple]:
    """Applies the update of each of `transforms`, from left to right.

    Args:
        updates: tree of gradients.
        state: tuple, one state for each transformation.
        params: tree of parameters, for those that need it.
        transforms: the links of the chain.
        extra: passed to every link, with one exception: see step 2.

    Returns:
        (updates, state), the state a tuple again.

    Raises:
        ValueError: if there are not as many states as links.

    Steps:
        1. Update by each link in turn.
        2. After a link that changes the updates, `grad_norm` is no longer their norm and is dropped. (A
           later clip_by_global_norm computes the norm of its own input, as in optax.)
    """
    if len(state) != len(transforms):
        raise ValueError(
            f"chain: {count_noun(len(transforms), 'transformation')} but {count_noun(len(state), 'state')}; "
            "create the state with the init of the same chain"
        )
    states = []
    for t, s in zip(transforms, state, strict=True):
        # 1. One link.
        changed, s = t.update(updates, s, params, **extra)
        # 2. Drop the norm of changed updates.
        if not _same_leaves(changed, updates):
            extra = {k: v for k, v in extra.items() if k != "grad_norm"}
        updates = changed
        states.append(s)
    return updates, tuple(states)


def _same_leaves(first: Tree, second: Tree) -> bool:
    """Compares the leaves of two trees by identity. (Dynamo of torch 2.11 cannot compare dicts by `is`.)"""
    left, right = tree.leaves(first), tree.leaves(second)
    return len(left) == len(right) and all(x is y for x, y in zip(left, right, strict=True))


def _links_pass(transforms: tuple[GradientTransformation, ...], check: Check, raw: bool) -> bool:
    """Checks all links; raw gradients reach the links up to the first non-identity."""
    first = next((i for i, t in enumerate(transforms) if t.update is not identity_update), 0)
    return all(check(t.update, raw and i <= first) for i, t in enumerate(transforms))


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Adds the updates to the parameters, keeping the parameters' dtypes.

    Raises:
        ValueError: if an update has another shape.

    Example:
        >>> apply_updates({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([-0.5, 0.5])})
        {'w': tensor([0.5000, 2.5000])}
    """
    check_same_shapes(params, updates)
    return tree.map(lambda p, u: (p + u).to(p.dtype), params, updates)


def map_unzip(width: int, function: Callable[..., tuple], first: Tree, *rest: Tree) -> tuple[Tree, ...]:
    """Maps a function that returns a tuple over trees, and returns a tuple of trees.

    Args:
        width: length of the tuples, needed for trees without leaves.
        function: takes one leaf of each tree, returns `width` leaves.
        first, rest: trees of the same structure and shapes; other shapes are refused (`check_same_shapes`).

    Example:
        >>> map_unzip(2, lambda x: (x + 1, x * 10), {"a": 1, "b": [2]})
        ({'a': 2, 'b': [3]}, {'a': 10, 'b': [20]})
    """
    check_same_shapes(first, *rest)
    rows = tree.map(function, first, *rest)
    return tuple(tree.map(lambda _, row, i=i: row[i], first, rows) for i in range(width))


def zero_count(params: Tree) -> Tensor:
    """Creates a counter: [] int32 zero, on the device of the first parameter (torch's default if none)."""
    values = tree.leaves(params)
    return torch.zeros((), dtype=torch.int32, device=values[0].device if values else None)


def increment(count: Tensor) -> Tensor:
    """Adds one to a counter [] int32, up to 2³¹ - 1, where it stays.

    Example:
        >>> increment(torch.tensor(2**31 - 1, dtype=torch.int32)).item()
        2147483647
    """
    return count + (count < INT32_MAX)


def bias_correction(decay: Scalar, count: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Computes the bias correction 1 - decay^count of a moving average that starts at 0: [] of `dtype`.

    An average m ← decay m + (1 - decay) g that starts at 0 is too small by this factor; dividing by it makes
    the first average equal to the first value.

    Args:
        decay: in [0, 1).
        count: [] int32, values averaged so far, >= 1.
        dtype: float32, or float64 for float64 leaves; the power is computed in it, as in optax.

    Example:
        >>> round(bias_correction(0.9, torch.tensor(2, dtype=torch.int32)).item(), 4)
        0.19

    Source: Kingma and Ba 2015, section 3.
    """
    base = decay.to(dtype) if isinstance(decay, Tensor) else torch.full_like(count, decay, dtype=dtype)
    return store_once(1 - torch.pow(base, count.to(dtype)))


class MeanCorrection(NamedTuple):
    """Factors that correct a mean of gradients for its start at zero, once for all leaves.

    Fields:
        now: [] 1 - decay^t, where t counts this update.
        ahead: [] 1 - decay^(t+1) for Nesterov's mean; None for the plain one.
    """

    now: Tensor
    ahead: Tensor | None


def mean_correction(decay: Scalar, count: Tensor, dtype: torch.dtype, nesterov: bool) -> MeanCorrection:
    """Computes the factors of `corrected_mean` after `count` [] int32 updates, this one included."""
    now = bias_correction(decay, count, dtype)
    return MeanCorrection(now, bias_correction(decay, increment(count), dtype) if nesterov else None)


def corrected_mean(g: Tensor, mu: Tensor, decay: Scalar, correction: MeanCorrection) -> Tensor:
    """Corrects the mean of gradients for its start at zero; Nesterov's looks one step ahead.

        mu / (1 - decay^t),  or with nesterov  decay mu / (1 - decay^(t+1)) + (1 - decay) g / (1 - decay^t)

    Args:
        g: [...] the gradient, float32 or wider.
        mu: [...] its mean, this gradient included.
        decay: that of the mean.
        correction: from `mean_correction`.

    Returns:
        [...].

    Source: Kingma and Ba 2015, algorithm 1; Dozat, "Incorporating Nesterov Momentum into Adam", 2016.
    """
    if correction.ahead is None:
        return mu / correction.now.to(mu.dtype)
    return decay * (mu / correction.ahead.to(mu.dtype)) + (1 - decay) * (g / correction.now.to(mu.dtype))


def store_once(scalar: Tensor) -> Tensor:
    """Returns a 0-d tensor unchanged, and keeps a compiled kernel from recomputing it for each element.

    A compiler fuses `1 - b1 ** count` into the loop over a matrix, where the power costs more than all the
    rest (measured on a CPU: AdamW twice as slow). A strided view needs memory, which stops the fusion.
    """
    return torch.as_strided(scalar, scalar.shape, scalar.stride())


def upcast(x: Tensor) -> Tensor:
    """Casts bfloat16 and float16 to float32; float32 and float64 are unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def safe_sqrt(square: Tensor) -> Tensor:
    """Computes the root of a number >= 0; its derivative at 0 is 0, not infinite.

    The value is that of `sqrt`, which is called where nothing can differentiate the result.
    """
    if not may_be_differentiated(square):
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), square)
