"""The student edition's check, held to mistakes: the share of mutants of each exercise's body that it refuses.

    python benchmarks/mutants.py                         # all exercises
    python benchmarks/mutants.py --only losses dpo_loss  # chapters and exercises

A mutant is our own body with one mistake in it (`_mutations`), at most `--count` of each body. It is killed if the
check that a learner gets does not pass. One that cannot be told apart is marked in `mutants_equivalent.json`, with
the reason. Any other that survives is a missing test. What was found before is kept in the folder for temporary
files: a kill for as long as the body and the mutant are the same, and no test of that time has left the list; a
survival for as long as the list, the files of its tests and those of the check are the same.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import queue
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from _mutations import choose_mutations, describe_change, list_mutations

from stages.teach.cheats import replace_body
from stages.teach.course import COURSE, Chapter, Exercise
from stages.teach.files import ROOT, find_answer, read_original
from stages.teach.grader import Server, check, open_server
from stages.teach.suite import find_suite, list_tests
from stages.teach.syntax import find_function

EQUIVALENT = Path(__file__).with_name("mutants_equivalent.json")
"""Exercise -> change of a mutant that cannot be told apart from our body -> the reason."""

FLOOR = 0.95
"""Share of the mutants that must be killed."""

COUNT = 8
"""Mutants of an exercise, at most."""


class Mutant(NamedTuple):
    """A mutant of an exercise.

    Fields:
        exercise: of the course.
        operator: kind of mistake.
        change: lines that it lacks and adds.
        body: its source, without the docstring.
        reason: why it cannot be told apart; "" if it can.
    """

    exercise: Exercise
    operator: str
    change: str
    body: str
    reason: str


class Verdict(NamedTuple):
    """What the check said of a mutant.

    Fields:
        killed: it did not pass.
        kind: of the failure; "error" is a failure of the check itself, and kills nothing.
        seconds: of the check.
        tests: ids of the tests of that time.
        context: digest of the files that a survival depends on.
    """

    killed: bool
    kind: str
    seconds: float
    tests: Sequence[str]
    context: str


def main() -> int:
    """Prints the table.

    Returns:
        1 if fewer than 95% of the mutants are killed, or one that is marked as equivalent is killed.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="CHAPTER|NAME")
    parser.add_argument("--count", type=int, default=COUNT, help="mutants of an exercise, at most")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="check again what was found before")
    options = parser.parse_args()
    chosen = choose_exercises(options.only)
    mutants = [each for _, exercise in chosen for each in make_mutants(exercise, options.count)]
    verdicts = judge_mutants(mutants, options.jobs, options.fresh)
    return print_table(chosen, mutants, verdicts)


def choose_exercises(names: Sequence[str]) -> list[tuple[Chapter, Exercise]]:
    """Lists the exercises of these chapters and names; all, if there are none.

    Raises:
        SystemExit: for a name that is neither.
    """
    pairs = [(chapter, exercise) for chapter in COURSE for exercise in chapter.exercises]
    known = {chapter.name for chapter in COURSE} | {exercise.name for _, exercise in pairs}
    if unknown := sorted(set(names) - known):
        raise SystemExit(f"--only: expected chapters or exercises, got {', '.join(unknown)}")
    return [pair for pair in pairs if not names or {pair[0].name, pair[1].name} & set(names)]


def make_mutants(exercise: Exercise, count: int) -> list[Mutant]:
    """Makes the mutants of an exercise, always the same ones."""
    function = read_function(exercise)
    marks = read_equivalent().get(exercise.name, {})
    mutants = []
    for each in choose_mutations(list_mutations(function), exercise.name, count):
        change = describe_change(function, each.tree)
        body = "\n".join(ast.unparse(statement) for statement in each.tree.body[1:]) + "\n"
        mutants.append(Mutant(exercise, each.operator, change, body, marks.get(change, "")))
    return mutants


def read_function(exercise: Exercise) -> ast.FunctionDef:
    """Reads our function as a tree."""
    found = find_function(ast.parse(read_original(exercise.module)), exercise.function)
    assert isinstance(found, ast.FunctionDef), exercise.name
    return found


def read_equivalent() -> dict[str, dict[str, str]]:
    """Reads the table of mutants that cannot be told apart."""
    return json.loads(EQUIVALENT.read_text("utf8"))


def judge_mutants(mutants: Sequence[Mutant], jobs: int, fresh: bool) -> list[Verdict]:
    """Checks the mutants whose verdict is not known, with so many servers at once; the verdicts in order."""
    contexts = {each.exercise: digest_context(each.exercise) for each in mutants}
    keys = [digest_mutant(each) for each in mutants]
    known = {} if fresh else {key: read_verdict(key) for key in keys}
    verdicts: dict[str, Verdict] = {}
    left: queue.SimpleQueue[tuple[str, Mutant]] = queue.SimpleQueue()
    for key, mutant in zip(keys, mutants, strict=True):
        old = known.get(key)
        if old is not None and is_valid(old, list_tests(mutant.exercise.name).ids, contexts[mutant.exercise]):
            verdicts[key] = old
        else:
            left.put((key, mutant))

    def work(server: Server) -> None:
        while True:
            try:
                key, mutant = left.get_nowait()
            except queue.Empty:
                return
            tests = list_tests(mutant.exercise.name).ids
            verdict = judge_mutant(mutant, server)._replace(tests=tests, context=contexts[mutant.exercise])
            verdicts[key] = verdict
            write_verdict(key, verdict)
            print(f"{mutant.exercise.name}, {mutant.operator}: {verdict.kind or 'survives'}", file=sys.stderr)

    if not left.empty():
        with ExitStack() as stack, ThreadPoolExecutor(jobs) as threads:
            list(threads.map(work, [stack.enter_context(open_server()) for _ in range(jobs)]))
    return [verdicts[key] for key in keys]


def is_valid(verdict: Verdict, tests: Sequence[str], context: str) -> bool:
    """Tells whether a verdict that was kept would be found again.

    Args:
        verdict: that was kept.
        tests: ids of the tests that the check runs now.
        context: digest of the files that a survival depends on, now.
    """
    if verdict.killed:
        return set(verdict.tests) <= set(tests)
    return list(verdict.tests) == list(tests) and verdict.context == context


def judge_mutant(mutant: Mutant, server: Server) -> Verdict:
    """Checks a mutant as a learner's answer."""
    module = mutant.exercise.module
    text = read_original(module)
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        path = find_answer(Path(name), module)
        path.parent.mkdir(parents=True)
        path.write_text(replace_body(text, mutant.exercise.function, mutant.body), "utf8")
        result = check(Path(name), mutant.exercise, server)
    return Verdict(not result.passed and result.kind != "error", result.kind, result.seconds, (), "")


def digest_mutant(mutant: Mutant) -> str:
    """Digest of our function and the mutant, under which its verdict is kept."""
    return digest_texts([mutant.exercise.name, ast.unparse(read_function(mutant.exercise)), mutant.body])


def digest_context(exercise: Exercise) -> str:
    """Digest of the files that a survival depends on besides: those of the tests and of the check."""
    suite = find_suite()
    assert suite is not None, "a clone has tests/"
    files = sorted({each.partition("::")[0] for each in list_tests(exercise.name).ids})
    paths = [*(suite / file for file in files), *sorted((ROOT / "stages/teach").glob("*.py"))]
    return digest_texts([path.read_text("utf8") for path in paths])


def digest_texts(texts: Sequence[str]) -> str:
    """Digest of texts in order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def find_kept(key: str) -> Path:
    """The file that keeps a verdict."""
    return Path(tempfile.gettempdir()) / "intro2llm-mutants" / f"{key}.json"


def read_verdict(key: str) -> Verdict | None:
    """Reads a verdict that was kept; None if there is none."""
    try:
        return Verdict(*json.loads(find_kept(key).read_text("utf8")))
    except (OSError, ValueError, TypeError):
        return None


def write_verdict(key: str, verdict: Verdict) -> None:
    """Keeps a verdict."""
    path = find_kept(key)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(verdict), "utf8")


def print_table(
    chosen: Sequence[tuple[Chapter, Exercise]], mutants: Sequence[Mutant], verdicts: Sequence[Verdict]
) -> int:
    """Prints a row for each exercise and chapter, then what is not as it should be.

    Returns:
        1 if too few are killed, or a mark is wrong.
    """
    rows = list(zip(mutants, verdicts, strict=True))
    print(f"{'exercise':<32}{'mutants':>8}{'killed':>8}{'equivalent':>12}{'survive':>9}")
    for chapter in dict.fromkeys(chapter for chapter, _ in chosen):
        names = {exercise.name for each, exercise in chosen if each is chapter}
        own = [row for row in rows if row[0].exercise.name in names]
        for name in dict.fromkeys(mutant.exercise.name for mutant, _ in own):
            print(describe_row(name, [row for row in own if row[0].exercise.name == name]))
        print(describe_row(f"-- {chapter.title}", own), f"{share_killed(own):>8.1%}")
    print(describe_row("all", rows), f"{share_killed(rows):>8.1%}")
    kinds = Counter(verdict.kind for _, verdict in rows if verdict.killed)
    print("killed by", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    for title, row in list_problems(rows):
        print(f"\n{row[0].exercise.name}, {row[0].operator}: {title}\n{row[0].change}")
    wrong = any(mutant.reason and verdict.killed for mutant, verdict in rows)
    return int(wrong or share_killed(rows) < FLOOR)


def list_problems(
    rows: Sequence[tuple[Mutant, Verdict]],
) -> Iterator[tuple[str, tuple[Mutant, Verdict]]]:
    """Yields what is not as it should be, and the row that shows it."""
    for mutant, verdict in rows:
        if mutant.reason and verdict.killed:
            yield f"marked as equivalent, but killed: {verdict.kind}", (mutant, verdict)
        elif verdict.kind == "error":
            yield "the check failed", (mutant, verdict)
        elif not mutant.reason and not verdict.killed:
            yield "survives", (mutant, verdict)


def count_rows(rows: Sequence[tuple[Mutant, Verdict]]) -> Mapping[str, int]:
    """Counts mutants: "killed", "equivalent", "survive"."""
    return Counter(
        "equivalent" if mutant.reason else "killed" if verdict.killed else "survive"
        for mutant, verdict in rows
    )


def describe_row(title: str, rows: Sequence[tuple[Mutant, Verdict]]) -> str:
    """A line of the table."""
    counts = count_rows(rows)
    return f"{title:<32}{len(rows):>8}{counts['killed']:>8}{counts['equivalent']:>12}{counts['survive']:>9}"


def share_killed(rows: Sequence[tuple[Mutant, Verdict]]) -> float:
    """Share of the mutants that are killed, among those that can be told apart; 1 if there are none."""
    counts = count_rows(rows)
    return counts["killed"] / max(1, len(rows) - counts["equivalent"]) if rows else 1.0


if __name__ == "__main__":
    sys.exit(main())
