"""Generate rows for every stage after pretraining: instructions, preferences, single answers and prompts.

They have two sources: small tasks with one right answer (`data_pipes/embedded/tasks.py`), and questions about
Python's documentation (which summary a function has, or which function has a summary). Rows have the columns
of the usual data sets.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipes.embedded import python_library
from data_pipes.embedded.tasks import AMBIGUOUS, Task, generate_tasks
from data_pipes.shuffle import fold_in, fold_in_name, key_words, permute
from data_pipes.types import Row

SFT_FAMILIES = ("sum", "sort", "reverse", "count", "letters", "last", "format", "join")
PREFERENCE_FAMILIES = ("reverse", "count", "letters", "last", "format", "join")
"""Families whose wrong answers are recognizable without arithmetic or knowledge."""

PROMPT_FAMILIES = ("sort", "join", "join")
"""Families of reinforcement learning, chosen so that the fine-tuned model is rewarded for some answers but
not most: "sort" is hard, and for "join" it has learned two answers, of which only one is rewarded."""

DOCUMENTATION_SHARE = 0.2
"""Share of instruction rows that ask about documentation."""

MAX_SUMMARY_LENGTH = 80
"""Largest length of a summary, characters."""


class Summary(NamedTuple):
    """A function of Python's library ("textwrap.dedent") with the first line of its documentation."""

    name: str
    text: str


def instructions(
    count: int, *, key: Any, part: str = "train", families: Sequence[str] = SFT_FAMILIES
) -> list[Row]:
    """Generates instruction rows: tasks, and a fifth about documentation.

    Completions of an AMBIGUOUS family alternate between the two answers that fit.

    Args:
        count: number of rows, >= 0.
        key: a seed or a key [2] uint32.
        part: "train" or "held_out"; no question is in both.
        families: families of the tasks, keys of `data_pipes.embedded.tasks.FAMILIES`.

    Returns:
        Rows {"prompt", "completion", "family"}, shuffled under the key.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.generate_tasks`.
    """
    documentation = _documentation_questions(int(count * DOCUMENTATION_SHARE), key, part)
    tasks = generate_tasks(families, count - len(documentation), key=key, part=part)
    rows = []
    for i, task in enumerate(tasks):
        second_form = task.family in AMBIGUOUS and i // len(families) % 2
        completion = task.wrong if second_form else task.answer
        rows.append({"prompt": task.prompt, "completion": completion, "family": task.family})
    rows += [{"prompt": t.prompt, "completion": t.answer, "family": t.family} for t in documentation]
    return _shuffled_rows(rows, key, part)


def preferences(
    count: int,
    *,
    key: Any,
    part: str = "train",
    families: Sequence[str] = PREFERENCE_FAMILIES,
    documentation: float = 0.0,
) -> list[Row]:
    """Generates preference rows: the right answer, and one that only looks right.

    Args:
        count, key, part, families: as in `instructions`.
        documentation: share of rows that ask about documentation, in [0, 1]; the rejected answer is that of
            another function.

    Returns:
        Rows {"prompt", "chosen", "rejected", "family"}.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.generate_tasks`.
    """
    documentation_tasks = _documentation_questions(int(count * documentation), key, part)
    tasks = generate_tasks(families, count - len(documentation_tasks), key=key, part=part)
    rows = [
        {"prompt": task.prompt, "chosen": task.answer, "rejected": task.wrong, "family": task.family}
        for task in [*tasks, *documentation_tasks]
    ]
    return _shuffled_rows(rows, key, part)


def unpaired(
    count: int, *, key: Any, part: str = "train", families: Sequence[str] = PREFERENCE_FAMILIES
) -> list[Row]:
    """Generates labelled single answers: both answers of each preference row, one desirable, one not.

    Args:
        count, key, part, families: as in `instructions`.

    Returns:
        Rows {"prompt", "completion", "label", "family"}; label is True for half of them.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.generate_tasks`.
    """
    pairs = preferences((count + 1) // 2, key=key, part=part, families=families)
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": label, "family": pair["family"]}
        for pair in (row.values for row in pairs)
        for side, label in (("chosen", True), ("rejected", False))
    ]
    return _shuffled_rows(rows[:count], key, part)


def prompts(
    count: int, *, key: Any, part: str = "train", families: Sequence[str] = PROMPT_FAMILIES
) -> list[Row]:
    """Generates prompts whose answers can be checked.

    Args:
        count, key, part, families: as in `instructions`.

    Returns:
        Rows {"prompt", "answer", "family"}.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.generate_tasks`.
    """
    tasks = generate_tasks(families, count, key=key, part=part)
    rows = [{"prompt": task.prompt, "answer": task.answer, "family": task.family} for task in tasks]
    return _shuffled_rows(rows, key, part)


@functools.cache
def read_summaries(part: str = "train") -> tuple[Summary, ...]:
    """Reads the functions of Python's library, each with the first line of its documentation.

    Parsing the library takes seconds, so a process does it once.

    Args:
        part: "train" or "held_out", as in `data_pipes.embedded.python_library`, which splits by file.

    Returns:
        Public functions at the top level of public modules, whose summary is one line of 15 to 80 characters
        that ends with a full stop.
    """
    return tuple(
        summary
        for document in python_library.documents("train" if part == "train" else "held_out")
        if document.name.endswith(".py")
        for summary in _module_summaries(document.name, document.text)
    )


def _module_summaries(name: str, text: str) -> Iterator[Summary]:
    """The functions of one module."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if "._" in f".{module}":
        return
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            first_line = (ast.get_docstring(node) or "").split("\n")[0]
            if 15 <= len(first_line) <= MAX_SUMMARY_LENGTH and first_line.endswith("."):
                yield Summary(f"{module}.{node.name}", first_line)


def _documentation_questions(count: int, key: Any, part: str) -> list[Task]:
    """Questions about documentation, cycling through the functions; wrong answers are other functions'."""
    functions = read_summaries(part) if count else ()
    if not functions:
        return []
    indices = np.arange(count) % len(functions)
    order = permute(indices, len(functions), fold_in_name(key_words(key), "documentation")).tolist()
    questions = []
    for i, index in enumerate(order):
        function, other = functions[index], functions[(index + 1 + i % 7) % len(functions)]
        if i % 2:
            prompt, answer, wrong = f"What does {function.name} do?", function.text, other.text
        else:
            prompt, answer, wrong = f"Which function does this? {function.text}", function.name, other.name
        questions.append(Task(prompt, answer, wrong, "documentation"))
    return questions


def _shuffled_rows(fields: Sequence[Mapping[str, Any]], key: Any, part: str) -> list[Row]:
    """Rows, shuffled under the key and named by their number."""
    if not fields:
        return []
    shuffle_key = fold_in(fold_in_name(key_words(key), "lessons"), len(part))
    order = permute(np.arange(len(fields)), len(fields), shuffle_key).tolist()
    return [Row(dict(fields[i]), f"embedded/{part}:{number}") for number, i in enumerate(order, 1)]
