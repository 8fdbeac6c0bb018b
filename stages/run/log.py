"""Where a run's numbers go: metrics.jsonl always, Weights & Biases and TensorBoard by choice.

A writer is a pair of functions that share a file or a connection.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO


class Writer(NamedTuple):
    """Takes the numbers of a step; owns a file or a connection until it is closed.

    Fields:
        write: (step, {name: value}) -> None.
        close: () -> None; writes what is left and lets go.
    """

    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


def json_lines(path: Path, step: int = 0) -> Writer:
    """Opens metrics.jsonl behind its last line of at most `step`: what a killed run wrote beyond is computed again.

    One object a line, one line a step; floats are written so that they read back bit for bit.
    """
    text = "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step)
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    file = path.open("a", encoding="utf-8")
    return Writer(partial(_append, file), file.close)


def wandb(folder: Path, config: Mapping[str, Any], *, project: str, mode: str | None = None) -> Writer:
    """Starts a Weights & Biases run, or goes on with the one of the same folder; mode="offline" needs no network."""
    name = f"{folder.resolve().parent.name}-{folder.name}"
    run = _needs("wandb", "track").init(
        project=project, name=name, id=name, resume="allow", dir=str(folder), config=dict(config), mode=mode
    )
    return Writer(lambda step, values: run.log(dict(values), step=step), run.finish)


def tensorboard(folder: Path, step: int = 0) -> Writer:
    """Opens a TensorBoard event file below `folder/tensorboard`; what an earlier one holds beyond `step` is hidden."""
    board = _needs("torch.utils.tensorboard", "track").SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)

    return Writer(write, board.close)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Reads metrics.jsonl; a last line that a kill cut short is passed over, and so is a missing file.

    Raises:
        ValueError: for a damaged line that is not the last.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(
                    f"{path}:{number}: expected a JSON object, got {line[:60]!r}; delete the line"
                ) from None
            return
        yield row


def _append(file: TextIO, step: int, values: Mapping[str, float]) -> None:
    """One line; JSON has no NaN, so what is not finite is written as a string, which `float` reads."""
    finite = {name: value if _is_finite(value) else str(value) for name, value in values.items()}
    file.write(json.dumps({"step": step, **finite}) + "\n")
    file.flush()


def _is_finite(value: float) -> bool:
    """Neither NaN nor infinite."""
    return value - value == 0


def _needs(module: str, extra: str) -> Any:
    """Imports an optional package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is not installed; pip install 'intro2llm[{extra}]' brings it") from error
