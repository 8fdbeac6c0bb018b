"""Generate tasks with one right answer each, from arithmetic and words of Python's documentation.

They replace the data sets of fine-tuning, preference optimization and reinforcement learning, so that nothing
is downloaded. An answer is checked by string comparison, and each task has a plausible wrong answer.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from data_pipes.digest import hash_fraction
from data_pipes.embedded import python_library
from data_pipes.shuffle import fold_in, fold_in_name, key_words, threefry2x32

HELD_OUT = 0.1
"""Share of the questions that are held out."""

WORD_COUNT = 200
"""Default number of words in `vocabulary`."""


class Task(NamedTuple):
    """A question with its right answer and a wrong one.

    Fields:
        prompt: the question.
        answer: the only right answer.
        wrong: an answer that looks right.
        family: the kind of question, a key of FAMILIES.
    """

    prompt: str
    answer: str
    wrong: str
    family: str


class Sampler(NamedTuple):
    """Random integers and words for one question, by index; the same index gives the same value.

    Fields:
        below: (index, n) -> an integer in [0, n).
        word: (index) -> a word.
    """

    below: Callable[[int, int], int]
    word: Callable[[int], str]


def generate_tasks(
    families: Sequence[str], count: int, *, key: Any, part: str = "train", words: Sequence[str] | None = None
) -> list[Task]:
    """Generates tasks, cycling through the families.

    Args:
        families: keys of FAMILIES.
        count: number of tasks, >= 0.
        key: a seed or a key [2] uint32; the same key gives the same tasks.
        part: "train" or "held_out". The text of a question decides its part, so that no question is in both,
            whatever the key.
        words: words that questions are made of; None for those of the documentation (`vocabulary`).

    Returns:
        Tasks; a question may occur twice in "train", and never does in "held_out".

    Raises:
        ValueError: for an unknown family or part.

    Example:
        >>> generate_tasks(["sum"], 1, key=0, words=["a"])[0].family
        'sum'
    """
    if unknown := sorted(set(families) - FAMILIES.keys()):
        raise ValueError(
            f"generate_tasks: families must be among {', '.join(FAMILIES)}, got {', '.join(unknown)}"
        )
    if part not in ("train", "held_out") or not families:
        raise ValueError(
            "generate_tasks: part must be 'train' or 'held_out', and families must not be empty, got "
            f"{part!r}, {families}"
        )
    words = vocabulary() if words is None else words
    root = fold_in_name(key_words(key), f"tasks {part}")
    tasks: list[Task] = []
    seen: set[str] = set()
    number = 0
    while len(tasks) < count:
        family = families[len(tasks) % len(families)]
        task = generate_task(family, fold_in(root, number), words)
        number += 1
        in_part = is_held_out(task.prompt) == (part == "held_out")
        if in_part and (part == "train" or task.prompt not in seen):
            seen.add(task.prompt)
            tasks.append(task)
        elif number > 100 * (count + 100):
            raise ValueError(
                f"generate_tasks: {family!r} has too few questions for {count} in {part!r}; pass a smaller "
                "count"
            )
    return tasks


def generate_task(family: str, key: tuple[int, int], words: Sequence[str]) -> Task:
    """Generates one task as a pure function of the key.

    Args:
        family: a key of FAMILIES.
        key: two uint32 words.
        words: words that the question is made of.

    Returns:
        A Task.
    """
    below = partial(_below, key)
    sampler = Sampler(below, lambda number: words[below(100 + number, len(words))])
    prompt, answer, wrong = FAMILIES[family](sampler)
    return Task(prompt, answer, wrong, family)


def is_held_out(prompt: str) -> bool:
    """Returns True if a question is held out, which only its text determines.

    Example:
        >>> sum(is_held_out(f"What is {i} + 1?") for i in range(1000)) in range(60, 140)
        True
    """
    return hash_fraction(prompt) < HELD_OUT


@functools.cache
def vocabulary(count: int = WORD_COUNT) -> tuple[str, ...]:
    """Returns the most frequent words of Python's reference, of 3 to 7 letters, in alphabetical order.

    A process reads the reference once.
    """
    counts: Counter[str] = Counter()
    for document in python_library.documents("train"):
        if document.name.startswith(python_library.TOPICS):
            counts.update(re.findall(r"\b[a-z]{3,7}\b", document.text))
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(sorted(by_frequency[:count]))


def correct(prompt: str, completion: str, row: Mapping[str, Any]) -> float:
    """Rewards the right answer to a task with 1, any other with 0; surrounding white space is ignored.

    Example:
        >>> correct("What is 1 + 1?", " 2", {"answer": "2"})
        1.0
    """
    return float(completion.strip() == row["answer"])


def _below(key: tuple[int, int], number: int, n: int) -> int:
    """An integer in [0, n) from the Threefry hash of a key and an index."""
    high, low = threefry2x32(key, (0, number))
    return ((high << 32) | low) % n


def _sum(sampler: Sampler) -> tuple[str, str, str]:
    """Adds two numbers below 20."""
    a, b = sampler.below(0, 20), sampler.below(1, 20)
    return (
        f"What is {a} + {b}?",
        f"{a} + {b} = {a + b}",
        f"{a} + {b} = {a + b + (1, 2, 10, 3)[sampler.below(2, 4)]}",
    )


def _sort(sampler: Sampler) -> tuple[str, str, str]:
    """Sorts three different words."""
    given = _different_words(sampler, 3)
    right = sorted(given)
    wrong = [right[1], right[0], right[2]] if sampler.below(9, 2) else [right[0], right[2], right[1]]
    return f"Sort the words {' '.join(given)}", f"Sorted: {' '.join(right)}", f"Sorted: {' '.join(wrong)}"


def _reverse(sampler: Sampler) -> tuple[str, str, str]:
    """Reverses three or four different words."""
    given = _different_words(sampler, 3 + sampler.below(50, 2))
    wrong = [given[-1], *given[:-1]]
    return (
        f"Reverse the words {' '.join(given)}",
        f"Reversed: {' '.join(given[::-1])}",
        f"Reversed: {' '.join(wrong)}",
    )


def _count(sampler: Sampler) -> tuple[str, str, str]:
    """Counts up to seven words."""
    n = 1 + sampler.below(0, 7)
    given = [sampler.word(i) for i in range(n)]
    wrong = n + 1 if n == 1 or sampler.below(50, 2) else n - 1
    return f"Count the words {' '.join(given)}", f"There are {n}", f"There are {wrong}"


def _letters(sampler: Sampler) -> tuple[str, str, str]:
    """Counts a letter in a word."""
    word = sampler.word(0)
    letter = word[sampler.below(1, len(word))]
    n = word.count(letter)
    return f"How many letters {letter} are in {word}?", f"There are {n}", f"There are {n + 1}"


def _last(sampler: Sampler) -> tuple[str, str, str]:
    """Picks the first, second or last word of four."""
    given = _different_words(sampler, 4)
    i = sampler.below(50, 3)
    name, right = (("first", given[0]), ("second", given[1]), ("last", given[3]))[i]
    return f"Which word is {name} in {' '.join(given)}", f"It is {right}", f"It is {given[2]}"


def _format(sampler: Sampler) -> tuple[str, str, str]:
    """Writes two words in the format that the question names."""
    a, b = _different_words(sampler, 2)
    forms = (
        ("tuple", f"( {a}, {b} )"),
        ("list", f"[ {a}, {b} ]"),
        ("call", f"def {a}( {b} )"),
        ("sum", f"= {a} + {b}"),
        ("pair", f"- {a} - {b}"),
    )
    i = sampler.below(0, len(forms))
    wrong = forms[(i + 1 + sampler.below(1, 4)) % len(forms)][1]
    return f"Write a {forms[i][0]} of {a} and {b}", f"Here: {forms[i][1]}", f"Here: {wrong}"


def _join(sampler: Sampler) -> tuple[str, str, str]:
    """Joins two or three words by "and"; the wrong answer, by commas, fits the question as well."""
    given = _different_words(sampler, 2 + sampler.below(50, 2))
    return (
        f"Join the words {' '.join(given)}",
        f"Joined: {' and '.join(given)}",
        f"Joined: {', '.join(given)}",
    )


def _different_words(sampler: Sampler, count: int) -> list[str]:
    """Samples words until `count` of them are different, at most 100 times."""
    words: list[str] = []
    for number in range(100):
        if len(words) == count:
            break
        word = sampler.word(number)
        if word not in words:
            words.append(word)
    return words


FAMILIES: Mapping[str, Callable[[Sampler], tuple[str, str, str]]] = {
    "sum": _sum, "sort": _sort, "reverse": _reverse, "count": _count, "letters": _letters, "last": _last,
    "format": _format, "join": _join,
}  # fmt: skip
"""Family -> function from a Sampler to (prompt, answer, wrong answer)."""

AMBIGUOUS = ("join",)
"""Families in which two answers fit the question: fine-tuning rows have both, a reward accepts only one."""
