"""Evaluations on disk: each prompt and answer as soon as it is there, the figures at the end, going on after
a kill.

FOLDER/samples.jsonl    one line an answer: task, id, prompt, output, score, the hash of the template, ...
FOLDER/results.json     figures, standard errors, options, versions, the model's digest, the digest of the
samples
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipes import files
from data_pipes.digest import hash_bytes
from data_pipes.files import writing
from stages.checkpoint.lock import lock_folder
from stages.checkpoint.manifest import environment
from stages.evaluate.task import Report, Sample, Task, answered, finish, template_hash
from stages.run.progress import Progress, progress

SAMPLES, RESULTS, BEGUN = "samples.jsonl", "results.json", "evaluation.json"


def evaluate(
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    about: Mapping[str, Any],
    quiet: bool = False,
) -> dict[str, Report]:
    """Runs tasks, and writes down everything.

    Killed, it goes on with the answers that are there: an answer does not depend on which others were asked
    with it.

    Args:
        tasks: of different names.
        folder: is made; holds the results of one evaluation.
        about: options and the model's digest, plain JSON: what must be the same for the answers in the folder
            to count.
        quiet: print nothing.

    Returns:
        Reports by the tasks' names.

    Raises:
        ValueError: if the folder holds answers of another evaluation, with what differs; or another process
            uses it.
        OSError: if the disk refuses.
    """
    place = Path(folder)
    told = json.loads(json.dumps({**about, "templates": {task.name: template_hash(task) for task in tasks}}))
    found: dict[str, Report] = {}
    with lock_folder(place):
        known = _known(place, told)
        with (place / SAMPLES).open("a", encoding="utf-8") as file:
            for task in tasks:
                found[task.name] = _run(task, known.get(task.name, {}), file, quiet)
        files.write_json(place / RESULTS, _results(tasks, found, told))
    return found


def read(folder: str | Path) -> dict[str, list[Sample]]:
    """Reads the answers of a folder, by task; of several to one question the last.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a line but the last is no JSON; with file and line.
    """
    path = Path(folder) / SAMPLES
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected the --output_dir of an `intro2llm evaluate`")
    return {task: list(samples.values()) for task, samples in _by_task(_lines(path)[0]).items()}


def table(reports: Mapping[str, Report]) -> str:
    """Writes the figures with their standard errors, a line each.

    Example:
        >>> from stages.evaluate.task import Figure
        >>> print(table({"mmlu": Report({"acc": Figure(0.25, 0.043, 100)}, [])}))
        task         figure                             value     ± stderr      of
        mmlu         acc                               0.2500       0.0430     100
    """
    lines = [f"{'task':<12} {'figure':<28} {'value':>11} {'± stderr':>12} {'of':>7}"]
    for name, report in reports.items():
        for label, (value, stderr, count) in report.figures.items():
            lines.append(f"{name:<12} {label:<28} {value:>11.4f} {stderr:>12.4f} {count:>7,}")
        if cut := sum(bool(sample.get("dropped")) for sample in report.samples):
            lines.append(
                f"{name:<12} {cut:,} of {len(report.samples):,} prompts were cut on the left: the model's "
                "context is shorter"
            )
        if lost := sum(sample.get("status") in ("broken", "killed") for sample in report.samples):
            lines.append(
                f"{name:<12} {lost:,} programs were not judged: their tests do not run, or the system ended "
                "them; see the reasons"
            )
    return "\n".join(lines)


def _run(task: Task, known: Mapping[str, Sample], file: Any, quiet: bool) -> Report:
    """One task; each chunk is on the disk before the next is begun."""
    here = answered(task, known)
    screen: Progress = progress(task.name, len(task.ids), len(here), quiet=quiet)
    if here:
        screen.say(f"{task.name}: {len(here):,} of {len(task.ids):,} answers are there already")
    count = len(here)

    def keep(samples: list[Sample]) -> None:
        nonlocal count
        with writing(Path(file.name)):
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
            files.sync_file(file)
        count += len(samples)
        screen.show(count, {})

    try:
        return finish(task, here, keep=keep)
    finally:
        screen.close()


def _known(folder: Path, about: Mapping[str, Any]) -> dict[str, dict[str, Sample]]:
    """The answers that are there, by task and id; a line that a kill cut off is taken away."""
    begun, path = folder / BEGUN, folder / SAMPLES
    samples, length = _lines(path) if path.exists() else ([], 0)
    if not samples:
        files.write_json(begun, about)
        path.unlink(missing_ok=True)
        return {}
    if not begun.exists():
        raise ValueError(
            f"{path} is there, but {begun.name} is not: whose answers are they? Choose another folder"
        )
    if changed := _differences(files.read_json(begun), about):
        raise ValueError(
            f"{folder} holds answers of another evaluation: {'; '.join(changed)}; choose another --output_dir, or give "
            "the options of that one to go on with it"
        )
    os.truncate(path, length)
    return _by_task(samples)


def _by_task(samples: Sequence[Sample]) -> dict[str, dict[str, Sample]]:
    """Samples by task and id."""
    found: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        found.setdefault(sample["task"], {})[sample["id"]] = sample
    return found


def _lines(path: Path) -> tuple[list[Sample], int]:
    """The samples of a file, and the bytes that are whole lines."""
    found, length = [], 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object, got {error}; was the file edited?"
            ) from None
        length += len(line)
    return found, length


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not the same, by name; of dicts the entries."""
    found = []
    for name in sorted(was.keys() | now.keys()):
        one, two = was.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += [f"{name}.{told}" for told in _differences(one, two)]
        elif one != two:
            found.append(f"{name} was {one}, is {two}")
    return found


def _results(tasks: Sequence[Task], found: Mapping[str, Report], about: Mapping[str, Any]) -> dict:
    """What results.json holds; null where a number is not known."""
    lines = [json.dumps(sample, sort_keys=True) for report in found.values() for sample in report.samples]
    return {
        "results": {
            name: {
                label: {part: x if math.isfinite(x) else None for part, x in figure._asdict().items()}
                for label, figure in report.figures.items()
            }
            for name, report in found.items()
        },
        "samples_read": {name: len(report.samples) for name, report in found.items()},
        "cut_on_the_left": {
            name: sum(bool(s.get("dropped")) for s in r.samples) for name, r in found.items()
        },
        "about": {task.name: dict(task.about) for task in tasks},
        **about,
        "environment": {"intro2llm": version("intro2llm"), **environment()},
        "samples_sha256": hash_bytes("\n".join(lines).encode()),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
