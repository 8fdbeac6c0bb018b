"""Parsing of learners' files: whatever is wrong with a text, it is one SyntaxError."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stages.teach.syntax import bound_names, describe_signature, find_function, parse_source, split_lines


@pytest.mark.parametrize(
    "text", ["def f(:", "x = 1\0", "(" * 500, "-" * 200_000 + "1", "\tx = 1\n  y", "x = 1" + "+1" * 500]
)
def test_a_text_that_is_no_python_is_a_syntax_error(text: str) -> None:
    with pytest.raises(SyntaxError):
        parse_source(text)


def test_the_parsers_warnings_are_not_shown() -> None:
    assert ast.unparse(parse_source("x = 1 is 1")) == "x = 1 is 1"  # warnings are errors in tests
    assert parse_source(r"x = '\d'").body


@pytest.fixture
def collected_often() -> Iterator[None]:
    """Garbage is collected often, and calls Python, as hypothesis and torch.compile have it."""
    callbacks, threshold, interval = list(gc.callbacks), gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(lambda phase, info: sum(range(100)))
    gc.set_threshold(50, 2, 2)
    sys.setswitchinterval(1e-5)
    yield
    gc.callbacks[:] = callbacks
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("collected_often")
def test_threads_parse_at_a_time() -> None:
    text = Path(__file__).read_text("utf8")
    with ThreadPoolExecutor(4) as threads:
        trees = list(threads.map(lambda _: ast.dump(parse_source(text)), range(40)))
    assert set(trees) == {ast.dump(ast.parse(text))}


@pytest.mark.parametrize("text", ["", "a", "a\r\nb\rc\n", "a = '''\x0c\u2028\x1c'''\nb\n\n"])
def test_lines_are_those_of_python(text: str) -> None:
    lines = split_lines(text)
    assert "".join(lines) == text
    names = [node for node in ast.walk(parse_source(text)) if isinstance(node, ast.Name)]
    assert all(node.id in lines[node.lineno - 1] for node in names)


def test_the_last_function_of_a_name_is_found() -> None:
    tree = parse_source("def f(): a\nif x:\n  def g(): b\ndef f(): c\n")
    assert ast.unparse(find_function(tree, "f") or tree).endswith("c")
    assert find_function(tree, "g") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f(x: int, *, y=1) -> int: 1", "def f(x, *, y=1): 2", True),
        ("def f(x, y=1): 1", "def f(x, *, y=1): 1", False),
        ("def f(x, y=1): 1", "def f(x, y=2): 1", False),
        ("def f(x, y): 1", "def f(y, x): 1", False),
        ("def f(x): 1", "def f(*x): 1", False),
        ("def f(x): 1", "def f(x, /): 1", False),
        ("def f(x): 1", "async def f(x): 1", False),
    ],
)
def test_a_signature_is_names_kinds_order_and_defaults(one: str, other: str, same: bool) -> None:
    nodes: list[Any] = [parse_source(text).body[0] for text in (one, other)]
    assert (describe_signature(nodes[0]) == describe_signature(nodes[1])) is same


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(x): y = 1", "f"),
        ("class C:\n  x = 1", "C"),
        ("from a import b as c, d", "c d"),
        ("if t:\n  x = 1\nelse:\n  def g(): z = 1", "x g"),
        ("try:\n  import a\nexcept E as e:\n  a = None", "a a e"),
        ("with o() as w: (q := 1)", "w q"),
        ("for i, (j, *k) in z: pass", "i j k"),
        ("match v:\n  case [p, *r]: pass", "p r"),
        ("t[0], u.v = [i for i in w], lambda n: n", ""),
    ],
)
def test_the_names_that_a_statement_binds(text: str, names: str) -> None:
    assert sorted(bound_names(parse_source(text).body[0])) == sorted(names.split())
