"""Mutants of the exercises: each mistake is the one that its name says, all differ, and the check kills them."""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from stages.teach.course import COURSE, find_exercise
from stages.teach.grader import open_server
from stages.teach.suite import list_tests


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield import_module("mutants")


@pytest.fixture(scope="module")
def mutations(benchmark: ModuleType) -> ModuleType:
    return import_module("_mutations")


# operator -> body of a function of (x: Tensor, n, eps), and all that this operator makes of it
MISTAKES = {
    "eps": ("return x / (n + eps).sqrt()", ["return x / (n.sqrt() + eps)"]),
    "variance": ("return x.var(-1)", ["return x.var(-1, correction=0)"]),
    "mean": ("return x.mean(-1) + x.sum()", ["return x.sum(-1) + x.sum()", "return x.mean(-1) + x.mean()"]),
    "detach": ("return x * x.detach()", ["return x * x"]),
    "dtype": (
        "return n.float() + x.sum(dtype=n)",
        ["return n + x.sum(dtype=n)", "return n.float() + x.sum()"],
    ),
    "clip": ("return n.clamp(min=eps)", ["return n.clamp(max=eps)", "return n.clamp(min=-eps)"]),
    "write": ("return x + n", ["return (x + n, x.zero_())[0]"]),
    "keepdim": ("return x.mean(-1, keepdim=True)", ["return x.mean(-1)"]),
    "exchange": ("return (x, n)", ["return (n, x)"]),
    "negation": ("return -x if not n else ~x", ["return -x if n else ~x", "return x if not n else ~x"]),
    "comparison": ("return n < x", ["return n <= x"]),
    "logic": ("return n and x & n", ["return n or x & n", "return n and x | n"]),
    "sum": ("n += x - eps", ["n -= x - eps", "n += x + eps"]),
    "product": ("return x * n // eps", ["return x * n % eps", "return x / n // eps"]),
    "constant": ("return x ** 2", ["return x ** 3"]),
    "slice": ("return x[:n]", ["return x[:n + 1]", "return x[1:n]"]),
    "skip": ("if eps:\n    raise ValueError(n + 1)", ["pass"]),
    "inverse": ("return n == x", ["return n != x"]),
    "keyword": ("return x.sort(dim=n)", ["return x.sort()"]),
    "items": (
        "return [i for i in x]",
        ["return [i for i in list(x)[1:]]", "return [i for i in list(x)[::-1]]"],
    ),
    "separator": ("return ''.join(n)", ["return ' '.join(n)"]),
    "assign": ("n += x", ["n = x"]),
    "handler": ("try:\n    n()\nexcept KeyError:\n    n", ["if True:\n    n()"]),
    "unwrap": ("return x.exp()", ["return x"]),
}


def make_function(body: str) -> ast.FunctionDef:
    """A function with this body after a docstring."""
    text = "def f(x: Tensor, n, eps):\n    'Text 1.'\n" + "".join(
        f"    {line}\n" for line in body.splitlines()
    )
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


@pytest.mark.parametrize("operator", MISTAKES)
def test_an_operator_makes_its_mistake_only(mutations: ModuleType, operator: str) -> None:
    body, expected = MISTAKES[operator]
    function = make_function(body)
    before = ast.unparse(function)
    made = [each.tree for each in mutations.list_mutations(function) if each.operator == operator]
    found = ["\n".join(ast.unparse(statement) for statement in tree.body[1:]) for tree in made]
    wanted = expected + (["return -x if not n else x"] if operator == "negation" else [])
    assert sorted(found) == sorted(wanted)
    assert ast.unparse(function) == before


def test_each_operator_has_a_row(mutations: ModuleType) -> None:
    names = import_module("_mistakes").list_operators(make_function("return x"))
    assert set(names) == set(MISTAKES)
    assert {*mutations.SPECIAL, *mutations.LAST} <= set(names)


def test_exercises_have_at_least_five_mutants_all_distinct(benchmark: ModuleType) -> None:
    """Every fourth; the benchmark prints the number of each."""
    for exercise in [each for chapter in COURSE for each in chapter.exercises][::4]:
        made = benchmark.make_mutants(exercise, 8)
        bodies = {each.body for each in made}
        assert 5 <= len(made) == len(bodies) <= 8, exercise.name
        ours = benchmark.read_function(exercise)
        assert ast.unparse(ours) not in bodies
        assert made == benchmark.make_mutants(exercise, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            for each in bodies:
                compile("def f():\n" + textwrap.indent(each, " "), exercise.name, "exec")


def test_each_mark_is_of_a_mutant_that_exists_and_has_a_reason(
    benchmark: ModuleType, mutations: ModuleType
) -> None:
    for name, marks in benchmark.read_equivalent().items():
        function = benchmark.read_function(find_exercise(name))
        changes = {
            mutations.describe_change(function, each.tree) for each in mutations.list_mutations(function)
        }
        assert set(marks) <= changes, name
        assert all(len(reason.split()) >= 4 for reason in marks.values()), name


def test_the_check_kills_mutants(benchmark: ModuleType) -> None:
    with open_server() as server:
        for name in ("rms_norm", "merge_pair"):
            mutants = [each for each in benchmark.make_mutants(find_exercise(name), 8) if not each.reason]
            for mutant in mutants[:3]:
                verdict = benchmark.judge_mutant(mutant, server)
                assert verdict.killed, mutant.change


def test_the_share_leaves_out_marked_mutants_and_failures_of_the_check(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    exercise = find_exercise("rms_norm")
    chapter = COURSE[1]
    verdicts = {
        "killed": (benchmark.Verdict(True, "value", 1.0, (), ""), ""),
        "marked": (benchmark.Verdict(False, "", 1.0, (), ""), "the same numbers"),
        "error": (benchmark.Verdict(False, "error", 1.0, (), ""), ""),
        "killed though marked": (benchmark.Verdict(True, "value", 1.0, (), ""), "not the same"),
    }
    mutants = [benchmark.Mutant(exercise, "sum", name, "", reason) for name, (_, reason) in verdicts.items()]
    assert benchmark.print_table([(chapter, exercise)], mutants, [each for each, _ in verdicts.values()]) == 1
    printed = capsys.readouterr().out
    assert "50.0%" in printed
    assert "the check failed\nerror" in printed
    assert "marked as equivalent, but killed: value\nkilled though marked" in printed


def test_a_survival_is_kept_until_a_file_of_tests_changes(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(benchmark, "open_server", lambda: pytest.fail("it is checked again"))
    mutant = benchmark.make_mutants(find_exercise("rms_norm"), 1)[0]
    key, tests = benchmark.digest_mutant(mutant), list_tests("rms_norm").ids
    kept = benchmark.Verdict(False, "", 1.0, list(tests), benchmark.digest_context(mutant.exercise))
    benchmark.write_verdict(key, kept)
    assert benchmark.judge_mutants([mutant], 1, False) == [kept]
    for other in (kept._replace(context="older"), kept._replace(tests=list(tests[1:]))):
        benchmark.write_verdict(key, other)
        with pytest.raises(pytest.fail.Exception, match="checked again"):
            benchmark.judge_mutants([mutant], 1, False)


def test_a_kill_is_kept_until_a_test_leaves_the_list(benchmark: ModuleType) -> None:
    killed = benchmark.Verdict(True, "value", 1.0, ["a", "b"], "older")
    assert benchmark.is_valid(killed, ["b", "c", "a"], "newer")
    assert not benchmark.is_valid(killed, ["b", "c"], "older")


def test_an_unknown_chapter_is_named(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="got nothing_such"):
        benchmark.choose_exercises(["losses", "nothing_such"])
    assert [each.name for _, each in benchmark.choose_exercises(["rms_norm"])] == ["rms_norm"]
