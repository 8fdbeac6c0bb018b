"""Training steps that JAX computes (`--backend jax`), with their traced programs kept in the run's folder.

Data, log, checkpoints and validation are torch's, and so is the sampling of completions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from data_pipes import files
from data_pipes.digest import hash_blocks, hash_json
from pure.types import Tree
from stages.online import Online, completion_weights, generate_and_score
from stages.stage import Stage
from stages.state import TrainState

FOLDER = "programs"
"""Folder of traced programs in that of a run: tracing takes seconds, reading one milliseconds."""
ROOT = Path(__file__).parents[2]
PACKAGES = ("pure", "data_pipes", "stages")


def jax_step(
    stage: Stage, folder: Path, fingerprint: Mapping[str, str] | None = None
) -> Callable[[TrainState, Tree], TrainState]:
    """Builds a step that JAX computes.

    Of an online stage JAX computes the update; completions are sampled by torch and scored as always.

    Args:
        stage: of any kind.
        folder: of the run; traced programs are kept in it.
        fingerprint: describes the stage, see `stages.checkpoint.fingerprint`; None keeps no programs.

    Returns:
        (state, batch) -> state, of CPU tensors.

    Raises:
        ImportError: without JAX.
    """
    _avoid_wrong_reductions()
    from pure.interop.jax.torch_jit import jit_torch

    programs = None if fingerprint is None else kept_programs(folder / FOLDER, fingerprint)
    if stage.parts is None or stage.parts.score is None:
        return jit_torch(stage.step, programs=programs)
    return partial(_online_step, parts=stage.parts, update=jit_torch(stage.parts.update, programs=programs))


def _avoid_wrong_reductions() -> None:
    """Turns off the compiler's pass by which jaxlib 0.10.2 computes some sums on a CPU wrongly.

    See `pure.interop.jax`. XLA reads the variable when JAX is first used in the process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    with suppress(PackageNotFoundError):
        if version("jaxlib") == "0.10.2" and "ynn_fusion_type" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_experimental_ynn_fusion_type=-reduce".strip()


def kept_programs(folder: Path, fingerprint: Mapping[str, str]) -> Any:
    """Makes the store of a stage's traced programs.

    Args:
        folder: of the programs; made when the first is written.
        fingerprint: of the stage. A program is read again only for the same fingerprint, version of torch and
            code of this project.

    Returns:
        The store, a `pure.interop.jax.torch_jit.Programs`.
    """
    from pure.interop.jax.torch_jit import Programs

    prefix = hash_json([dict(fingerprint), torch.__version__, _digest_code()])[:16]
    return Programs(partial(_read, folder, prefix), partial(_write, folder, prefix))


def _online_step(
    state: TrainState, batch: Tree, *, parts: Online, update: Callable[..., TrainState]
) -> TrainState:
    """Samples and scores in torch, and updates in JAX."""
    rollouts, rewards = generate_and_score(state, batch, parts=parts)
    return update(state, rollouts, rewards, *completion_weights(batch, rollouts))


def _read(folder: Path, prefix: str, name: str) -> bytes | None:
    """Reads a program; None if there is none."""
    try:
        return (folder / f"{prefix}-{name}").read_bytes()
    except OSError:
        return None


def _write(folder: Path, prefix: str, name: str, data: bytes) -> None:
    """Writes a program; a run goes on if that fails."""
    with suppress(OSError):
        files.make_folder(folder)
        files.write_atomically(folder / f"{prefix}-{name}", data)


def _digest_code() -> str:
    """Digests the source files of this project: a program is what they computed."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return hash_blocks(
        path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() for path in paths
    )
