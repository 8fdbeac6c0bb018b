"""`stages.teach.suite`: the table of tests names tests that exist, and that reach their exercise."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.teach.course import COURSE
from stages.teach.peers import PEERS
from stages.teach.reach import BUDGET
from stages.teach.suite import find_suite, list_libraries, list_tests, read_table

EXERCISES = [each for chapter in COURSE for each in chapter.exercises]
TABLE = read_table()


def list_functions(file: str) -> Iterator[str]:
    """Yield the ids of the test functions of a file, without their cases."""
    suite = find_suite()
    assert suite is not None
    for node in ast.parse((suite / file).read_text("utf8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{file}::{node.name}"


def test_the_table_is_of_exercises() -> None:
    assert set(TABLE) - {exercise.name for exercise in EXERCISES} == set()
    assert list_tests("absent").ids == ()


def test_every_exercise_has_a_test() -> None:
    assert [exercise.name for exercise in EXERCISES if not list_tests(exercise.name).ids] == []


def test_every_test_of_the_table_exists() -> None:
    named = {test.partition("[")[0] for tests in TABLE.values() for test in tests.ids}
    files = {test.partition("::")[0] for test in named}
    assert named - {test for file in files for test in list_functions(file)} == set()


@functools.cache
def read_definitions(file: str) -> tuple[dict[str, ast.stmt], dict[str, str]]:
    """The definitions at the top of a file by name, and what it imports there: name -> "package.name"."""
    suite = find_suite()
    assert suite is not None
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, str] = {}
    for node in ast.parse((suite / file).read_text("utf8")).body:
        imports |= dict(list_imports(node))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            definitions |= dict.fromkeys((part.id for part in parts if isinstance(part, ast.Name)), node)
    return definitions, imports


def list_imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (name, "package.name") of an import."""
    if isinstance(node, ast.Import):
        yield from ((each.asname or each.name.partition(".")[0], each.name) for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((each.asname or each.name, f"{node.module}.{each.name}") for each in node.names)


def find_peers(file: str, function: str) -> set[str]:
    """The libraries of others that a test uses, itself or in what it names, in its file or other test files.

    Its decorators are left out: a table of cases may hold some that need a library, and others.
    """
    found: set[str] = set()
    left, seen = [(file, function)], set[tuple[str, str]]()
    while left:
        place = left.pop()
        definitions, imports = read_definitions(place[0])
        if place[1] in imports and place not in seen:
            found |= {imports[place[1]].partition(".")[0]} & PEERS
            left += list_places(imports[place[1]])
        elif place[1] in definitions and place not in seen:
            node = definitions[place[1]]
            for part in [node.args, *node.body] if isinstance(node, ast.FunctionDef) else [node]:
                for each in ast.walk(part):
                    names = [module for _, module in list_imports(each)]
                    if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.importorskip":
                        names.append(ast.literal_eval(each.args[0]))
                    found |= {name.partition(".")[0] for name in names} & PEERS
                    left += [(place[0], each.id)] if isinstance(each, ast.Name) else []
                    left += [(place[0], each.arg)] if isinstance(each, ast.arg) else []
                    if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                        left += list_places(f"{imports.get(each.value.id, '')}.{each.attr}")
        seen.add(place)
    return found


def list_places(name: str) -> list[tuple[str, str]]:
    """List (file, name) of a name of a test file, such as "tests.stages.small.flags"; none for any other."""
    module, _, own = name.rpartition(".")
    file, suite = f"{module.replace('.', '/')}.py", find_suite()
    assert suite is not None
    return [(file, own)] if module.startswith("tests.") and (suite / file).is_file() else []


def test_no_test_of_the_table_needs_a_library_of_others() -> None:
    named = {tuple(test.partition("[")[0].split("::")) for tests in TABLE.values() for test in tests.ids}
    assert {test: peers for test in sorted(named) if (peers := find_peers(*test))} == {}


def test_the_libraries_that_a_test_uses_are_found() -> None:
    """In the test itself, in a function of its file, by `importorskip`, and in another test file."""
    places = {
        ("tests/data_pipes/tokenizer/test_byte_level.py", "test_the_alphabet_equals_gpt2s"): {"tokenizers"},
        ("tests/data_pipes/tokenizer/test_byte_level.py", "test_merges_are_learned_on_bytes"): set(),
        ("tests/laws/test_stages.py", "make_with_optax"): {"optax"},
    }
    assert {place: find_peers(*place) for place in places} == places


def test_a_library_is_loaded_for_the_tests_that_name_it_alone(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from hypothesis import given\n")
    (tmp_path / "b.py").write_text("import torch\n")
    assert list_libraries(tmp_path, ["b.py::test_x", "a.py::test_y[1]"]) == ["hypothesis"]
    assert list_libraries(tmp_path, ["b.py::test_x", "absent.py::test_y"]) == []


def test_the_tests_of_an_exercise_are_quick() -> None:
    assert {name: tests.seconds for name, tests in TABLE.items() if tests.seconds > 2 * BUDGET} == {}


@pytest.mark.parametrize("name", sorted(TABLE)[::53])
def test_the_tests_of_an_exercise_reach_it(name: str) -> None:
    """A few are run; `python benchmarks/exercises.py --table` runs all, and writes the table."""
    ids = TABLE[name].ids[:2]
    command = [sys.executable, "-m", "stages.teach.reach", *ids]
    done = subprocess.run(command, cwd=find_suite(), capture_output=True, text=True, timeout=300)
    rows = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@[")]
    assert rows, done.stderr
    reached = [name in exercises for _, _, exercises in rows]
    assert any(reached)
