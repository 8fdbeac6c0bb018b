"""`stages.teach.refusal`: names that an answer may not use, and that ours uses none of them."""

from __future__ import annotations

import ast

import pytest

from stages.teach.course import COURSE, Exercise
from stages.teach.files import read_original
from stages.teach.refusal import find_refusal
from stages.teach.syntax import find_function, parse_source

MODULE = "pure.loss.dpo"


@pytest.mark.parametrize(
    "text",
    [
        "import os.path",
        "import importlib",
        "from importlib import util",
        "from pure.loss.dpo import dpo_loss",
        "from pure.loss import dpo",
        "from . import dpo",
        "from .dpo import dpo_loss",
        "import pure.loss.dpo as x",
        "from tests.pure.loss import test_dpo",
        "from stages.teach import overlay",
        "import stages.teach.worker",
        "def f():\n    return open('x')",
        "def f():\n    return f.__globals__",
        "def f():\n    return getattr(f, '__closure__')",
        "def f():\n    return torch.load('x')",
        "def f():\n    return torch.multiprocessing",
        "def f():\n    global x\n    x = 1",
        "x = eval('1')",
        "from stages import teach",
        "from stages.cli import exercises_check",
        "from typing import sys as s",
        "from doctest import linecache as lc",
        "import _thread",
        "x = print.__self__",
        "def f(t, run=exec):\n    run(t)",
        "def f(t, exec=exec):\n    exec(t)",
        "def g(eval): return 1\ndef f(): return eval('1')",
        "exec = exec",
        "x = [exec for exec in [exec]]",
        "def f(t):\n    return (lambda run=exec: run(t))()",
    ],
)
def test_what_leads_to_our_source_or_out_of_the_function_is_refused(text: str) -> None:
    refusal = find_refusal(ast.parse(text).body, MODULE)
    assert refusal is not None
    assert refusal.line in (1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "import math\nimport torch.nn.functional as F",
        "from stages.teach.unsolved import Unsolved",
        "from pure.loss.kl import kl_penalty",
        "from pure.loss import kl",
        "def f(input, open=1):\n    return input + open",
        "def f(model, x):\n    model.eval()\n    return x.load",
        "def f(x):\n    os = x + 1\n    return os",
        "def compile(x):\n    return x\ndef f(x):\n    return compile(x)",
        "def f(x):\n    def compile(y): return y\n    return [compile(io) for io in x]",
        "def f(x):\n    input, *_ = x\n    return lambda: input",
    ],
)
def test_other_names_are_not_refused(text: str) -> None:
    assert find_refusal(ast.parse(text).body, MODULE) is None


@pytest.mark.parametrize(
    "exercise", [each for chapter in COURSE for each in chapter.exercises], ids=lambda each: each.name
)
def test_our_own_functions_use_none_of_these_names(exercise: Exercise) -> None:
    tree = parse_source(read_original(exercise.module))
    node = find_function(tree, exercise.function)
    assert node is not None
    assert find_refusal([node], exercise.module) is None
