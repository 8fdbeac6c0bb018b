"""Seconds that a learner waits for the student edition: `start`, a check of each exercise, and `--watch` after saving.

    OMP_NUM_THREADS=2 python benchmarks/exercises_speed.py             # all 106 checks
    python benchmarks/exercises_speed.py --only rms_norm gae

Each command is a process of its own, as typed, with the imports of Python and torch in its time; the answers are our
own bodies, which take longest, as no test of theirs fails. The processor seconds of a command and of the processes
that it starts stand beside its seconds: other programs on the machine lengthen these, and those less. An import of
torch alone, measured in turn with the checks, is the measure of both.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from stages.teach.course import COURSE, Exercise
from stages.teach.files import find_answer, read_original

ROOT = Path(__file__).resolve().parents[1]

SAVES = 5
"""Times that a file is saved under `--watch`."""

LIMIT = 5.0
"""Seconds that a check may take."""

WATCHED = ("merge_pair", "rms_norm", "attend", "top_p", "dpo_loss", "gae", "adam_update", "pass_at_k")
"""Exercises of eight chapters that are watched."""


class Cost(NamedTuple):
    """Cost of a command.

    Fields:
        seconds: until it ends.
        work: processor seconds, with those of the processes that it starts.
    """

    seconds: float
    work: float


def main() -> int:
    """Prints the seconds; returns 1 if a check of our own body fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    exercises = [each for chapter in COURSE for each in chapter.exercises]
    if options.only:
        exercises = [each for each in exercises if each.name in options.only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "my"
        start = measure(["start", str(folder)])
        for exercise in exercises:
            find_answer(folder, exercise.module).write_text(read_original(exercise.module), "utf8")
        print(f"start {describe_cost(start)}", flush=True)
        checks, torch_alone = measure_checks(folder, exercises)
        print(
            "import of torch alone, processor seconds:", describe_spread([each.work for each in torch_alone])
        )
        print("checks, seconds:", describe_checks([cost.seconds for cost in checks]))
        print("checks, processor seconds:", describe_checks([cost.work for cost in checks]))
        unit = statistics.median(each.work for each in torch_alone)
        print("checks, imports of torch:", describe_spread([cost.work / unit for cost in checks]), flush=True)
        watched = [each for each in exercises if each.name in WATCHED]
        saves = {each.name: watch_saves(folder, each) for each in watched}
    for name, waits in saves.items():
        print(f"watch {name:<32}{statistics.median(waits):>7.2f} s, at most {max(waits):.2f}")
    if all_waits := [wait for waits in saves.values() for wait in waits]:
        print(f"after saving: median {statistics.median(all_waits):.2f} s, at most {max(all_waits):.2f}")
    return 0


def measure_checks(folder: Path, exercises: Sequence[Exercise]) -> tuple[list[Cost], list[Cost]]:
    """Measures the check of each exercise, and before every tenth the import of torch alone; prints each."""
    checks, torch_alone = [], []
    for i, each in enumerate(exercises):
        if i % 10 == 0:
            torch_alone.append(measure_command([sys.executable, "-c", "import torch"]))
        checks.append(measure(["check", str(folder), each.name]))
        cost = checks[-1]
        print(f"check {each.name:<32}{cost.seconds:>7.2f} s, processor {cost.work:.2f} s", flush=True)
    return checks, torch_alone


def describe_cost(cost: Cost) -> str:
    """A cost in words."""
    return f"{cost.seconds:.2f} s (processor {cost.work:.2f} s)"


def describe_spread(values: Sequence[float]) -> str:
    """Median and maximum."""
    return f"median {statistics.median(values):.2f}, at most {max(values):.2f}"


def describe_checks(values: Sequence[float]) -> str:
    """Median and maximum of the checks' seconds, and how many are over LIMIT."""
    over = sum(each > LIMIT for each in values)
    return f"{describe_spread(values)}, {over} of {len(values)} over {LIMIT:.0f}"


def measure(arguments: Sequence[str]) -> Cost:
    """Runs `intro2llm exercises` with these arguments, and returns its cost.

    Raises:
        SystemExit: if it fails; the message is what it said.
    """
    return measure_command(command(arguments))


def measure_command(words: Sequence[str]) -> Cost:
    """Runs a command, and returns its cost; raises SystemExit as `measure`."""
    begin, work = time.perf_counter(), read_work()
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)
    if result.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return Cost(time.perf_counter() - begin, read_work() - work)


def read_work() -> float:
    """Processor seconds of the processes that this one started and that have ended, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def watch_saves(folder: Path, exercise: Exercise) -> list[float]:
    """Saves an exercise's file under `check --watch`; returns the seconds from each save to its result."""
    file = find_answer(folder, exercise.module)
    process = subprocess.Popen(
        command(["check", str(folder), exercise.name, "--watch"]),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background job ignores it
    )
    assert process.stdout is not None
    waits = []
    try:
        read_until_passed(process, exercise.name)
        for _ in range(SAVES):
            time.sleep(0.5)
            begin = time.perf_counter()
            file.write_text(f"{file.read_text('utf8')}\n", "utf8")
            read_until_passed(process, exercise.name)
            waits.append(time.perf_counter() - begin)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    return waits


def read_until_passed(process: subprocess.Popen[str], name: str) -> None:
    """Reads lines until one says that the exercise passed.

    Raises:
        SystemExit: if the process ends before.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{name}: passed"):
            return
    raise SystemExit(f"check {name} --watch ended, exit {process.wait()}")


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of `intro2llm exercises` with these arguments."""
    return [sys.executable, "-m", "stages.cli.main", "exercises", *arguments]


if __name__ == "__main__":
    sys.exit(main())
