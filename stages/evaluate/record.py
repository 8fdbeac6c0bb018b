"""Evaluations on disk: every sample as soon as it is computed, figures at the end; resumes after a kill.

FOLDER/samples.jsonl    one sample per line: task, id, prompt, output, score, the hash of the template, ...
FOLDER/results.json     figures, standard errors, options, versions, digests of the model and the samples
FOLDER/evaluation.json  what the saved samples depend on
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from data_pipes import files
from data_pipes.digest import hash_bytes
from data_pipes.files import writing
from pure.plural import count_noun
from stages.checkpoint.lock import lock_folder
from stages.checkpoint.manifest import environment
from stages.evaluate.task import Figure, Report, Sample, Task, reusable_samples, run_task, template_hash
from stages.run.processes import ALONE, Processes, compare, gather_values, share_first
from stages.run.progress import Progress, progress

SAMPLES, RESULTS, PROVENANCE = "samples.jsonl", "results.json", "evaluation.json"


def evaluate(
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    about: Mapping[str, Any],
    flags: Mapping[str, Any] | None = None,
    quiet: bool = False,
    processes: Processes = ALONE,
) -> dict[str, Report]:
    """Run tasks, and save every sample and the figures.

    After a kill it resumes with the saved samples: a sample does not depend on the other questions.

    Args:
        tasks: tasks with different names.
        folder: created if missing; holds one evaluation.
        about: options and the model's digest, plain JSON: saved samples are reused only if these are equal.
        flags: all flags of the command, plain JSON, to repeat it; results.json keeps them. None keeps none.
        quiet: print nothing.
        processes: those that answer the questions together; the first writes and prints.

    Returns:
        Reports by the tasks' names.

    Raises:
        ValueError: if the folder holds another evaluation (the message lists what differs), or another
            process uses it.
        OSError: if writing fails.
    """
    folder = Path(folder)
    templates = {task.name: template_hash(task) for task in tasks}
    provenance = json.loads(json.dumps({**about, "templates": templates}))
    reports: dict[str, Report] = {}
    compare(processes, provenance, about="model and tasks")
    if not processes.first:
        saved = share_first(processes, None, about="the saved answers")
        return {task.name: run_task(share_questions(task, processes), saved.get(task.name)) for task in tasks}
    with lock_folder(folder):
        saved = share_first(processes, _resume(folder, provenance), about="the saved answers")
        with (folder / SAMPLES).open("a", encoding="utf-8") as file:
            for task in tasks:
                shared = share_questions(task, processes)
                reports[task.name] = _run(shared, saved.get(task.name, {}), file, quiet)
        results = _results(tasks, reports, provenance)
        files.write_json(folder / RESULTS, results | ({} if flags is None else {"flags": dict(flags)}))
    return reports


def share_questions(task: Task, processes: Processes) -> Task:
    """Returns a task of which each process answers every n-th question, and all get the answers of all.

    Args:
        task: an evaluation; its questions are the same on all processes.
        processes: joined, or alone.
    """
    if processes.size == 1:
        return task
    answer = partial(_answer_together, task.answer, processes)
    return task._replace(answer=answer, chunk=task.chunk * processes.size)


def read_samples(folder: str | Path) -> dict[str, list[Sample]]:
    """Read the samples of a folder, by task; if a question has several, the last one.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a line other than the last is not JSON; the message names file and line.
    """
    path = Path(folder) / SAMPLES
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected the --output_dir of an `intro2llm evaluate`")
    return {task: list(samples.values()) for task, samples in _by_task(_read_lines(path)[0]).items()}


def format_table(reports: Mapping[str, Report]) -> str:
    """Format the figures with their standard errors, a line each.

    Example:
        >>> from stages.evaluate.task import Figure
        >>> print(format_table({"mmlu": Report({"acc": Figure(0.25, 0.043, 100)}, [])}))
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
                f"context is shorter"
            )
        if unscored := sum(sample.get("status") in ("broken", "killed") for sample in report.samples):
            lines.append(
                f"{name:<12} {count_noun(unscored, 'program')} not scored: the tests do not run, or the "
                f"system killed them; see the reasons"
            )
    return "\n".join(lines)


def _answer_together(
    answer: Callable[[Sequence[int]], list[Sample]], processes: Processes, numbers: Sequence[int]
) -> list[Sample]:
    """Answers this process's questions, and gathers the answers in the order of `numbers`."""
    own = list(numbers[processes.rank :: processes.size])
    samples: list[Sample] = [{}] * len(numbers)
    for rank, part in enumerate(gather_values(processes, answer(own) if own else [], about="answers")):
        samples[rank :: processes.size] = part
    return samples


def _run(task: Task, saved: Mapping[str, Sample], file: TextIO, quiet: bool) -> Report:
    """Run one task; each chunk is on disk before the next starts."""
    reused = reusable_samples(task, saved)
    count = len(reused)
    screen: Progress = progress(task.name, len(task.ids), count, quiet=quiet)
    if reused:
        screen.say(f"{task.name}: resuming with {count:,} of {len(task.ids):,} questions answered")

    def save(samples: list[Sample]) -> None:
        nonlocal count
        with writing(Path(file.name)):
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
            files.sync_file(file)
        count += len(samples)
        screen.show(count, {})

    try:
        return run_task(task, reused, save=save)
    finally:
        screen.close()


def _resume(folder: Path, provenance: Mapping[str, Any]) -> dict[str, dict[str, Sample]]:
    """Return the saved samples, by task and id; a last line that a kill cut off is removed."""
    provenance_path, path = folder / PROVENANCE, folder / SAMPLES
    samples, length = _read_lines(path) if path.exists() else ([], 0)
    if not samples:
        files.write_json(provenance_path, provenance)
        path.unlink(missing_ok=True)
        return {}
    if not provenance_path.exists():
        raise ValueError(
            f"{path} exists without {provenance_path.name}, so its evaluation is unknown; choose another "
            f"--output_dir"
        )
    if changed := _differences(files.read_json(provenance_path), provenance):
        raise ValueError(
            f"{folder} holds another evaluation: {'; '.join(changed)}; choose another --output_dir, or give "
            f"the options of that one to resume it"
        )
    os.truncate(path, length)
    return _by_task(samples)


def _by_task(samples: Sequence[Sample]) -> dict[str, dict[str, Sample]]:
    """Group samples by task and id."""
    by_task: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        by_task.setdefault(sample["task"], {})[sample["id"]] = sample
    return by_task


def _read_lines(path: Path) -> tuple[list[Sample], int]:
    """Read the samples of a file, and count the bytes of its complete lines."""
    samples, length = [], 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            samples.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object, got {error}; was the file edited?"
            ) from None
        length += len(line)
    return samples, length


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the entries that differ, those of nested dicts too."""
    differences = []
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += [f"{name}.{text}" for text in _differences(old, new)]
        elif old != new:
            differences.append(f"{name} was {old}, is {new}")
    return differences


def _results(tasks: Sequence[Task], reports: Mapping[str, Report], provenance: Mapping[str, Any]) -> dict:
    """Contents of results.json; null for a number that is not finite."""
    lines = [json.dumps(sample, sort_keys=True) for report in reports.values() for sample in report.samples]
    dropped = {name: sum(bool(s.get("dropped")) for s in r.samples) for name, r in reports.items()}
    return {
        "results": {
            name: {label: _finite(figure) for label, figure in report.figures.items()}
            for name, report in reports.items()
        },
        "samples_read": {name: len(report.samples) for name, report in reports.items()},
        "cut_on_the_left": dropped,
        "about": {task.name: dict(task.about) for task in tasks},
        **provenance,
        "environment": {"intro2llm": version("intro2llm"), **environment()},
        "samples_sha256": hash_bytes("\n".join(lines).encode()),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _finite(figure: Figure) -> dict[str, float | None]:
    """Return the numbers of a figure, None for one that is not finite."""
    return {part: x if math.isfinite(x) else None for part, x in figure._asdict().items()}
