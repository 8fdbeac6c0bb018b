"""Params that Orbax and Flax wrote, beside a model's configuration and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pure import tree
from stages.models import language_model
from tests.outside import models, published
from tests.outside.form import Form

FIELDS = models.shrink({**published.LLAMA3, **published.SIZE_8B, "max_position_embeddings": 8192})

Write = Callable[[Path, Any], Any]


def _saved(
    write: Write, change: Callable[[Any], Any] = lambda params: params
) -> Callable[[Path], torch.Tensor]:
    """Replaces a model's safetensors by params that `write(folder, params)` saves; returns its logits."""

    def theirs(folder: Path) -> torch.Tensor:
        model = models.write(folder, FIELDS)
        params = language_model.load(folder).params
        (folder / "model.safetensors").unlink()
        write(folder, change(tree.map(lambda x: x.numpy(), params)))
        return models.peer_logits(model)

    return theirs


def _standard(folder: Path, params: Any) -> None:
    import jax.numpy as jnp
    from orbax.checkpoint import StandardCheckpointer

    with StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "tuned", tree.map(jnp.asarray, params))


def _manager(folder: Path, params: Any) -> None:
    from orbax.checkpoint import CheckpointManager
    from orbax.checkpoint.args import StandardSave

    with CheckpointManager(folder / "steps") as manager:
        manager.save(9, args=StandardSave(tree.map(lambda x: x + 1, params)))
        manager.save(10, args=StandardSave(params))


def _flax(folder: Path, params: Any) -> None:
    from flax.serialization import to_bytes

    (folder / "params.msgpack").write_bytes(to_bytes({"params": params}))


def _turn(params: Any) -> Any:
    """Matrices as flax's Dense has them, [in, out]."""
    return tree.map(lambda x: x.T if x.ndim == 2 else x, params)


def _form(name: str, writer: str, write: Write, path: str = "") -> Form:
    return Form(
        "weights",
        name,
        writer,
        _saved(write),
        lambda folder: models.our_logits(folder / path),
        tolerance=1e-4,
    )


def _refused(name: str, message: str, writer: str, theirs: Callable[[Path], Any]) -> Form:
    return Form("weights", name, writer, theirs, language_model.load, refused=message)


FORMS = (
    _form("StandardCheckpointer", "orbax", _standard, "tuned"),
    _form("the newest step of a CheckpointManager", "orbax", _manager, "steps"),
    _refused("a folder above", "holds trees in steps; name one", "orbax", _saved(_manager)),
    _form("to_bytes", "flax", _flax),
    _refused("kernels [in, out]", r"matrices are \[out, in\]: transpose it", "flax", _saved(_flax, _turn)),
    _refused(
        "flax's names",
        "the tree has Dense_0",
        "flax",
        _saved(_flax, lambda p: {"Dense_0": {"kernel": p["embedding"]}}),
    ),
)
