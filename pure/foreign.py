"""Refuse arrays, models and losses of another kind than expected, with the line to write."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pure import tree
from pure.types import Tree


def check_tensors(name: str, value: Tree) -> None:
    """Refuses a tree with a leaf that is no tensor.

    Args:
        name: what the error calls the tree, such as "stage.init: params".
        value: the tree.

    Raises:
        TypeError: naming the leaf's path, its class, and how to convert it.

    Example:
        >>> check_tensors("stage: the batch", {"x": [1.0]})
        Traceback (most recent call last):
        TypeError: stage: the batch: leaf 'x/0' is a builtins.float; expected a tensor
    """
    if all(isinstance(x, Tensor) for x in tree.leaves(value)):
        return
    for path, x in zip(tree.paths(value), tree.leaves(value), strict=True):
        if not isinstance(x, Tensor):
            kind = type(x)
            fix = {
                "jax": "; convert the tree with to_torch, or a typed key with key_to_torch "
                "(pure.interop.jax)",
                "jaxlib": "; convert the tree with to_torch, or a key with key_to_torch (pure.interop.jax)",
                "numpy": "; write torch.from_numpy(x)",
            }.get(_library(x), "")
            place = f"leaf {path!r}" if path else "it"
            raise TypeError(
                f"{name}: {place} is a {kind.__module__}.{kind.__qualname__}; expected a tensor{fix}"
            )


def check_model(name: str, model: Any) -> None:
    """Refuses what is no Model: a module of Flax or torch, a folder's name.

    Args:
        name: the function that expects a model.
        model: has the functions of a Model.

    Raises:
        TypeError: with the line to write.

    Example:
        >>> check_model("pretrain", nn.Linear(2, 2))
        Traceback (most recent call last):
        TypeError: pretrain: expected a Model, got a Linear; write from_module(model)
            (pure.interop.module)
    """
    if all(callable(getattr(model, field, None)) for field in ("init", "hidden", "logits", "forward")):
        return
    bases = {base.__module__.split(".")[0] for base in type(model).__mro__}
    fix = "transformer(config) or language_model.load(folder) make one"
    if isinstance(model, nn.Module):
        fix = "write from_module(model) (pure.interop.module)"
    elif "flax" in bases:
        fix = "write from_flax(model, params, vocab_size=..., max_length=...) (pure.interop.jax)"
    raise TypeError(f"{name}: expected a Model, got a {type(model).__name__}; {fix}")


def check_loss(name: str, loss: Any) -> None:
    """Refuses a Stage, or anything else that cannot be called, in the place of a loss.

    Args:
        name: the function that expects a loss.
        loss: (params, batch, key) -> (sum, count, metrics).

    Raises:
        TypeError: with the line to write.

    Example:
        >>> check_loss("sharpness", 0.5)
        Traceback (most recent call last):
        TypeError: sharpness: expected a loss, (params, batch, key) -> (sum [], count [], metrics), got a
            float; of a stage write loss_of(stage) (stages.stage)
    """
    if not callable(loss):
        raise TypeError(
            f"{name}: expected a loss, (params, batch, key) -> (sum [], count [], metrics), got a "
            f"{type(loss).__name__}; of a stage write loss_of(stage) (stages.stage)"
        )


def _library(x: Any) -> str:
    """The top-level package of a value's class."""
    return type(x).__module__.split(".")[0]
