"""Every rule on the source holds for every file, and the rules themselves are tested.

A rule is a function from one parsed file to its violations; the rules are in `tests/rules/`. `TABLE` has for
each rule a text that breaks it and one that does not. Exceptions and their reasons are in
`tests/rules/exceptions.py`.
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

from stages.cli.subcommands import SUBCOMMANDS
from tests.rules import arrows, docstrings, effects, english, exceptions, shape
from tests.rules.source import (
    FUNCTION_NODES,
    PACKAGES,
    PROGRAMS,
    ROOT,
    Module,
    bound_names,
    code_lines,
    functions,
    imports,
    is_under,
    nodes,
    parse,
    read,
)


class Row(NamedTuple):
    """A rule, with a text that breaks it and one that does not."""

    rule: Callable[[Module], Iterator[str]]
    bad: tuple[str, str]  # text, and the name of the module whose text it is
    good: tuple[str, str]


NN, ADAMW, DPO, STAGE, LOOP = (  # names of modules, for texts in TABLE
    "pure.nn.norm",
    "pure.optim.adamw",
    "pure.loss.dpo",
    "stages.dpo",
    "stages.run.loop",
)
JAX, MODELS, SANDBOX = "pure.interop.jax", "stages.models.language_model", "stages.sandbox.start"

TABLE = (
    Row(arrows.import_direction, ("import stages.dpo", NN), ("import pure.tree", STAGE)),
    Row(arrows.import_direction, ("from data_pipes import pack", NN), ("from data_pipes import pack", LOOP)),
    Row(arrows.import_direction_inside_pure, ("from pure import nn", ADAMW), ("import pure.tree", NN)),
    Row(
        arrows.import_direction_inside_pure, ("import pure.tree", "pure.types"), ("import math", "pure.types")
    ),
    Row(
        arrows.import_direction_inside_pure,
        ("from pure.types import Model", DPO),
        ("from pure.types import Tree", DPO),
    ),
    Row(arrows.jax_only_at_the_border, ("import jax", LOOP), ("def f():\n import jax", LOOP)),
    Row(arrows.jax_only_at_the_border, ("def f():\n import optax", ADAMW), ("import optax", JAX)),
    Row(
        arrows.jax_only_at_the_border,
        ("import pure.interop.jax", STAGE),
        ("def f():\n import pure.interop.jax", STAGE),
    ),
    Row(
        arrows.jax_only_at_the_border, ("def f():\n import pure.interop.jax", ADAMW), ("import torch", ADAMW)
    ),
    Row(
        arrows.import_direction_inside_stages, ("from stages import run", STAGE), ("import stages.dpo", LOOP)
    ),
    Row(
        arrows.import_direction_inside_stages,
        ("from stages.run import loop", MODELS),
        ("import stages.models.hub", LOOP),
    ),
    Row(
        arrows.import_direction_inside_stages,
        ("import pure.tree", SANDBOX),
        ("import stages.sandbox.kernel", SANDBOX),
    ),
    Row(
        arrows.no_import_from_own_init,
        ("from pure.optim import adamw_", ADAMW),
        ("from pure import tree", NN),
    ),
    Row(arrows.init_only_exports, ("from pure.tree import map", "p.__init__"), ("", "p.__init__")),
    Row(
        arrows.init_only_exports,
        ("try:\n x = 1\nfinally:\n pass", "p.__init__"),
        ("try:\n import a\nexcept ImportError:\n raise", "p.__init__"),
    ),
    Row(
        arrows.init_only_exports, ("x = 1", "p.__init__"), ("from a import b\n__all__ = ['b']", "p.__init__")
    ),
    Row(effects.effects_only_where_allowed, ("import os", NN), ("import os", LOOP)),
    Row(
        effects.effects_only_where_allowed,
        ("def f(path):\n return open(path)", STAGE),
        ("def f(path):\n return path", STAGE),
    ),
    Row(
        effects.no_global_random_generator,
        ("x = torch.rand(3)", NN),
        ("x = random.uniform(key, (3,))", NN),
    ),
    Row(
        effects.no_global_random_generator,
        ("def f(x):\n return x.clone().normal_()", NN),
        ("def f(x):\n return x.clone().zero_()", NN),
    ),
    Row(
        effects.no_global_torch_setting, ("torch.set_num_threads(1)", LOOP), ("torch.get_num_threads()", LOOP)
    ),
    Row(
        effects.no_global_torch_setting,
        ("torch.backends.cudnn.benchmark = True", LOOP),
        ("x = torch.backends.cudnn", LOOP),
    ),
    Row(effects.no_global_statement, ("def f():\n global x\n x = 1", LOOP), ("def f():\n x = 1", LOOP)),
    Row(
        effects.no_mutable_module_state,
        ("TABLE = {'a': 1}", NN),
        ("TABLE: Mapping[str, int] = {'a': 1}", NN),
    ),
    Row(
        effects.no_mutable_module_state,
        ("TABLE: dict = dict(a=1)", NN),
        ("def f():\n table = dict(a=1)", NN),
    ),
    Row(effects.no_mutable_module_state, ("class C:\n x = []", NN), ("class C:\n x = ()", NN)),
    Row(
        effects.no_mutable_module_state,
        ("@functools.lru_cache(8)\ndef f(): ...", NN),
        ("@partial(f, 8)\ndef f(): ...", NN),
    ),
    Row(
        effects.no_item_in_pure_functions,
        ("def f(x):\n return x.item()", STAGE),
        ("def f(x):\n return x.item()", LOOP),
    ),
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
    Row(shape.only_plain_classes, ("class Trainer: ...", NN), ("class State(NamedTuple):\n x: int", NN)),
    Row(
        shape.only_plain_classes,
        ("@dataclass\nclass C: ...", NN),
        ("@dataclass(frozen=True)\nclass C: ...", NN),
    ),
    Row(
        shape.short_functions,
        ("def f():\n" + " a = 1\n" * 51, NN),
        ("def f(\n a,\n b\n):\n" + " # a\n a = 1\n" * 50, NN),
    ),
    Row(
        shape.all_flags_only_in_entries,
        ("def f(x, options: SFTOptions): ...", LOOP),
        ("def f(x, flags: OptimizerFlags, kind: type[SFTOptions]): ...", LOOP),
    ),
    Row(
        shape.all_flags_only_in_entries,
        ("def f(*, options: Any): ...", LOOP),
        ("def train(options: SFTOptions): ...", "stages.run.train"),
    ),
    Row(
        shape.all_flags_only_in_entries,
        ("def build_new(options: NewOptions): ...", LOOP),
        ("def build_new(options: NewOptions): ...", "stages.run.build_new"),
    ),
    Row(
        shape.all_flags_only_in_entries,
        ("def f(flags: RunFlags):\n return hasattr(flags, 'seed')", LOOP),
        ("def f(flags: RunFlags):\n return flags.seed", LOOP),
    ),
    Row(shape.short_files, ("a = 1\n" * 401, NN), ("a = 1\n" * 400, NN)),
    Row(shape.file_names, ("", "pure.nn.attention_utils"), ("", NN)),
    Row(
        docstrings.public_names_have_docstrings,
        ('"""M."""\ndef f(): ...', NN),
        ('"""M."""\ndef _f(): ...', NN),
    ),
    Row(docstrings.public_names_have_docstrings, ("import math", NN), ('"""M."""\nimport math', NN)),
    Row(
        docstrings.args_section_lists_parameters,
        ('def f(x, y):\n """F.\n\n Args:\n     x: one.\n """', NN),
        (
            'def f(x, *y, z):\n """F.\n\n Args:\n     x, y: one: two.\n         more: of it.\n     z: three.\n """',
            NN,
        ),
    ),
    Row(
        docstrings.args_section_lists_parameters,
        ('class C:\n """C.\n\n Args:\n     y: one.\n """\n x: int', NN),
        ('class C:\n """C.\n\n Args:\n     x: one.\n """\n x: int', NN),
    ),
    Row(
        docstrings.long_functions_have_sections,
        ('def f(a, b, c, d, e) -> int:\n """F.\n\n Args:\n     a, b, c, d, e: numbers.\n """', NN),
        ('def f(a, b, c, d, e) -> None:\n """F.\n\n Args:\n     a, b, c, d, e: numbers.\n """', NN),
    ),
    Row(
        docstrings.long_functions_have_sections,
        ('def f(a, b, c, d, e) -> Tensor:\n """F.\n\n Args:\n     a, b, c, d, e: numbers.\n """', NN),
        ('def f(a, b, c, d, e) -> Schedule:\n """F.\n\n Args:\n     a, b, c, d, e: as in `g`.\n """', NN),
    ),
    Row(
        docstrings.raises_section_lists_errors,
        ('def f():\n """F."""\n raise ValueError("x")', NN),
        ('def f():\n """F.\n\n Raises:\n     ValueError: always.\n """\n raise ValueError("x")', NN),
    ),
    Row(
        docstrings.steps_are_numbered_in_comments,
        ('def f():\n """F.\n\n Steps:\n     1. One.\n     2. Two.\n """\n # 1. One.\n a = 1', NN),
        ('def f():\n """F.\n\n Steps:\n     1. One.\n     2. Two.\n """\n # 1. and 2. Both.\n a = 1', NN),
    ),
    Row(
        docstrings.steps_are_numbered_in_comments,
        ('def f():\n def _g():\n  """G.\n\n  Steps:\n      1. One.\n  """\n  a = 1', NN),
        (
            'def _f():\n """F.\n\n Steps:\n     1. One.\n     2. Two.\n """\n # 1. One.\n'
            ' def _g():\n  """G.\n\n  Steps:\n      1. A.\n      2. B.\n      3. C.\n  """\n  # 1., 2. and 3.\n'
            "  a = 1\n def h():\n  # 2. Two.\n  a = 1",
            NN,
        ),
    ),
    Row(
        docstrings.exercises_are_complete,
        ('def merge_pair():\n """M.\n\n Steps:\n     1. One.\n """', "data_pipes.tokenizer.bpe"),
        ("def merge_pair(): ...", "data_pipes.tokenizer.merge_pair"),
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
def test_the_packages_follow_each_rule(rule: Callable[[Module], Iterator[str]]) -> None:
    violations = [violation for module in read(*PACKAGES) for violation in rule(module)]
    assert not violations, f"{rule.__doc__}\n" + "\n".join(violations)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule.__name__)
def test_a_rule_reports_its_violations_and_nothing_else(row: Row) -> None:
    assert list(row.rule(parse(*row.bad)))
    assert list(row.rule(parse(*row.good))) == []


@pytest.mark.parametrize(
    "rule",
    [
        effects.no_global_statement,
        effects.no_mutable_module_state,
        arrows.import_direction,
        docstrings.public_names_have_docstrings,
    ],
)
def test_examples_and_benchmarks_follow_their_rules(rule: Callable[[Module], Iterator[str]]) -> None:
    violations = [violation for module in read(*PROGRAMS) for violation in rule(module)]
    assert not violations, f"{rule.__doc__}\n" + "\n".join(violations)


def test_imports_have_no_cycle() -> None:
    """Imports inside functions count; those under `if TYPE_CHECKING` do not."""
    graph = {module.name: arrows.runtime_imports(module) for module in read(*PACKAGES)}
    visited: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in visited:
            for imported in sorted(graph.get(name, ())):
                visit(imported, (*path, name))
            visited.add(name)

    for name in graph:
        visit(name, ())


def test_each_name_is_exported_once() -> None:
    """A public name can be imported from its own module and from one package, not from two."""
    exporters: dict[tuple[str, str], list[str]] = {}
    for module in (module for module in read(*PACKAGES) if module.package):
        for found in imports(module):
            if found.name and found.module not in ("__future__", "typing"):
                exporters.setdefault((found.module, found.name), []).append(module.name)
    assert {name: packages for name, packages in exporters.items() if len(packages) > 1} == {}


def test_the_median_function_has_less_than_12_lines_of_code() -> None:
    sizes = [
        code_lines(module, function) for module in read(*PACKAGES) for _, function in functions(module.tree)
    ]
    assert statistics.median(sizes) < 12


def test_at_most_one_file_in_ten_has_more_than_300_lines() -> None:
    sizes = [module.text.count("\n") for module in read(*PACKAGES)]
    assert sum(size > shape.RARE_FILE_LINES for size in sizes) <= len(sizes) / 10


def test_every_exception_is_still_needed() -> None:
    """Each exception names something that exists and still breaks the rule."""
    sizes = {f"{m.name}.{n}": code_lines(m, f) for m in read(*PACKAGES) for n, f in functions(m.tree)}
    definitions = {
        f"{m.name}.{n.name}"
        for m in read(*PACKAGES)
        for n in nodes(m.tree)
        if isinstance(n, (*FUNCTION_NODES, ast.ClassDef))
    }
    files = {m.path: m.text.count("\n") for m in read(*PACKAGES)}
    assert [name for name in exceptions.LONG_FUNCTIONS if sizes.get(name, 0) <= shape.FUNCTION_LINES] == []
    assert [path for path in exceptions.LONG_FILES if files.get(path, 0) <= shape.FILE_LINES] == []
    assert [name for name in (*exceptions.ITEM, *exceptions.IN_PLACE) if name not in sizes] == []
    assert [name for name in exceptions.ALL_FLAGS if name not in sizes] == []
    assert [path for path in exceptions.DEEP if path.count("/") < 4 and not (ROOT / path).is_dir()] == []
    assert [name for name in exceptions.CLASSES if name not in definitions] == []
    touching = [m.name for m in read(*PACKAGES) if any(effects.list_effects(m))]
    assert [name for name in exceptions.EFFECTS_ALLOWED if not any(is_under(m, name) for m in touching)] == []
    assert [name for name in exceptions.STATE if name not in definitions | all_bound_names()] == []


def test_the_class_of_all_flags_of_a_subcommand_is_named_options() -> None:
    """`shape.all_flags_only_in_entries` finds these classes by their name."""
    assert [row.options for row in SUBCOMMANDS.values() if not row.options.endswith("Options")] == []


def all_bound_names() -> set[str]:
    """Return every name that a module binds, as "module.name"."""
    return {f"{module.name}.{name}" for module in read(*PACKAGES) for name in bound_names(module)}


def test_every_source_file_has_a_test_file() -> None:
    """`pure/nn/linear.py` is tested in `tests/pure/nn/test_linear.py`, or in the file that `TESTED_ELSEWHERE`
    gives, which must mention its name."""
    elsewhere = exceptions.TESTED_ELSEWHERE
    sources = {module.path for module in read(*PACKAGES) if not module.package}
    mirrored = {path: re.sub(r"(\w+\.py)$", r"test_\1", f"tests/{path}") for path in sources}
    assert sorted(path for path in sources - elsewhere.keys() if not (ROOT / mirrored[path]).exists()) == []
    assert [path for path in elsewhere if path not in sources or (ROOT / mirrored[path]).exists()] == []
    not_mentioned = [
        path for path, test in elsewhere.items() if Path(path).stem not in (ROOT / test).read_text("utf8")
    ]
    assert not_mentioned == []


@pytest.mark.parametrize(
    "rule", [english.docstring_openings, english.formatted], ids=lambda rule: rule.__name__
)
def test_tests_follow_their_rules(rule: Callable[[Module], Iterator[str]]) -> None:
    violations = [violation for module in read("tests") for violation in rule(module)]
    assert not violations, f"{rule.__doc__}\n" + "\n".join(violations)


def test_conditional_expressions_and_comprehensions_are_few() -> None:
    """A thousand lines of code have at most 33 conditional expressions and at most 50 comprehensions."""
    comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    lines = sum(english.code_line_count(module) for module in read(*PACKAGES))
    every = [node for module in read(*PACKAGES) for node in nodes(module.tree)]
    assert sum(isinstance(node, ast.IfExp) for node in every) <= 0.033 * lines
    assert sum(isinstance(node, comprehension) for node in every) <= 0.050 * lines


def test_the_command_line_starts_without_heavy_imports() -> None:
    """`intro2llm --help` is fast, because heavy libraries are imported only when a subcommand runs."""
    heavy = (
        "torch",
        "numpy",
        "jax",
        "datasets",
        "transformers",
        "tyro",
        "rich",
        "matplotlib",
        "bokeh",
        "jinja2",
        "optree",
    )
    code = f"import sys, stages.cli.main; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def test_no_file_contains_a_path_of_the_developers_machine() -> None:
    """No absolute path below home, work and the like."""
    absolute_path = re.compile(r"(?<![\w.:])/(?:home|root|Users|work|opt|mnt)/\w")
    folders = (*PACKAGES, *PROGRAMS, "tests", ".ci")
    paths = [
        *(path for path in ROOT.glob("*.*") if path.name != ".git"),
        *(path for folder in folders for path in (ROOT / folder).rglob("*")),
    ]
    text_files = [
        path
        for path in paths
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".json", "")
    ]
    violations = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in text_files
        for line in path.read_text("utf8").splitlines()
        if absolute_path.search(line)
    ]
    assert violations == []


def test_every_dependency_is_pinned() -> None:
    """constraints.txt has one exact version of each of our dependencies, including those of every extra."""
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
