"""Embedded tasks: small questions with one right answer, made from words of Python's documentation and from
arithmetic.

They stand in the place of the data sets that fine-tuning, preferences and reinforcement learning are taught
with, and need no download: each can be checked by comparing texts, and each comes with a plausible wrong
answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from data_pipes.digest import hash_fraction
from data_pipes.embedded.corpus import TOPICS, embedded
from data_pipes.shuffle import fold_in, key_words, named, threefry2x32

HELD_OUT = 0.1
"""Share of the questions that are held out."""

WORDS = 200
"""Words of the documentation that questions are made of: its most frequent ones."""


class Task(NamedTuple):
    """One question.

    Fields:
        prompt: what is asked.
        answer: the right answer, the only one.
        wrong: an answer that looks right.
        family: a name of FAMILIES.
    """

    prompt: str
    answer: str
    wrong: str
    family: str


class Draw(NamedTuple):
    """Random numbers for one question.

    Fields:
        below: (number of the draw, n) -> an integer in [0, n).
        word: (number of the draw) -> a word.
    """

    below: Callable[[int, int], int]
    word: Callable[[int], str]


def tasks(
    families: Sequence[str], count: int, *, key: Any, part: str = "train", words: Sequence[str] | None = None
) -> list[Task]:
    """Makes questions, the families in turn.

    Args:
        families: names of FAMILIES.
        count: how many, >= 0.
        key: a seed or a key [2] uint32; the same gives the same questions.
        part: "train" or "held_out": which of the two a question belongs to, its own text decides, so that no
            question is in both, whatever the key.
        words: to make them of; None takes those of the documentation (`vocabulary`).

    Returns:
        Tasks; a question may come twice in "train", and never does in "held_out".

    Raises:
        ValueError: for an unknown family or part.

    Example:
        >>> tasks(["sum"], 1, key=0, words=["a"])[0].family
        'sum'
    """
    if unknown := sorted(set(families) - FAMILIES.keys()):
        raise ValueError(f"tasks: families must be among {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    if part not in ("train", "held_out") or not families:
        raise ValueError(
            f"tasks: part must be 'train' or 'held_out', and a family named, got {part!r}, {families}"
        )
    chosen = vocabulary() if words is None else list(words)
    root = named(key_words(key), f"tasks {part}")
    found: list[Task] = []
    seen: set[str] = set()
    number = 0
    while len(found) < count:
        family = families[len(found) % len(families)]
        task = make(family, fold_in(root, number), chosen)
        number += 1
        if is_held_out(task.prompt) == (part == "held_out") and (part == "train" or task.prompt not in seen):
            seen.add(task.prompt)
            found.append(task)
        elif number > 100 * (count + 100):
            raise ValueError(
                f"tasks: {family!r} has too few questions for {count} in {part!r}; ask for fewer"
            )
    return found


def make(family: str, key: tuple[int, int], words: Sequence[str]) -> Task:
    """Makes the question that a key stands for.

    Args:
        family: a name of FAMILIES.
        key: two words.
        words: to make it of.

    Returns:
        A Task.
    """
    below = partial(_below, key)
    prompt, answer, wrong = FAMILIES[family](Draw(below, lambda i: words[below(100 + i, len(words))]))
    return Task(prompt, answer, wrong, family)


def is_held_out(prompt: str) -> bool:
    """Decides by a question's text whether it is held out.

    Example:
        >>> sum(is_held_out(f"What is {i} + 1?") for i in range(1000)) in range(60, 140)
        True
    """
    return hash_fraction(prompt) < HELD_OUT


def vocabulary(count: int = WORDS) -> list[str]:
    """The most frequent words of Python's reference, of 3 to 7 letters, in the order of the alphabet."""
    texts = (document.text for document in embedded("train") if document.name.startswith(TOPICS))
    found = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,7}\b", text))
    return sorted(word for word, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count])


def correct(prompt: str, completion: str, row: Mapping[str, Any]) -> float:
    """The reward of a task: 1 for the right answer, white space around it aside, else 0.

    Example:
        >>> correct("What is 1 + 1?", " 2", {"answer": "2"})
        1.0
    """
    return float(completion.strip() == row["answer"])


def _below(key: tuple[int, int], number: int, n: int) -> int:
    """An integer in [0, n) from the hash of a key and a number."""
    high, low = threefry2x32(key, (0, number))
    return ((high << 32) | low) % n


def _sum(draw: Draw) -> tuple[str, str, str]:
    """Two numbers below 20."""
    a, b = draw.below(0, 20), draw.below(1, 20)
    return (
        f"What is {a} + {b}?",
        f"{a} + {b} = {a + b}",
        f"{a} + {b} = {a + b + (1, 2, 10, 3)[draw.below(2, 4)]}",
    )


def _sort(draw: Draw) -> tuple[str, str, str]:
    """Three different words, by the alphabet."""
    given = _different(draw, 3)
    right = sorted(given)
    wrong = [right[1], right[0], right[2]] if draw.below(9, 2) else [right[0], right[2], right[1]]
    return f"Sort the words {' '.join(given)}", f"Sorted: {' '.join(right)}", f"Sorted: {' '.join(wrong)}"


def _reverse(draw: Draw) -> tuple[str, str, str]:
    """Three or four different words, backwards."""
    given = _different(draw, 3 + draw.below(50, 2))
    wrong = [given[-1], *given[:-1]]
    return (
        f"Reverse the words {' '.join(given)}",
        f"Reversed: {' '.join(given[::-1])}",
        f"Reversed: {' '.join(wrong)}",
    )


def _count(draw: Draw) -> tuple[str, str, str]:
    """Words in a list."""
    n = 1 + draw.below(0, 7)
    given = [draw.word(i) for i in range(n)]
    wrong = n + 1 if n == 1 or draw.below(50, 2) else n - 1
    return f"Count the words {' '.join(given)}", f"There are {n}", f"There are {wrong}"


def _letters(draw: Draw) -> tuple[str, str, str]:
    """How often a letter stands in a word."""
    word = draw.word(0)
    letter = word[draw.below(1, len(word))]
    n = word.count(letter)
    return f"How many letters {letter} are in {word}?", f"There are {n}", f"There are {n + 1}"


def _last(draw: Draw) -> tuple[str, str, str]:
    """The first, second or last word of four."""
    given = _different(draw, 4)
    i = draw.below(50, 3)
    name, right = (("first", given[0]), ("second", given[1]), ("last", given[3]))[i]
    return f"Which word is {name} in {' '.join(given)}", f"It is {right}", f"It is {given[2]}"


def _format(draw: Draw) -> tuple[str, str, str]:
    """Two words in a form that is asked for."""
    a, b = _different(draw, 2)
    forms = (
        ("tuple", f"( {a}, {b} )"),
        ("list", f"[ {a}, {b} ]"),
        ("call", f"def {a}( {b} )"),
        ("sum", f"= {a} + {b}"),
        ("pair", f"- {a} - {b}"),
    )
    i = draw.below(0, len(forms))
    wrong = forms[(i + 1 + draw.below(1, 4)) % len(forms)][1]
    return f"Write a {forms[i][0]} of {a} and {b}", f"Here: {forms[i][1]}", f"Here: {wrong}"


def _join(draw: Draw) -> tuple[str, str, str]:
    """Two or three words in one line, by "and"; the other way, by commas, would be as good if it were not
    asked."""
    given = _different(draw, 2 + draw.below(50, 2))
    return (
        f"Join the words {' '.join(given)}",
        f"Joined: {' and '.join(given)}",
        f"Joined: {', '.join(given)}",
    )


def _different(draw: Draw, count: int) -> list[str]:
    """Different words."""
    found: list[str] = []
    number = 0
    while len(found) < count and number < 100:
        word = draw.word(number)
        number += 1
        if word not in found:
            found.append(word)
    return found


FAMILIES: Mapping[str, Callable[[Draw], tuple[str, str, str]]] = {
    "sum": _sum, "sort": _sort, "reverse": _reverse, "count": _count, "letters": _letters, "last": _last,
    "format": _format, "join": _join,
}  # fmt: skip
"""Each family of questions: Draw -> (prompt, answer, wrong answer)."""

OPEN = ("join",)
"""Families whose question does not say which of two forms is wanted: fine-tuning shows both, a reward wants
one."""
