"""Facts about the tables of `tests/laws`: laws, rows, and the source files that each row runs.

    python -m docs.extensions.law_facts FACTS.json

A process of its own, as the tables import every library that the tests compare with.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pure", "data_pipes", "stages")


@dataclass(frozen=True)
class Row:
    """A row of a table of laws.

    Args:
        name: of the row.
        files: paths of the source files that its run enters.
        note: what it is compared with.
    """

    name: str
    files: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Law:
    """A law: a test function.

    Args:
        name: of the function.
        text: the name as words, or the first line of its docstring.
        line: of the function in its file.
    """

    name: str
    text: str
    line: int


@dataclass(frozen=True)
class Family:
    """A file of `tests/laws`.

    Args:
        file: its path.
        title: the first line of its docstring.
        about: the rest of its docstring.
        laws: in the order of the file.
        rows: of its table; empty where it uses the table of another file.
    """

    file: str
    title: str
    about: str
    laws: list[Law]
    rows: list[Row]


def trace_files(function: Callable[[], Any]) -> list[str]:
    """Call a function, and return the paths of the source files whose functions it entered."""
    entered: set[str] = set()

    def enter(frame: Any, event: str, argument: object) -> None:
        if event == "call":
            entered.add(frame.f_code.co_filename)

    sys.setprofile(enter)
    try:
        function()
    finally:
        sys.setprofile(None)
    paths = [Path(name).relative_to(ROOT) for name in entered if name.startswith(f"{ROOT}/")]
    return sorted(path.as_posix() for path in paths if path.parts[0] in PACKAGES)


def optimizer_rows() -> list[Row]:
    """Return the rows of optimizers, with optax's function or another reference."""
    from tests.laws import test_optimizers as laws

    rows = []
    for row in laws.TABLE:
        note = "formula in float64"
        if row.peer is not None:
            note = "optax"
        elif row.reference is not None:
            note = "pytorch-optimizer"
        rows.append(Row(row.name, trace_files(lambda row=row: laws.run_updates(row, 2)), note))
    return rows


def loss_rows() -> list[Row]:
    """Return the rows of losses."""
    from tests.laws import test_losses as laws

    return [Row(row.name, trace_files(lambda row=row: row.function(**row.arguments))) for row in laws.LOSSES]


def stage_rows() -> list[Row]:
    """Return the rows of stages; each runs a step."""
    from pure import random
    from tests.laws import test_stages as laws

    def run(row: Any) -> None:
        stage = row.make()
        stage.step(stage.init(random.key(0)), row.batch(0))

    return [Row(row.name, trace_files(lambda row=row: run(row))) for row in laws.STAGES]


def part_rows() -> list[Row]:
    """Return the parts that every transform is applied to."""
    from tests.laws import test_transforms as laws

    def run(make: Callable[[], Any]) -> None:
        part = make()
        part.function(part.point)

    return [Row(name, trace_files(lambda make=make: run(make))) for name, make in laws.PARTS.items()]


def pipe_rows() -> list[Row]:
    """Return the rows of data pipes; each makes its first batch."""
    from tests.laws import test_pipes as laws

    rows = []
    for name, make in laws.PIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(Row(name, trace_files(lambda make=make, folder=folder: make(Path(folder))[0])))
    return rows


def outside_rows() -> list[Row]:
    """Return the forms of other libraries; none is read here."""
    from tests.outside.table import all_forms

    return [Row(f"{form.kind}: {form.name}", [], form.writer) for form in all_forms()]


TABLES: tuple[tuple[str, Callable[[], list[Row]]], ...] = (
    ("test_optimizers", optimizer_rows),
    ("test_losses", loss_rows),
    ("test_stages", stage_rows),
    ("test_pipes", pipe_rows),
    ("test_transforms", part_rows),
    ("test_lowering", list),
    ("test_processes", list),
    ("test_sharded", list),
    ("test_outside", outside_rows),
)
"""File of `tests/laws` -> the rows of its table."""


def read_laws(tree: ast.Module) -> list[Law]:
    """Return the test functions of a file."""
    laws = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            words = node.name.removeprefix("test_").replace("_", " ")
            laws.append(Law(node.name, words[0].upper() + words[1:], node.lineno))
    return laws


def read_family(name: str, rows: list[Row]) -> Family:
    """Return the family of a file."""
    path = ROOT / "tests" / "laws" / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf8"))
    title, _, about = inspect.cleandoc(ast.get_docstring(tree) or "").partition("\n\n")
    return Family(path.relative_to(ROOT).as_posix(), re.sub(r"\s+", " ", title), about, read_laws(tree), rows)


def main() -> None:
    """Write the facts."""
    (path,) = sys.argv[1:]
    families = [asdict(read_family(name, rows())) for name, rows in TABLES]
    Path(path).write_text(json.dumps(families, indent=1), encoding="utf8")


if __name__ == "__main__":
    main()
