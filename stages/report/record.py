"""Read the folder of a run into plain values: flags, metrics, completions, gains, how it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from data_pipes import files
from stages.report.completions import Answer, Selection, select_steps
from stages.report.curves import SKIPPED, Curve, make_curve
from stages.report.gains import Gain, Pair, read_demo_gains, read_gains
from stages.run.log import read_lines
from stages.run.sessions import read_sessions

CONFIG, METRICS, COMPLETIONS = "config.json", "metrics.jsonl", "completions.jsonl"
EVALUATION = "evaluation"
"""Folder of a run's evaluations: before its first step, and after its last."""


ENDS: Mapping[str, str] = MappingProxyType(
    {"early": "stopped early, as validation improved no more,", "interrupted": "interrupted by a signal"}
)
"""Status of a session -> what the page says; any other is shown as it is."""


class Run(NamedTuple):
    """A run as its folder describes it.

    Fields:
        folder: its folder.
        stage: name of the stage; "" without config.json.
        flags: all flags; {} without config.json.
        model: the model's configuration; {} without config.json.
        versions: versions, threads and machine.
        curves: metric -> its values in the order of the log.
        steps: number of the last logged step; 0 if there is none.
        skipped: steps whose update was skipped.
        end: what ended the run, or that it has not ended.
        completions: those that are shown.
        gains: figures before and after the run.
        pairs: answers to the same questions before and after the run.
        notes: what could not be read, a sentence each.
    """

    folder: Path
    stage: str
    flags: Mapping[str, Any]
    model: Mapping[str, Any]
    versions: Mapping[str, Any]
    curves: Mapping[str, Curve]
    steps: int
    skipped: int
    end: str
    completions: Selection
    gains: tuple[Gain, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run, which may still be written.

    Args:
        folder: --output_dir of a training stage, or of the demo.

    Returns:
        Run.

    Steps:
        1. Refuse a folder that is none of a run.
        2. Read config.json, and the log.
        3. Read completions and evaluations; one that is damaged becomes a note.

    Edge cases: a run without a step has no curves. A last line that is being written, or that a kill cut
    off, is left out.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is none of a run, or config.json or a line of the log is damaged.
    """
    folder = Path(folder)
    # 1. Refuse.
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; give the --output_dir of a run")
    if not (folder / CONFIG).is_file() and not (folder / METRICS).is_file():
        raise ValueError(
            f"{folder}: expected the folder of a run, with {CONFIG} or {METRICS}, and it has neither; give "
            "the --output_dir of a training stage"
        )
    # 2. Flags and log.
    config = files.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    columns = _read_columns(folder / METRICS)
    curves = {name: make_curve(*column) for name, column in columns.items()}
    skips = curves.pop(SKIPPED, None)
    steps = max((int(curve.steps[-1]) for curve in curves.values()), default=0)
    # 3. Completions and evaluations.
    notes: list[str] = []
    completions = _read_completions(folder / COMPLETIONS, notes)
    gains, pairs = _read_evaluations(folder, notes)
    options = config.get("options")
    return Run(
        folder=folder,
        stage=str(config.get("stage") or ("pretrain" if config else "")),
        flags=options if isinstance(options, dict) else {},
        model=config["model"] if isinstance(config.get("model"), dict) else {},
        versions=_read_versions(folder, config),
        curves=curves,
        steps=steps,
        skipped=int((skips.values >= 0).sum()) if skips else 0,
        end=describe_end(folder, steps),
        completions=completions,
        gains=gains,
        pairs=pairs,
        notes=tuple(notes),
    )


def describe_end(folder: Path, steps: int) -> str:
    """Say how a run ended, from its sessions, or from the files that it left if it recorded none.

    Args:
        folder: of the run.
        steps: number of the last logged step.
    """
    sessions = read_sessions(folder)
    if sessions and sessions[-1].status:
        last = sessions[-1]
        took = sum(session.seconds or 0.0 for session in sessions)
        sentence = (
            f"{ENDS.get(last.status, last.status)} after {max(last.step, steps):,} steps, {took:,.0f} s"
        )
        more = f" in {len(sessions)} sessions" if len(sessions) > 1 else ""
        return f"{sentence}{more}" + (f": {last.reason}" if last.reason else "")
    if (folder / "final_model").is_dir():
        return f"complete after {steps:,} steps"
    if not steps:
        return "no step is logged yet"
    saved = sorted(path.name for path in folder.glob("checkpoints/step-*"))
    kept = f"; the newest checkpoint is of step {int(saved[-1].rpartition('-')[2]):,}" if saved else ""
    return f"not complete: it runs, or was stopped, after step {steps:,}{kept}"


def _read_columns(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each metric, in the order in which the log first has them."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_lines(path):
        step = row.pop("step")
        for name, value in row.items():
            steps, values = columns.setdefault(name, ([], []))
            steps.append(step)
            values.append(float(value))
    return columns


def _read_versions(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and machine from the newest manifest, or from config.json if there is none."""
    packages = {name: config[name] for name in ("intro2llm",) if name in config}
    for path in sorted(folder.glob("checkpoints/step-*/manifest.json"), reverse=True):
        try:
            environment = files.read_json(path).get("environment")
        except (OSError, ValueError):  # it is being removed; loading a checkpoint reports damage
            continue
        if isinstance(environment, dict):
            return packages | environment
    return packages | {name: config[name] for name in ("torch", "threads") if name in config}


def _read_completions(path: Path, notes: list[str]) -> Selection:
    """The completions that are shown; a line that is damaged is left out, and noted."""
    damaged: list[int] = []
    selection = select_steps(_read_answers(path, damaged))
    if damaged:
        notes.append(f"{path.name}: {len(damaged):,} damaged lines were left out, the first is {damaged[0]}")
    return selection


def _read_answers(path: Path, damaged: list[int]) -> Iterator[tuple[int, list[Answer]]]:
    """Step and completions of each line."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
                yield int(fields["step"]), [_read_answer(each) for each in fields["answers"]]
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if line.endswith(b"\n"):  # else it is being written
                    damaged.append(number)


def _read_answer(fields: Mapping[str, Any]) -> Answer:
    """One completion of the log; a reward that is missing is NaN."""
    rewards = {str(k): math.nan if x is None else float(x) for k, x in fields["rewards"].items()}
    return Answer(str(fields["prompt"]), str(fields["completion"]), rewards)


def _read_evaluations(folder: Path, notes: list[str]) -> tuple[tuple[Gain, ...], tuple[Pair, ...]]:
    """Figures before and after the run: its own, or those of the demo's stages."""
    gains: tuple[Gain, ...] = ()
    pairs: tuple[Pair, ...] = ()
    before, after = folder / EVALUATION / "before", folder / EVALUATION / "after"
    try:
        gains = read_demo_gains(folder / "ladder.json")
        if (before / "samples.jsonl").is_file() and (after / "samples.jsonl").is_file():
            found, pairs = read_gains(before, after)
            gains = (*gains, *found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        notes.append(f"the evaluation before and after could not be read: {error}")
    return gains, pairs
