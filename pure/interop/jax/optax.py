"""Optimizers across the border: optax's in torch, ours in JAX, and states of one in the other.

Both libraries have the same protocol, names of states and fields, and order of leaves; the classes differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import torch
from torch import Tensor

from pure import tree
from pure.interop.jax.arrays import to_jax, to_torch
from pure.interop.jax.functions import find_jax_function, jax_fn_in_torch
from pure.interop.jax.leaf_checks import TORCH_DTYPES, is_typed_key
from pure.interop.jax.lower import lower
from pure.optim.extra import with_extra
from pure.serial import serial
from pure.types import GradientTransformation, Tree

IMPLEMENTATIONS: Mapping[str, str] = MappingProxyType(
    {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}
)
"""dtype of typed keys -> the name of their generator."""

OURS_ALONE = ("grad_norm", "finite")
"""Extra arguments of our stages that optax has no use for."""

OUR_EXTRA = ("value", *OURS_ALONE)
"""Extra arguments of our stages."""

NEEDS_MORE = ("value_fn", "obj_fn", "value_and_grad", "missing")
"""Words of the errors of optax's transformations that need another argument than a stage has."""


def from_optax(tx: Any) -> GradientTransformation:
    """Returns an optax optimizer as one of ours, for any stage.

    JAX computes each update as one compiled function; all leaves cross together. The state is optax's own
    NamedTuples with tensors, so it is checkpointed, stacked for a population, and resumed as any other.

    Args:
        tx: optax's GradientTransformation, with or without extra arguments, or another object with such
            `init` and `update` (`optax.MultiSteps`).

    Returns:
        GradientTransformation. Its update takes `value` (the loss) from the stage and passes it to optax,
        with the gradients as `grad`, where tx takes extra arguments. It is not leafwise: updated whole.

    Edge cases: random keys in a state (`optax.add_noise`) are raw key data, [2] uint32.

    Raises:
        TypeError: if tx has no init and update; at the update, if tx needs an argument that no stage has,
            such as a line search's `value_fn`.
        ValueError: at the update, for the state of another optimizer, and for 64 bits that JAX would narrow.

    Example:
        >>> import optax
        >>> opt = from_optax(optax.sgd(0.5))
        >>> params = {"w": torch.tensor([1.0, 2.0])}
        >>> opt.update({"w": torch.tensor([2.0, 4.0])}, opt.init(params), params)[0]
        {'w': tensor([-1., -2.])}
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(f"from_optax: expected an optimizer such as optax.adamw(1e-3), got {_name(tx)}")
    if isinstance(tx.update, partial) and tx.update.func is _lowered_update:
        return tx.update.args[1]
    kinds = {parameter.kind for parameter in inspect.signature(tx.update).parameters.values()}
    return GradientTransformation(
        partial(optax_init, crossed=jax_fn_in_torch(partial(_init, tx))),
        partial(
            optax_update,
            crossed=jax_fn_in_torch(partial(_update, tx)),
            takes_extra=inspect.Parameter.VAR_KEYWORD in kinds,
        ),
    )


def to_optax(opt: GradientTransformation) -> Any:
    """Returns one of our optimizers as optax's, for a training loop in JAX.

    Its functions are lowered to JAX: they jit, vmap and shard, and chain with optax's transformations.

    Args:
        opt: any GradientTransformation of this package.

    Returns:
        `optax.GradientTransformationExtraArgs`. Its state is of our NamedTuples with JAX arrays; of what JAX
        passes as extra, `value`, `grad_norm` and `finite` reach the optimizer.

    Edge cases: `to_optax(from_optax(tx))` is tx, and `from_optax(to_optax(opt))` is opt.

    Raises:
        TypeError: if opt has no init and update.

    Example:
        >>> from pure.optim import sgd
        >>> tx = to_optax(sgd(0.5))
        >>> params = {"w": jax.numpy.array([1.0, 2.0])}
        >>> tx.update(params, tx.init(params), params)[0]["w"].tolist()
        [-0.5, -1.0]
    """
    import optax

    if not (callable(getattr(opt, "init", None)) and callable(getattr(opt, "update", None))):
        raise TypeError(f"to_optax: expected an optimizer such as optim.adamw(1e-3), got {_name(opt)}")
    if isinstance(opt, optax.GradientTransformation):
        return opt
    if isinstance(opt.update, partial) and opt.update.func is optax_update:
        crossed_update: Any = find_jax_function(opt.update.keywords["crossed"])
        return crossed_update.args[0]
    update = partial(_lowered_update, lower(with_extra(opt).update), opt)
    return optax.GradientTransformationExtraArgs(lower(opt.init), update)


def optax_init(params: Tree, *, crossed: Any) -> Tree:
    """Returns the optimizer's first state."""
    return crossed(params)


def optax_update(
    updates: Tree,
    state: Tree,
    params: Tree | None = None,
    *,
    crossed: Any,
    takes_extra: bool,
    **extra: Any,
) -> tuple[Tree, Tree]:
    """Computes one update in JAX.

    Args:
        updates: tree of gradients.
        state: of this optimizer.
        params: tree of parameters, for optimizers that need it.
        crossed: JAX's update as a torch function.
        takes_extra: pass extra arguments.
        extra: `value` and others that optax knows.

    Returns:
        (updates, state).
    """
    given = {name: x for name, x in extra.items() if takes_extra and name not in OURS_ALONE and x is not None}
    return crossed(updates, state, params, given if takes_extra else None)


def state_to_optax(state: Tree, template: Tree) -> Tree:
    """Converts an optimizer's state of ours to optax's.

    Args:
        state: from our optimizer, or from `from_optax`.
        template: a state of the optax twin for the same params: `tx.init(params)`, or
            `jax.eval_shape(tx.init, params)`.

    Returns:
        A tree like the template, of JAX arrays, copied.

    Raises:
        SerialError: naming the parts of both and the leaf, if they differ in fields, shapes or dtypes.

    Example:
        >>> import optax
        >>> from pure.optim import sgd
        >>> ours = sgd(0.1, momentum=0.9).init(torch.ones(2))
        >>> state_to_optax(ours, optax.sgd(0.1, momentum=0.9).init(jax.numpy.ones(2)))[0].trace.tolist()
        [0.0, 0.0]
    """
    target = tree.map(_to_meta, template)
    tensors = _fit("state_to_optax", state, target)
    return tree.map(lambda like, x: _wrap(like, to_jax(x)), template, tensors)


def state_from_optax(state: Tree, template: Tree) -> Tree:
    """Converts an optimizer's state of optax to ours.

    Args:
        state: optax's, of JAX arrays.
        template: a state of our twin for the same params: `opt.init(params)`.

    Returns:
        A tree like the template, of tensors, copied.

    Raises:
        SerialError: naming the parts of both and the leaf, if they differ in fields, shapes or dtypes.

    Example:
        >>> import optax
        >>> from pure.optim import sgd
        >>> theirs = optax.sgd(0.1, momentum=0.9).init(jax.numpy.ones(2))
        >>> state_from_optax(theirs, sgd(0.1, momentum=0.9).init(torch.ones(2)))[0].trace
        tensor([0., 0.])
    """
    tensors = to_torch(tree.map(_unwrap, state))
    return _fit("state_from_optax", tensors, template)


def _fit(caller: str, state: Tree, template: Tree) -> Tree:
    """Puts the tensors of a state into a template; refuses a state of another optimizer."""
    try:
        return serial.from_state_dict(template, serial.to_state_dict(state))
    except serial.SerialError as error:
        difference = str(error).rpartition("; ")[0] or str(error)  # without the advice on checkpoints
        raise serial.SerialError(
            f"{caller}: a state of {_parts(state)} does not fit a template of {_parts(template)} "
            f"({difference}); make the template with the twin of the state's own optimizer, "
            "with the same settings, for the same params"
        ) from None


def _parts(state: Tree) -> str:
    """Names the parts of an optimizer's state, such as "ScaleByAdamState, EmptyState"."""
    is_chain = type(state) in (tuple, list)
    return ", ".join(type(part).__name__ for part in (state if is_chain else (state,))) or "no parts"


def _lowered_update(
    lowered: Any,
    opt: GradientTransformation,
    updates: Tree,
    state: Tree,
    params: Tree | None = None,
    **extra: Any,
) -> tuple[Tree, Tree]:
    """Computes the update of `opt` in JAX, with the extra arguments that ours know."""
    del opt
    return lowered(updates, state, params, **{name: extra[name] for name in OUR_EXTRA if name in extra})


def _init(tx: Any, params: Tree) -> Tree:
    """Makes the first state in JAX, with raw keys."""
    return jax.tree.map(_unwrap, tx.init(params))


def _update(
    tx: Any, updates: Tree, state: Tree, params: Tree | None, extra: dict | None
) -> tuple[Tree, Tree]:
    """Computes an update in JAX."""
    template = jax.eval_shape(tx.init, updates if params is None else params)
    if bool(jax.tree.structure(template) != jax.tree.structure(state)):  # type: ignore[operator]
        raise ValueError(
            "from_optax: the state is not one of this optimizer; make it with its init, or convert another "
            "library's with state_to_optax and to_torch"
        )
    keywords = {} if extra is None else {"grad": updates, **extra}
    try:
        new, state = tx.update(updates, jax.tree.map(_wrap, template, state), params, **keywords)
    except (TypeError, ValueError) as error:
        if isinstance(error, jax.errors.JAXTypeError) or not any(word in str(error) for word in NEEDS_MORE):
            raise
        raise TypeError(
            "from_optax: this optimizer needs an argument that a stage has not "
            f"({str(error).splitlines()[0]}); pass "
            "it to update, or choose one that needs gradients and loss alone"
        ) from error
    return new, jax.tree.map(_unwrap, state)


def _unwrap(x: Any) -> Any:
    """Returns a typed key's data; other leaves unchanged."""
    return jax.random.key_data(x) if is_typed_key(x) else x


def _wrap(like: Any, x: Any) -> Any:
    """Makes a typed key of raw data where `like` is one."""
    impl = IMPLEMENTATIONS.get(str(getattr(like, "dtype", "")))
    return x if impl is None else jax.random.wrap_key_data(x, impl=impl)


def _to_meta(x: Any) -> Tensor:
    """Describes a leaf of a template by a tensor without numbers; of a typed key, its data."""
    if str(x.dtype) in IMPLEMENTATIONS:
        x = jax.eval_shape(jax.random.key_data, x)
    return torch.empty(x.shape, dtype=TORCH_DTYPES[x.dtype], device="meta")


def _name(x: Any) -> str:
    """Names a value in an error."""
    return getattr(x, "__name__", type(x).__name__)
