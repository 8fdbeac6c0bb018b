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

from stages.teach.course import COURSE, ROOT, find_exercise, module_path
from stages.teach.source import compose, find_differences, is_solved

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
        unreadable: path of each file that does not parse, with line and message; ours is used.
    """

    functions: Mapping[str, tuple[str, ...]]
    exercises: tuple[str, ...]
    total: int
    unreadable: tuple[tuple[str, int, str], ...]


class Loader(importlib.machinery.SourceFileLoader):
    """Loads our module with functions of the learner's file in it."""

    def __init__(
        self, name: str, path: str, answer: Path, functions: Collection[str], execute: Execute
    ) -> None:
        super().__init__(name, path)
        self.answer, self.functions, self.execute = answer, functions, execute

    def exec_module(self, module: ModuleType) -> None:
        """Executes the parts of the composed module."""
        original = importlib.util.decode_source(self.get_data(self.path))
        answer = read_source(self.answer)
        for part in compose(original, self.path, answer, str(self.answer), self.functions):
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
            answer, functions = answer_path(self.folder, name), self.served.functions[name]
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
        names: of exercises, solved or not; None takes all that are solved, in files that parse.
    """
    exercises = [each for chapter in COURSE for each in chapter.exercises]
    if names is not None:
        exercises = [find_exercise(name) for name in names]
    functions: dict[str, tuple[str, ...]] = {}
    served: list[str] = []
    unreadable: dict[str, tuple[str, int, str]] = {}
    for exercise in exercises:
        path = answer_path(folder, exercise.module)
        if str(path) in unreadable or not path.is_file():
            continue
        text, mistake = read_answer(path)
        if mistake is not None and names is None:
            unreadable[str(path)] = (str(path), *mistake)
        elif names is not None or is_solved(text, exercise.function):
            served.append(exercise.name)
            functions[exercise.module] = (*functions.get(exercise.module, ()), exercise.function)
    total = sum(len(chapter.exercises) for chapter in COURSE)
    return Served(functions, tuple(served), total, tuple(unreadable.values()))


def find_installed() -> Served | None:
    """Returns what the overlay of this process serves; None if none is installed."""
    return next((finder.served for finder in sys.meta_path if isinstance(finder, Finder)), None)


def answer_path(folder: Path, module: str) -> Path:
    """Returns the path of a module's file in a learner's folder."""
    return folder / module_path(module)


def find_source(module: str) -> Path:
    """Finds the file of one of our modules, without importing it."""
    return ROOT / module_path(module)


def read_source(path: Path) -> str:
    """Reads a source file as Python does: its encoding, a byte order mark, any line ending.

    Raises:
        SyntaxError: for bytes that are no text in the file's encoding.
    """
    try:
        return importlib.util.decode_source(path.read_bytes())
    except UnicodeDecodeError as error:
        raise SyntaxError(f"not UTF-8 ({error.reason})") from None


def read_answer(path: Path) -> tuple[str, tuple[int, str] | None]:
    """Reads a learner's file; returns its text, and line and message of what does not parse."""
    try:
        text = read_source(path)
    except SyntaxError as error:
        return "", (1, error.msg)
    for difference in find_differences("", text, ()):
        if difference.kind == "syntax":
            return text, (difference.line, difference.name)
    return text, None


def future_flags(text: str) -> int:
    """Returns the compiler's flags of the `from __future__` imports of a module."""
    flags = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    return flags
