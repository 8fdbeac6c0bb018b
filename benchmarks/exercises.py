"""The student edition's checks, counted over all exercises.

    python benchmarks/exercises.py --table     # write stages/teach/tests.json, then check it with our own bodies
    python benchmarks/exercises.py --cheats    # every exercise with answers that are none: all must fail

`--table` runs the test file of each exercise's module, the other files that name its function, and the laws, with
every exercise recorded, and keeps quick tests that pass without libraries of others; with `--known` only the test
file of the module and the files of the row, which is quick after adding a test. `--only NAME` limits either.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from stages.teach.cheats import list_cheats, write_cheat
from stages.teach.course import COURSE, Exercise
from stages.teach.grader import check, needs_compiler, open_server
from stages.teach.reach import Reached, pick_tests
from stages.teach.report import describe_result
from stages.teach.suite import TABLE, ExerciseTests, list_tests, read_table

ROOT = Path(__file__).resolve().parents[1]

SECONDS = 150
"""Limit for one file of tests."""

LAWS = ("tests/laws/test_losses.py", "tests/laws/test_optimizers.py", "tests/laws/test_pipes.py")
NEVER = (
    "tests/pure/interop/",
    "tests/stages/checkpoint/",
    "tests/stages/cli/",
    "tests/stages/run/",
    "tests/stages/teach/",
    "tests/laws/test_lowering.py",
    "tests/laws/test_processes.py",
    "tests/laws/test_sharded.py",
    "tests/laws/test_stages.py",
)
"""Tests that start processes, compile, or need libraries of others."""


def main() -> int:
    """Runs what is asked for.

    Returns:
        1 if our own body fails a check, or an answer that is none passes.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--known", action="store_true", help="of the table: run no other files than before")
    parser.add_argument("--cheats", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    exercises = [each for chapter in COURSE for each in chapter.exercises]
    if options.only:
        exercises = [each for each in exercises if each.name in options.only]
    failed = 0
    if options.table:
        failed += write_table(exercises, list_files(exercises, known=options.known), options.processes)
    if options.cheats:
        failed += count_cheats(exercises)
    return int(failed > 0)


def write_table(exercises: Sequence[Exercise], files: Sequence[str], processes: int) -> int:
    """Writes the table of tests, and returns the number of exercises that our own body does not pass."""
    with ThreadPoolExecutor(processes) as threads:
        rows = [row for found in threads.map(run_file, files) for row in found]
    table = {name: write_row(tests) for name, tests in read_table().items()}
    for exercise in exercises:
        tests, seconds = pick_tests(exercise.name, exercise.module, rows)
        table[exercise.name] = write_row(ExerciseTests(tuple(tests), seconds))
    known = [each.name for chapter in COURSE for each in chapter.exercises]
    save = lambda: TABLE.write_text(  # noqa: E731
        json.dumps({name: table[name] for name in known if name in table}, indent=1) + "\n", "utf8"
    )
    save()
    read_table.cache_clear()
    failed = 0
    with open_server() as server, tempfile.TemporaryDirectory() as folder:
        for exercise in exercises:
            write_cheat(Path(folder), exercise, "reference")
            result = check(Path(folder), exercise, server)
            while (
                not result.passed and result.kind == "tests"
            ):  # a test that counts calls, or needs our conftest
                bad = str(result.fields["test"])
                without = (bad, bad.partition("[")[0])  # or a file, which cannot be imported
                kept = [
                    each
                    for each in table[exercise.name]["tests"]
                    if each not in without and each.partition("::")[0] != bad
                ]
                if len(kept) == len(table[exercise.name]["tests"]):
                    break
                print(f"{exercise.name}: without {bad}: {result.fields['error']}")
                table[exercise.name]["tests"] = kept
                save()
                read_table.cache_clear()
                result = check(Path(folder), exercise, server)
            failed += not result.passed
            tests = table[exercise.name]
            print(
                f"{exercise.name:<32}{result.calls:>6} calls{result.tests:>5} tests"
                f"{tests['seconds']:>7.2f} s{result.seconds:>7.2f} s"
            )
            if not result.passed:
                print(describe_result(result))
    with tempfile.TemporaryDirectory() as folder:
        mark_compiler(Path(folder), exercises, table)
    save()
    read_table.cache_clear()
    return failed


def write_row(tests: ExerciseTests) -> dict[str, Any]:
    """Writes a row of the table."""
    row = {"tests": list(tests.ids), "seconds": tests.seconds}
    return row | {"compiler": True} if tests.compiler else row


def mark_compiler(folder: Path, exercises: Sequence[Exercise], table: Mapping[str, dict[str, Any]]) -> None:
    """Marks in the table the exercises whose own body needs torch's compiler from the start of the check."""
    with open_server() as server:
        for exercise in exercises:
            write_cheat(folder, exercise, "reference")
            if needs_compiler(folder, exercise, server):
                table[exercise.name]["compiler"] = True
                print(f"{exercise.name}: needs the compiler")


def list_files(exercises: Sequence[Exercise], *, known: bool) -> list[str]:
    """Lists the test files that may reach an exercise: those that import its module, and the laws.

    Args:
        exercises: of the course.
        known: True lists the test files of their modules, and those in the table.
    """
    if known:
        names = [exercise.module.replace(".", "/").rpartition("/") for exercise in exercises]
        own = {f"tests/{folder}/test_{name}.py" for folder, _, name in names}
        rows = {each.partition("::")[0] for exercise in exercises for each in list_tests(exercise.name).ids}
        return sorted(file for file in own | rows if (ROOT / file).is_file())
    modules = {exercise.module for exercise in exercises}
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file = str(path.relative_to(ROOT))
        text = path.read_text("utf8")
        imports = any(
            f"from {module} import" in text or re.search(rf"from {package} import [^\n]*\b{name}\b", text)
            for module in modules
            for package, _, name in [module.rpartition(".")]
        )
        if (imports or file in LAWS) and not file.startswith(NEVER):
            found.append(file)
    return found


def run_file(file: str) -> list[Reached]:
    """Runs a file of tests with all exercises recorded, in a process of its own."""
    with tempfile.TemporaryFile("w+", encoding="utf8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.teach.reach", file],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{file}: longer than {SECONDS} s; the tests until then count", file=sys.stderr)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        rows = [Reached(*json.loads(line[1:])) for line in output if line.startswith("@[")]
    print(f"{file}: {len(rows)} tests", file=sys.stderr, flush=True)
    return rows


def count_cheats(exercises: Sequence[Exercise]) -> int:
    """Checks answers that are none, prints how many of each kind fail, and returns how many pass."""
    caught: dict[str, int] = {}
    tried: dict[str, int] = {}
    with open_server() as server, tempfile.TemporaryDirectory() as folder:
        for exercise in exercises:
            for cheat in list_cheats():
                path = Path(folder) / exercise.name / cheat
                if not write_cheat(path, exercise, cheat):
                    continue
                result = check(path, exercise, server)
                right = result.passed == (cheat == "reference")
                tried[cheat] = tried.get(cheat, 0) + 1
                caught[cheat] = caught.get(cheat, 0) + right
                if not right:
                    print(f"{exercise.name}, {cheat}:\n{describe_result(result)}")
    for cheat, count in tried.items():
        print(f"{cheat:<16}{caught[cheat]:>5} of {count} as they should be")
    return sum(tried.values()) - sum(caught.values())


if __name__ == "__main__":
    sys.exit(main())
