"""Serve a learner's functions in place of ours: an import finder for the modules of the course.

It must be installed before a module of the course is imported. `inspect.getsource`, tracebacks and line
numbers of a learner's function are those of the learner's file.

It also works in other processes: `VARIABLE` carries the folder to those that run the command line, and the
finder's attribute `startup` to the workers of `data_pipes.workers`.
"""

from __future__ import annotations
import __future__

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from stages.teach import messages
from stages.teach.course import (
    COURSE,
    Exercise,
    course_modules,
    exercises_of_module,
    find_exercise,
    module_path,
)
from stages.teach.files import Answer, read_answer, read_original, read_parsed
from stages.teach.messages import Sentence
from stages.teach.source import compose, is_solved
from stages.teach.syntax import describe_signature, find_function, parse_source

VARIABLE = "INTRO2LLM_WITH"
"""Environment variable: the learner's folder whose functions this process and those that it starts use."""

Execute = Callable[[CodeType, dict[str, Any]], None]
"""Executes a part of a module in its namespace."""


class Served(NamedTuple):
    """The functions that a folder's files give.

    Fields:
        functions: dotted name of a module -> names of the learner's functions in it that are served.
        exercises: names of the exercises that are served.
        total: number of exercises of the course.
        left_out: files that cannot be read, and functions with other parameters than ours, a sentence for
            each; ours is used.
    """

    functions: Mapping[str, tuple[str, ...]]
    exercises: tuple[str, ...]
    total: int
    left_out: tuple[Sentence, ...]


class Loader(importlib.machinery.SourceFileLoader):
    """Loads our module with functions of the learner's file in it."""

    def __init__(
        self, name: str, path: str, answer: Answer, functions: Collection[str], execute: Execute
    ) -> None:
        super().__init__(name, path)
        self.answer, self.functions, self.execute = answer, functions, execute

    def exec_module(self, module: ModuleType) -> None:
        """Executes the parts of the composed module."""
        original = importlib.util.decode_source(self.get_data(self.path))
        answer = self.answer
        for part in compose(original, self.path, answer.text, str(answer.path), self.functions):
            code = compile(part.tree, part.path, "exec", flags=future_flags(original), dont_inherit=True)
            self.execute(code, module.__dict__)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that Python would find, and gives those that have functions to serve to `Loader`."""

    def __init__(self, folder: Path, served: Served, names: Collection[str] | None, execute: Execute) -> None:
        self.folder, self.served, self.execute = folder, served, execute
        arguments = f"{str(folder)!r}, {None if names is None else list(names)!r}"
        self.startup = f"from stages.teach import overlay; overlay.install({arguments})"

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds a module that has functions to serve; None for any other."""
        if name not in self.served.functions:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            answer, functions = read_answer(self.folder, name), self.served.functions[name]
            spec.loader = Loader(name, spec.loader.path, answer, functions, self.execute)
        return spec


def install(folder: Path | str, names: Collection[str] | None = None, *, execute: Execute = exec) -> Served:
    """Serves functions of a learner's folder to all imports from now on.

    Args:
        folder: the edition's folder.
        names: of the exercises to serve, solved or not; None serves all that are solved.
        execute: executes each part of a module; the check watches it.

    Returns:
        What is served.

    Raises:
        ImportError: if a module that would have functions of the learner has been imported already.
    """
    folder = Path(folder).absolute()
    served = find_served(folder, names)
    loaded = sorted(name for name in served.functions if name in sys.modules)
    if loaded:
        raise ImportError(
            f"overlay.install: {', '.join(loaded)} was imported before; install the overlay first, "
            "in a new process"
        )
    sys.meta_path.insert(0, Finder(folder, served, names, execute))
    return served


def find_served(folder: Path, names: Collection[str] | None = None) -> Served:
    """Finds the functions that a folder's files give.

    Args:
        folder: the edition's folder.
        names: of exercises, solved or not; None takes all that are solved, in files that parse, with our
            parameters.
    """
    course = [each for chapter in COURSE for each in chapter.exercises]
    if names is not None:
        chosen = [find_exercise(name) for name in names]
        return Served(_group_functions(chosen), tuple(each.name for each in chosen), len(course), ())
    served: list[Exercise] = []
    left_out: list[Sentence] = []
    for module in course_modules():
        try:
            text = read_parsed(folder, module).text
        except ValueError as error:
            left_out.append(Sentence(messages.FILE_LEFT_OUT, {"problem": error.args[0]}))
            continue
        solved = [each for each in exercises_of_module(module) if is_solved(text, each.function)]
        problems = [_compare_signature(each, text) for each in solved]
        left_out += [problem for problem in problems if problem]
        served += [each for each, problem in zip(solved, problems, strict=True) if not problem]
    names = [each.name for each in course if each in served]
    return Served(_group_functions(served), tuple(names), len(course), tuple(left_out))


def find_installed() -> Served | None:
    """Returns what the overlay of this process serves; None if none is installed."""
    return next((finder.served for finder in sys.meta_path if isinstance(finder, Finder)), None)


def future_flags(text: str) -> int:
    """Returns the compiler's flags of the `from __future__` imports of a module."""
    flags = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    return flags


def _group_functions(exercises: Sequence[Exercise]) -> dict[str, tuple[str, ...]]:
    """Dotted name of each module -> names of the functions of these exercises in it."""
    functions: dict[str, tuple[str, ...]] = {}
    for exercise in exercises:
        functions[exercise.module] = (*functions.get(exercise.module, ()), exercise.function)
    return functions


def _compare_signature(exercise: Exercise, text: str) -> Sentence | None:
    """A sentence on a function whose parameters differ from ours; None if they do not."""
    sources = read_original(exercise.module), text
    own, other = (find_function(parse_source(source), exercise.function) for source in sources)
    if own is None or other is None:
        return None
    expected, got = describe_signature(own), describe_signature(other)
    if expected == got:
        return None
    fields = {"path": module_path(exercise.module), "line": other.lineno, "function": exercise.function}
    problem = Sentence(messages.SIGNATURE_SERVED, {**fields, "expected": expected, "got": got})
    return Sentence(messages.FUNCTION_LEFT_OUT, {"problem": problem})
