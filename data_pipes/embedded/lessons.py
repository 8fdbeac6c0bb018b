"""Embedded lessons: instruction, preference and prompt rows for every rung after pretraining, with nothing
downloaded.

They are made of two things: small tasks with one right answer (`data_pipes/embedded/tasks.py`), and Python's
own documentation, whose functions are asked for their summaries and the other way round. Rows have the
columns of the usual data sets.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipes.embedded.corpus import embedded
from data_pipes.embedded.tasks import OPEN, tasks
from data_pipes.shuffle import fold_in, key_words, named, shuffled
from data_pipes.types import Row

SFT_FAMILIES = ("sum", "sort", "reverse", "count", "letters", "last", "format", "join")
PREFERENCE_FAMILIES = ("reverse", "count", "letters", "last", "format", "join")
"""Families whose wrong answers can be told from the right ones by looking: no sums, and no facts."""

PROMPT_FAMILIES = ("sort", "join", "join")
"""What is asked in reinforcement learning, of which the fine-tuned model answers some, but not most: a third
is hard, and of the others it has seen two forms, of which only one is rewarded."""

DOCUMENTATION = 0.2
"""Share of the rows that are about documentation."""

LONGEST = 80
"""Characters of a summary at most."""


class Summary(NamedTuple):
    """A function of Python's library ("textwrap.dedent") and the first line of its documentation."""

    name: str
    text: str


def instructions(
    count: int, *, key: Any, part: str = "train", families: Sequence[str] = SFT_FAMILIES
) -> list[Row]:
    """Makes instruction rows: tasks, and a fifth about documentation; of open questions both forms.

    Args:
        count: rows, >= 0.
        key: a seed or a key [2] uint32.
        part: "train" or "held_out"; no question is in both.
        families: of tasks.

    Returns:
        Rows {"prompt", "completion", "family"}, in an order that the key decides.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.tasks`.
    """
    about = _questions(int(count * DOCUMENTATION), key, part)
    asked = tasks(families, count - len(about), key=key, part=part)
    found = [
        {
            "prompt": t.prompt,
            "completion": t.wrong if t.family in OPEN and i // len(families) % 2 else t.answer,
            "family": t.family,
        }
        for i, t in enumerate(asked)
    ]
    found += [{"prompt": q, "completion": right, "family": "documentation"} for q, right, _ in about]
    return _rows(found, key, part)


def preferences(
    count: int,
    *,
    key: Any,
    part: str = "train",
    families: Sequence[str] = PREFERENCE_FAMILIES,
    documentation: float = 0.0,
) -> list[Row]:
    """Makes preference rows: the right answer, and one that only looks right.

    Args:
        count, key, part, families: as in `instructions`.
        documentation: share of the rows that are about documentation, with another function's answer for the
            wrong one.

    Returns:
        Rows {"prompt", "chosen", "rejected", "family"}.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.tasks`.
    """
    about = _questions(int(count * documentation), key, part)
    asked = tasks(families, count - len(about), key=key, part=part)
    found = [{"prompt": t.prompt, "chosen": t.answer, "rejected": t.wrong, "family": t.family} for t in asked]
    found += [
        {"prompt": q, "chosen": right, "rejected": wrong, "family": "documentation"}
        for q, right, wrong in about
    ]
    return _rows(found, key, part)


def unpaired(
    count: int, *, key: Any, part: str = "train", families: Sequence[str] = PREFERENCE_FAMILIES
) -> list[Row]:
    """Generates single answers with a label: the two of each preference row, one desirable, one not.

    Args:
        count, key, part, families: as in `instructions`.

    Returns:
        Rows {"prompt", "completion", "label", "family"}, half of them True.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.tasks`.
    """
    pairs = preferences((count + 1) // 2, key=key, part=part, families=families)
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": label, "family": pair["family"]}
        for pair in (row.values for row in pairs)
        for side, label in (("chosen", True), ("rejected", False))
    ]
    return _rows(rows[:count], key, part)


def prompts(
    count: int, *, key: Any, part: str = "train", families: Sequence[str] = PROMPT_FAMILIES
) -> list[Row]:
    """Generates prompts whose answers can be checked.

    Args:
        count, key, part, families: as in `instructions`.

    Returns:
        Rows {"prompt", "answer", "family"}.

    Raises:
        ValueError: as `data_pipes.embedded.tasks.tasks`.
    """
    asked = tasks(families, count, key=key, part=part)
    return _rows([{"prompt": t.prompt, "answer": t.answer, "family": t.family} for t in asked], key, part)


def summaries(part: str = "train") -> Iterator[Summary]:
    """Reads which functions there are, and what their documentation says first.

    Args:
        part: "train" or "held_out": of whole files, as in `data_pipes.embedded.corpus`.

    Returns:
        Public functions at the top of a module, whose summary is one line of at most 80 characters that ends
        with a full stop.
    """
    for document in embedded("train" if part == "train" else "held_out"):
        if document.name.endswith(".py"):
            yield from _of(document.name, document.text)


def _of(name: str, text: str) -> Iterator[Summary]:
    """The functions of one module."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and "._" not in f".{module}":
            first = (ast.get_docstring(node) or "").split("\n")[0]
            if 15 <= len(first) <= LONGEST and first.endswith("."):
                yield Summary(f"{module}.{node.name}", first)


def _questions(count: int, key: Any, part: str) -> list[tuple[str, str, str]]:
    """Questions about documentation: (question, answer, another function's answer), each function in turn."""
    found = list(summaries(part)) if count else []
    if not found:
        return []
    order = shuffled(np.arange(count) % len(found), len(found), named(key_words(key), "documentation"))
    made = []
    for i, at in enumerate(order):
        one, other = found[int(at)], found[(int(at) + 1 + i % 7) % len(found)]
        if i % 2:
            made.append((f"What does {one.name} do?", one.text, other.text))
        else:
            made.append((f"Which function does this? {one.text}", one.name, other.name))
    return made


def _rows(found: Sequence[Mapping[str, Any]], key: Any, part: str) -> list[Row]:
    """Rows in an order of their own, named by their number."""
    if not found:
        return []
    order = shuffled(np.arange(len(found)), len(found), fold_in(named(key_words(key), "lessons"), len(part)))
    return [Row(dict(found[int(i)]), f"embedded/{part}:{number}") for number, i in enumerate(order, 1)]
