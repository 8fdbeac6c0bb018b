"""Write the metrics of a run: metrics.jsonl, optionally Weights & Biases and TensorBoard.

A writer is three functions that share a file or a connection.
"""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from data_pipes.files import sync_file, write_atomically, writing

CLOCK = ("tok_per_sec", "tflops", "mfu", "compile_seconds")
"""Metrics that depend on the clock. In a resumed or replayed run all others are the same, bit for bit."""

DISK_FULL_ADVICE = "make room there, and run the same command again: it resumes from the newest checkpoint"


class Writer(NamedTuple):
    """Takes the metrics of each step; owns a file or a connection until it is closed.

    Fields:
        write: (step, {name: value}) -> None.
        flush: () -> None; waits until all lines are on the disk, if the writer has a file.
        close: () -> None; writes the rest, and closes the file or connection.
    """

    write: Callable[[int, Mapping[str, float]], None]
    flush: Callable[[], None]
    close: Callable[[], None]


def json_lines(path: Path, step: int = 0, say: Callable[[str], Any] = print) -> Writer:
    """Opens metrics.jsonl to append to; lines after `step`, which a killed run left, are deleted.

    One object a line, one line a step; floats are written so that they read back bit for bit.

    Args:
        path: path of the file.
        step: last step before the run resumes; 0 for a new run.
        say: prints a message to the user if the last line was cut off and deleted.

    Raises:
        ValueError: if a line in it is damaged.
        OSError: if it cannot be written; also from `write` and `flush`, when the disk is full.
    """
    rows = list(read_lines(path))
    torn = _lines(path)[len(rows) :]
    if torn:
        say(f"{path}:{len(rows) + 1}: the last line is cut off ({len(torn[0])} bytes) and was deleted")
    kept = "".join(_line(row) for row in rows if row["step"] <= step)
    if not path.exists() or path.read_bytes() != kept.encode():
        with writing(path, DISK_FULL_ADVICE):
            write_atomically(path, kept.encode())
    file = path.open("a", encoding="utf-8")
    return Writer(partial(_append, file, path), partial(_sync, file, path), partial(_close, file))


def wandb(folder: Path, config: Mapping[str, Any], *, project: str, mode: str | None = None) -> Writer:
    """Starts a Weights & Biases run, or resumes the one of the same folder (its id is in wandb_id.txt).

    Args:
        folder: the run's folder.
        config: configuration of the run, shown with the curves.
        project: Weights & Biases project.
        mode: "offline" needs no network; None leaves it to WANDB_MODE.

    Raises:
        ImportError: if wandb is not installed.
    """
    module = _import_optional("wandb", "track")
    id_file = folder / "wandb_id.txt"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    run = module.init(
        project=project,
        name=folder.name,
        id=id_file.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=str(folder),
        config=dict(config),
        mode=mode,
    )
    return Writer(lambda step, values: run.log(dict(values), step=step), lambda: None, run.finish)


def tensorboard(folder: Path, step: int = 0) -> Writer:
    """Opens a TensorBoard event file in `folder/tensorboard`; old events after `step` are hidden.

    Raises:
        ImportError: if tensorboard is not installed.
    """
    board = _import_optional("torch.utils.tensorboard", "track").SummaryWriter(
        str(folder / "tensorboard"), purge_step=step + 1
    )

    def write(number: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, number)

    return Writer(write, board.flush, board.close)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Reads metrics.jsonl; a last line that a kill cut short is skipped, and so is a missing file.

    Raises:
        ValueError: for a damaged line that is not the last.
    """
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None and number < len(lines):
            raise ValueError(
                f"{path}:{number}: expected a JSON object with a step, got {line[:60]!r}; delete the line"
            )
        if row is not None:
            yield row


def _lines(path: Path) -> list[bytes]:
    """Lines with their line ends; [] for a missing file."""
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _row(line: bytes) -> dict[str, Any] | None:
    """The object on a line, if it is complete and all values are numbers ("nan" included); else None."""
    try:
        row = json.loads(line)
        complete = line.endswith(b"\n") and isinstance(row, dict) and type(row.get("step")) is int
        for value in row.values() if complete else ():
            float(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return row if complete else None


def _append(file: TextIO, path: Path, step: int, values: Mapping[str, float]) -> None:
    """Appends one line; JSON has no NaN, so values that are not finite are strings, which `float` reads."""
    finite = {name: value if _is_finite(value) else str(value) for name, value in values.items()}
    with writing(path, DISK_FULL_ADVICE):
        file.write(_line({"step": step, **finite}))
        file.flush()


def _sync(file: TextIO, path: Path) -> None:
    """Waits until the file is on the disk."""
    with writing(path, DISK_FULL_ADVICE):
        sync_file(file)


def _close(file: TextIO) -> None:
    """Closes the file; a full disk was reported by the write before."""
    with suppress(OSError):
        file.close()


def _line(row: Mapping[str, Any]) -> str:
    """A row as text."""
    return json.dumps(row) + "\n"


def _is_finite(value: float) -> bool:
    """Neither NaN nor infinite."""
    return value - value == 0


def _import_optional(module: str, extra: str) -> Any:
    """Imports an optional package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed; pip install 'intro2llm[{extra}]' installs it"
        ) from error
