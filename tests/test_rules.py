"""The rules of the house that a program can check.

Each rule is a function from one parsed file to its violations. It stands in one table with a text that
breaks it and one that does not, so that the rules are tested too. What is excepted stands in
`rules/exceptions.py`, with its reason.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.rules import arrows, docstrings, effects, english, exceptions, shape
from tests.rules.source import (
    PACKAGES,
    PROGRAMS,
    ROOT,
    Function,
    Module,
    bound,
    code_lines,
    functions,
    imports,
    parse,
    read,
)

HOUSE = tuple(read(*PACKAGES))


class Row(NamedTuple):
    rule: Callable[[Module], Iterator[str]]
    bad: tuple[str, str]  # text, and the module whose text it is
    good: tuple[str, str]


NN, ADAMW, DPO, STAGE, LOOP = (
    "pure.nn.norm",
    "pure.optim.adamw",
    "pure.loss.dpo",
    "stages.dpo",
    "stages.run.loop",
)
JAX, MODELS, JAIL = "pure.interop.jax", "stages.models.language_model", "stages.sandbox.start"

TABLE = (
    Row(arrows.arrows, ("import stages.dpo", NN), ("import pure.tree", STAGE)),
    Row(arrows.arrows, ("from data_pipes import pack", NN), ("from data_pipes import pack", LOOP)),
    Row(arrows.arrows_inside_pure, ("from pure import nn", ADAMW), ("import pure.tree", NN)),
    Row(arrows.arrows_inside_pure, ("import pure.tree", "pure.types"), ("import math", "pure.types")),
    Row(
        arrows.arrows_inside_pure, ("from pure.types import Model", DPO), ("from pure.types import Tree", DPO)
    ),
    Row(arrows.jax_stays_outside, ("import jax", LOOP), ("def f():\n import jax", LOOP)),
    Row(arrows.jax_stays_outside, ("def f():\n import optax", ADAMW), ("import optax", JAX)),
    Row(
        arrows.jax_stays_outside,
        ("import pure.interop.jax", STAGE),
        ("def f():\n import pure.interop.jax", STAGE),
    ),
    Row(arrows.jax_stays_outside, ("def f():\n import pure.interop.jax", ADAMW), ("import torch", ADAMW)),
    Row(arrows.arrows_inside_stages, ("from stages import run", STAGE), ("import stages.dpo", LOOP)),
    Row(
        arrows.arrows_inside_stages,
        ("from stages.run import loop", MODELS),
        ("import stages.models.hub", LOOP),
    ),
    Row(arrows.arrows_inside_stages, ("import pure.tree", JAIL), ("import stages.sandbox.kernel", JAIL)),
    Row(arrows.own_init, ("from pure.optim import adamw_", ADAMW), ("from pure import tree", NN)),
    Row(arrows.exports, ("from pure.tree import map", "p.__init__"), ("", "p.__init__")),
    Row(
        arrows.exports,
        ("try:\n x = 1\nfinally:\n pass", "p.__init__"),
        ("try:\n import a\nexcept ImportError:\n raise", "p.__init__"),
    ),
    Row(arrows.exports, ("x = 1", "p.__init__"), ("from a import b\n__all__ = ['b']", "p.__init__")),
    Row(effects.world, ("import os", NN), ("import os", LOOP)),
    Row(effects.world, ("def f(path):\n return open(path)", STAGE), ("def f(path):\n return path", STAGE)),
    Row(effects.chance, ("x = torch.rand(3)", NN), ("x = random.uniform(key, (3,))", NN)),
    Row(
        effects.chance,
        ("def f(x):\n return x.clone().normal_()", NN),
        ("def f(x):\n return x.clone().zero_()", NN),
    ),
    Row(effects.switches, ("torch.set_num_threads(1)", LOOP), ("torch.get_num_threads()", LOOP)),
    Row(
        effects.switches, ("torch.backends.cudnn.benchmark = True", LOOP), ("x = torch.backends.cudnn", LOOP)
    ),
    Row(effects.no_global, ("def f():\n global x\n x = 1", LOOP), ("def f():\n x = 1", LOOP)),
    Row(effects.module_state, ("TABLE = {'a': 1}", NN), ("TABLE: Mapping[str, int] = {'a': 1}", NN)),
    Row(effects.module_state, ("TABLE: dict = dict(a=1)", NN), ("def f():\n table = dict(a=1)", NN)),
    Row(effects.module_state, ("class C:\n x = []", NN), ("class C:\n x = ()", NN)),
    Row(
        effects.module_state,
        ("@functools.lru_cache(8)\ndef f(): ...", NN),
        ("@partial(f, 8)\ndef f(): ...", NN),
    ),
    Row(effects.no_item, ("def f(x):\n return x.item()", STAGE), ("def f(x):\n return x.item()", LOOP)),
    Row(
        effects.no_write_to_arguments,
        ("def f(x):\n x.mul_(2)", NN),
        ("def f(x):\n y = x + 1\n y.mul_(2)", NN),
    ),
    Row(effects.no_write_to_arguments, ("def f(x: Tensor):\n x += 1", NN), ("def f(x: int):\n x += 1", NN)),
    Row(
        effects.no_write_to_arguments,
        ("def f(x):\n x['a'] = 1", NN),
        ("def f(x):\n x = {**x}\n x['a'] = 1", NN),
    ),
    Row(shape.classes, ("class Trainer: ...", NN), ("class State(NamedTuple):\n x: int", NN)),
    Row(shape.classes, ("@dataclass\nclass C: ...", NN), ("@dataclass(frozen=True)\nclass C: ...", NN)),
    Row(
        shape.short_functions,
        ("def f():\n" + " a = 1\n" * 51, NN),
        ("def f(\n a,\n b\n):\n" + " # a\n a = 1\n" * 50, NN),
    ),
    Row(shape.short_files, ("a = 1\n" * 401, NN), ("a = 1\n" * 400, NN)),
    Row(shape.names, ("", "pure.nn.attention_utils"), ("", NN)),
    Row(docstrings.documented, ('"""M."""\ndef f(): ...', NN), ('"""M."""\ndef _f(): ...', NN)),
    Row(docstrings.documented, ("import math", NN), ('"""M."""\nimport math', NN)),
    Row(
        docstrings.arguments_listed,
        ('def f(x, y):\n """F.\n\n Args:\n     x: one.\n """', NN),
        (
            'def f(x, *y, z):\n """F.\n\n Args:\n     x, y: one: two.\n         more: of it.\n     z: three.\n """',
            NN,
        ),
    ),
    Row(
        docstrings.arguments_listed,
        ('class C:\n """C.\n\n Args:\n     y: one.\n """\n x: int', NN),
        ('class C:\n """C.\n\n Args:\n     x: one.\n """\n x: int', NN),
    ),
    Row(
        docstrings.long_ones_have_sections,
        ('def f(a, b, c, d, e) -> int:\n """F.\n\n Args:\n     a, b, c, d, e: numbers.\n """', NN),
        ('def f(a, b, c, d, e) -> None:\n """F.\n\n Args:\n     a, b, c, d, e: numbers.\n """', NN),
    ),
    Row(
        docstrings.long_ones_have_sections,
        ('def f(a, b, c, d, e) -> Tensor:\n """F.\n\n Args:\n     a, b, c, d, e: numbers.\n """', NN),
        ('def f(a, b, c, d, e) -> Schedule:\n """F.\n\n Args:\n     a, b, c, d, e: as in `g`.\n """', NN),
    ),
    Row(
        docstrings.raises_listed,
        ('def f():\n """F."""\n raise ValueError("x")', NN),
        ('def f():\n """F.\n\n Raises:\n     ValueError: always.\n """\n raise ValueError("x")', NN),
    ),
    Row(
        docstrings.steps_numbered,
        ('def f():\n """F.\n\n Steps:\n     1. One.\n     2. Two.\n """\n # 1. One.\n a = 1', NN),
        ('def f():\n """F.\n\n Steps:\n     1. One.\n     2. Two.\n """\n # 1. and 2. Both.\n a = 1', NN),
    ),
    Row(english.docstring_openings, ('"""How it works."""', NN), ('"""Return it."""', NN)),
    Row(
        english.docstring_openings,
        ('def _f():\n """Whether x."""', NN),
        ('def _f():\n """Tell whether x."""', NN),
    ),
    Row(english.words, ("# kept apart for validation", NN), ("# held out for validation", NN)),
    Row(
        english.words,
        ('raise ValueError("mend it, or go on")', NN),
        ('raise ValueError("fix it, or continue")', NN),
    ),
    Row(english.function_names, ("def _told(): ...", NN), ("def tell_user(): ...", NN)),
    Row(english.line_length, ("x = 1  # " + "a" * 110, NN), ("x = 1", NN)),
    Row(english.formatted, ("def f():\n x = 1  # fmt: skip", NN), ("X = (\n 1, 2\n)  # fmt: skip", NN)),
    Row(
        english.nested_expressions,
        ("x = 1 if a else 2 if b else 3", NN),
        ("x = [y for z in a for y in z if y]", NN),
    ),
)
RULES = tuple(dict.fromkeys(row.rule for row in TABLE))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Callable[[Module], Iterator[str]]) -> None:
    broken = [violation for module in HOUSE for violation in rule(module)]
    assert not broken, f"{rule.__doc__}\n" + "\n".join(broken)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule.__name__)
def test_a_rule_reports_its_violations_and_nothing_else(row: Row) -> None:
    assert list(row.rule(parse(*row.bad)))
    assert list(row.rule(parse(*row.good))) == []


@pytest.mark.parametrize(
    "rule", [effects.no_global, effects.module_state, arrows.arrows, docstrings.documented]
)
def test_programs_keep(rule: Callable[[Module], Iterator[str]]) -> None:
    broken = [violation for module in read(*PROGRAMS) for violation in rule(module)]
    assert not broken, f"{rule.__doc__}\n" + "\n".join(broken)


def test_no_import_leads_back() -> None:
    """Imports have no cycle, those inside functions among them; imports for type checkers alone are free."""
    graph = {module.name: arrows.imported(module) for module in HOUSE}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_each_name_is_exported_once() -> None:
    """A public name has one short address and one long one, not three."""
    places: dict[tuple[str, str], list[str]] = {}
    for module in (module for module in HOUSE if module.package):
        for found in imports(module):
            if found.name and found.module != "__future__":
                places.setdefault((found.module, found.name), []).append(module.name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_most_functions_are_short() -> None:
    """Functions are mostly under 12 lines of code."""
    sizes = [code_lines(module, function) for module in HOUSE for _, function in functions(module.tree)]
    assert statistics.median(sizes) < 12


def test_most_files_are_short() -> None:
    """Files rarely pass 300 lines."""
    sizes = [module.text.count("\n") for module in HOUSE]
    assert sum(size > shape.RARE_FILE_LINES for size in sizes) <= len(sizes) / 10


def test_every_exception_is_still_needed() -> None:
    """An exception outlives its reason unless somebody looks."""
    sizes = {f"{m.name}.{n}": code_lines(m, f) for m in HOUSE for n, f in functions(m.tree)}
    every = {
        f"{m.name}.{n.name}"
        for m in HOUSE
        for n in ast.walk(m.tree)
        if isinstance(n, (*Function, ast.ClassDef))
    }
    files = {m.path: m.text.count("\n") for m in HOUSE}
    assert [name for name in exceptions.LONG_FUNCTIONS if sizes.get(name, 0) <= shape.FUNCTION_LINES] == []
    assert [path for path in exceptions.LONG_FILES if files.get(path, 0) <= shape.FILE_LINES] == []
    assert [name for name in (*exceptions.ITEM, *exceptions.IN_PLACE) if name not in sizes] == []
    assert [path for path in exceptions.DEEP if path.count("/") < 4 and not (ROOT / path).is_dir()] == []
    assert [name for name in exceptions.CLASSES if name not in every] == []
    assert [name for name in exceptions.STATE if name not in every | bound_names()] == []


def bound_names() -> set[str]:
    """Every name that a module binds, "module.name"."""
    return {f"{module.name}.{name}" for module in HOUSE for name in bound(module)}


def test_tests_mirror_the_source() -> None:
    """`pure/nn/linear.py` is tested in `tests/pure/nn/test_linear.py`, or in the file that is named as its
    test."""
    elsewhere = exceptions.TESTED_ELSEWHERE
    sources = {module.path for module in HOUSE if not module.package}
    own = {path: re.sub(r"(\w+\.py)$", r"test_\1", f"tests/{path}") for path in sources}
    assert sorted(path for path in sources - elsewhere.keys() if not (ROOT / own[path]).exists()) == []
    assert [path for path in elsewhere if path not in sources or (ROOT / own[path]).exists()] == []
    unnamed = [
        path for path, test in elsewhere.items() if Path(path).stem not in (ROOT / test).read_text("utf8")
    ]
    assert unnamed == []


@pytest.mark.parametrize(
    "rule", [english.docstring_openings, english.formatted], ids=lambda rule: rule.__name__
)
def test_tests_keep(rule: Callable[[Module], Iterator[str]]) -> None:
    broken = [violation for module in read("tests") for violation in rule(module)]
    assert not broken, f"{rule.__doc__}\n" + "\n".join(broken)


def test_conditional_expressions_and_comprehensions_stay_few() -> None:
    """Of a thousand lines of code at most 33 hold a conditional expression, and at most 50 a comprehension."""
    comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    lines = sum(english.code_line_count(module) for module in HOUSE)
    nodes = [node for module in HOUSE for node in ast.walk(module.tree)]
    assert sum(isinstance(node, ast.IfExp) for node in nodes) <= 0.033 * lines
    assert sum(isinstance(node, comprehension) for node in nodes) <= 0.050 * lines


def test_the_command_line_starts_without_heavy_imports() -> None:
    """`intro2llm --help` answers at once: what a subcommand needs is imported when it runs."""
    heavy = (
        "torch",
        "numpy",
        "jax",
        "datasets",
        "transformers",
        "tyro",
        "rich",
        "matplotlib",
        "jinja2",
        "optree",
    )
    code = f"import sys, stages.cli.main; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_no_path_of_a_machine() -> None:
    """Files name no folder of the machine they were written on."""
    machine = re.compile(r"(?<![\w.:])/(?:home|root|Users|work|opt|mnt)/\w")
    folders = (*PACKAGES, *PROGRAMS, "tests", ".ci")
    paths = [
        *(path for path in ROOT.glob("*.*") if path.name != ".git"),
        *(path for folder in folders for path in (ROOT / folder).rglob("*")),
    ]
    texts = [
        path
        for path in paths
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".json", "")
    ]
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in texts
        for line in path.read_text("utf8").splitlines()
        if machine.search(line)
    ]
    assert found == []


def test_every_dependency_is_pinned() -> None:
    """constraints.txt has one exact version of each of our dependencies, those of every extra among them."""
    needed = {canonicalize_name(Requirement(text).name) for text in requires("intro2llm") or []} - {
        "intro2llm"
    }
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = {canonicalize_name(pin.name): str(pin.specifier) for pin in map(Requirement, lines)}
    assert sorted(needed - set(pins)) == []
    assert [name for name, version in pins.items() if not re.fullmatch(r"==[\w.]+", version)] == []
    assert len(pins) == len(lines)
