"""Bodies left out, and modules composed of ours and a learner's."""

from __future__ import annotations

import ast
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from stages.teach.course import COURSE, exercises_of_module
from stages.teach.source import (
    Difference,
    Level,
    Part,
    compose,
    find_differences,
    find_marks,
    is_solved,
    leave_out,
)
from tests.rules.docstrings import section
from tests.rules.source import PACKAGES, read

OURS = '''"""Module."""

from __future__ import annotations

import math

from pure.tree import leaves

LIMIT = 3
"""The limit."""


@property
def area(radius: float, *, scale: float = 1.0) -> float:
    """Return the area of a circle.

    Steps:
        1. Square.
        2. Multiply.
    """
    # 1. The square,
    #    of the radius.
    text = "# 2. no comment"
    for _ in range(1):
        square = radius**2  # 2. Multiply.
        # a remark
    return _scale(math.pi * square, scale)


def _scale(x: float, scale: float) -> float:
    """Scales."""
    return x * scale


def twice(x: float) -> float:
    """Doubles."""
    return 2 * x
'''
LEFT = '''

@property
def area(radius: float, *, scale: float = 1.0) -> float:
    """Return the area of a circle.

    Steps:
        1. Square.
        2. Multiply.
    """
{}    raise Unsolved("circle_area")


def _scale('''


def run(parts: list[Part]) -> dict[str, Any]:
    """Execute the parts of a module in one namespace, and return that."""
    namespace: dict[str, Any] = {"__name__": "composed"}
    for part in parts:
        exec(compile(part.tree, part.path, "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    ("level", "marks"),
    [("steps", "    # 1. The square,\n    #    of the radius.\n    # 2. Multiply.\n"), ("docstring", "")],
)
def test_a_body_is_left_out_and_all_else_stays(level: Level, marks: str) -> None:
    text = leave_out(OURS, {"area": "circle_area"}, level)
    assert LEFT.format(marks) in text
    head, tail = OURS.split("\n\n@property")[0], OURS[OURS.index("def _scale") :]
    assert text.endswith(tail)
    assert text.startswith(
        head.replace("import leaves\n", "import leaves\nfrom stages.teach.unsolved import Unsolved\n")
    )


def test_several_bodies_are_left_out_at_once() -> None:
    text = leave_out(OURS, {"twice": "twice", "area": "area"}, "docstring")
    assert text.count("raise Unsolved(") == 2
    assert text.count("import Unsolved") == 1
    assert not is_solved(text, "area")
    assert not is_solved(text, "twice")
    assert is_solved(text, "_scale")


def test_a_function_that_cannot_be_left_out_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a function volume at the top"):
        leave_out(OURS, {"volume": "volume"}, "steps")
    with pytest.raises(ValueError, match="f: an exercise has a docstring"):
        leave_out("def f(): return 1\n", {"f": "f"}, "steps")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "{}\n"),
        ('"""Doc."""\n', '"""Doc."""\n\n{}'),
        ("import os\n", "import os\n\n{}"),
        ("import pure.tree\n", "import pure.tree\n{}"),
        ("from __future__ import annotations\nX = 1\nimport a\n", "from __future__ import annotations\n\n{}X = 1"),
    ],
)  # fmt: skip
def test_the_import_is_added_after_the_others(head: str, expected: str) -> None:
    text = leave_out(head + 'def f():\n    "F."\n    return 1\n', {"f": "f"}, "steps")
    assert text.startswith(expected.format("from stages.teach.unsolved import Unsolved\n"))
    namespace: dict[str, Any] = {}
    if "import a" not in head:
        exec(text, namespace)
        with pytest.raises(NotImplementedError):
            namespace["f"]()


def test_every_function_with_steps_can_be_left_out() -> None:
    """Of the whole source: the result parses, differs in these bodies only, and has a mark for each step."""
    tried = 0
    for module in read(*PACKAGES):
        functions = {
            node.name: node.name
            for node in module.tree.body
            if isinstance(node, ast.FunctionDef) and section(ast.get_docstring(node), "Steps") is not None
        }
        if functions:
            tried += len(functions)
            text = leave_out(module.text, functions, "steps")
            assert find_differences(module.text, text, list(functions)) == []
            assert not any(is_solved(text, name) for name in functions)
            restored = run_names(compose(text, "left", module.text, "ours", list(functions)))
            assert restored == run_names([Part("", module.tree)]) | {"Unsolved"}
            assert {*map(tuple, find_marks(text).values())} <= {*map(tuple, find_marks(module.text).values())}
    assert tried > 50


def run_names(parts: list[Part]) -> set[str]:
    """Return the names of the functions, classes and imports at the top of the parts."""
    nodes = [node for part in parts for node in part.tree.body]
    names = [alias.asname or alias.name for node in nodes for alias in getattr(node, "names", [])]
    return {*names, *(node.name for node in nodes if hasattr(node, "name"))}


@pytest.mark.parametrize("name", sorted({e.module for chapter in COURSE for e in chapter.exercises}))
def test_our_own_bodies_make_our_module(name: str) -> None:
    """With the reference as the answer, every name has the code, the line and the annotations that it had."""
    path = str(importlib.import_module(name).__file__)
    functions = [exercise.function for exercise in exercises_of_module(name)]
    text = Path(path).read_text(encoding="utf8")
    # run afresh: what other tests compiled leaves Dynamo's names in the imported module
    module, composed = types.ModuleType(name), types.ModuleType(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # where NamedTuple and dataclass look names up
        exec(compile(text, path, "exec", dont_inherit=True), vars(module))
        patch.setitem(sys.modules, name, composed)
        for part in compose(text, path, text, "my.py", functions):
            exec(compile(part.tree, part.path, "exec", dont_inherit=True), vars(composed))
    assert vars(composed).keys() == vars(module).keys()
    assert composed.__doc__ == module.__doc__
    compared = 0
    for key, value in vars(module).items():
        if isinstance(value, types.FunctionType) and value.__module__ == name:
            code, own = getattr(composed, key).__code__, value.__code__
            assert code.co_filename == ("my.py" if key in functions else path)
            assert (code.co_firstlineno, sorted(code.co_names)) == (own.co_firstlineno, sorted(own.co_names))
            assert getattr(composed, key).__annotations__ == value.__annotations__
            compared += 1
    assert compared >= len(functions)


@pytest.mark.parametrize(
    ("text", "solved"),
    [
        ("def f(): return 1", True),
        ("def f():\n  if x:\n    raise Unsolved('f')\n  return 1", False),
        ("def f(): raise Unsolved", False),
        ("def f(): raise unsolved.Unsolved('f')", False),
        ("def f():\n  def g(): raise Unsolved('f')\n  return g", False),
        ("def f(): raise ValueError('Unsolved')", True),
        ("def g(): return 1", False),
        ("def f(: return 1", False),
        ("def f(): raise Unsolved('f')\ndef f(): return 1", True),
    ],
)
def test_solved_is_a_body_that_never_raises_unsolved(text: str, solved: bool) -> None:
    assert is_solved(text, "f") is solved


ANSWER = """from __future__ import annotations
import math
from pure.tree import leaves, paths
HALF = LIMIT = 0.5
TWO = 2.0
def triple(x: NoSuchType): return 3 * x
def twice(x: float) -> float: return triple(x) - x + 0 * TWO
def area(radius): return -1
def _scale(x, scale): return -1
print(undefined)
"""


def test_a_function_is_taken_with_the_names_that_were_added_and_nothing_else() -> None:
    parts = compose(OURS.replace("@property\n", ""), "ours.py", ANSWER, "my.py", ["twice"])
    assert [part.path for part in parts] == ["ours.py", "my.py"] * 3
    namespace = run(parts)
    assert namespace["twice"](4.0) == 8.0
    assert namespace["area"](1.0) == pytest.approx(3.14159, abs=1e-5)
    assert (namespace["LIMIT"], namespace["TWO"], "paths" in namespace) == (3, 2.0, True)
    assert "HALF" not in namespace
    assert namespace["__doc__"] == "Module."
    assert namespace["twice"].__code__.co_filename == "my.py"
    assert namespace["twice"].__code__.co_firstlineno == 7
    assert namespace["_scale"].__code__.co_firstlineno == OURS.splitlines().index(
        "def _scale(x: float, scale: float) -> float:"
    )  # one less, as a line was removed above


def test_the_function_stands_where_ours_did() -> None:
    ours = '"""M."""\ndef f(): return 1\n"""Text."""\nPAIR = (f(), 0)\ndef g(): return f()\n'
    namespace = run(
        compose(ours, "o", "from __future__ import annotations\ndef f(): return K\nK = 2", "a", ["f"])[:2]
    )
    assert namespace["f"].__code__.co_filename == "a"
    assert namespace["__doc__"] == "M."
    whole = run(compose(ours, "o", "K = 2\ndef f(): return K", "a", ["f"]))
    assert (whole["PAIR"], whole["g"](), whole["__doc__"]) == ((2, 0), 2, "M.")


def test_all_functions_of_a_module_can_be_the_learners() -> None:
    ours = "def f(): return 1\ndef g(): return f() + 1\n"
    whole = run(compose(ours, "o", "def g(): return f() + 10\ndef f(): return 5", "a", ["f", "g"]))
    assert whole["g"]() == 15


def test_nothing_taken_is_our_module() -> None:
    (part,) = compose(OURS, "ours.py", ANSWER.replace("print(undefined)\n", ""), "my.py", [])[:1]
    assert ast.dump(part.tree.body[0]) == ast.dump(ast.parse(OURS).body[0])


def test_what_cannot_be_composed_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a function area"):
        compose(OURS, "o", "x = 1", "a", ["area"])
    with pytest.raises(SyntaxError):
        compose(OURS, "o", "def area(:", "a", ["area"])


def test_differences_are_found() -> None:
    found = find_differences(OURS, ANSWER, ["area", "twice"])
    assert found == [
        Difference("changed", "LIMIT", 4),
        Difference("signature", "area", 8),
        Difference("changed", "_scale", 9),
        Difference("ignored", "print(undefined)", 10),
    ]
    assert find_differences(OURS, "", ["area"]) == [Difference("missing", "area", 0)]
    (syntax,) = find_differences(OURS, "x = 1\ndef f(:\n", ["area"])
    assert (syntax.kind, syntax.line) == ("syntax", 2)


def test_other_line_endings_are_no_difference() -> None:
    text = OURS.replace("\n", "\r\n")
    assert find_differences(OURS, text, ["area", "twice"]) == []
    assert is_solved(text, "area")
