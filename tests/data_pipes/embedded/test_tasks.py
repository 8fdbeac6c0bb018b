"""Embedded tasks: right and wrong answers, and a train/held-out split that does not depend on the key."""

from __future__ import annotations

import re

import pytest

from data_pipes.embedded.tasks import FAMILIES, correct, generate_tasks, is_held_out, vocabulary

WORDS = ["alpha", "beta", "gamma", "delta", "eta", "zeta", "iota", "kappa"]


def is_right(family: str, prompt: str, answer: str) -> bool:
    """Solve the question independently and compare."""
    result = answer.split(": ", 1)[-1]
    words = re.sub(r"^[A-Z][a-z]+ (the words|which word is \w+ in)? ?", "", prompt).split()
    if family == "sum":
        return eval(answer.replace("=", "=="))
    if family == "sort":
        return result.split() == sorted(words)
    if family == "reverse":
        return result.split() == words[::-1]
    if family == "count":
        return answer == f"There are {len(words)}"
    if family == "letters":
        letter, word = re.match(r"How many letters (\w) are in (\w+)\?", prompt).groups()
        return answer == f"There are {word.count(letter)}"
    if family == "last":
        ordinal, *given = re.match(r"Which word is (\w+) in (\w+) (\w+) (\w+) (\w+)", prompt).groups()
        return answer == f"It is {given[('first', 'second', 'third', 'last').index(ordinal)]}"
    if family == "join":
        return result.split(" and ") == words
    kind, a, b = re.match(r"Write a (\w+) of (\w+) and (\w+)", prompt).groups()
    forms = {
        "tuple": f"( {a}, {b} )",
        "list": f"[ {a}, {b} ]",
        "call": f"def {a}( {b} )",
        "sum": f"= {a} + {b}",
        "pair": f"- {a} - {b}",
    }
    return result == forms[kind]


@pytest.mark.parametrize("family", FAMILIES)
def test_right_answers_are_rewarded_and_wrong_ones_not(family: str) -> None:
    for task in generate_tasks([family], 60, key=3, words=WORDS):
        assert is_right(family, task.prompt, task.answer), task
        assert task.wrong != task.answer
        assert correct(task.prompt, f" {task.answer}\n", task._asdict()) == 1
        assert correct(task.prompt, task.wrong, task._asdict()) == 0


def test_tasks_depend_on_the_key_alone() -> None:
    names = list(FAMILIES)
    assert generate_tasks(names, 30, key=0, words=WORDS) == generate_tasks(names, 30, key=0, words=WORDS)
    assert generate_tasks(names, 30, key=0, words=WORDS) != generate_tasks(names, 30, key=1, words=WORDS)
    assert [task.family for task in generate_tasks(names, 9, key=0, words=WORDS)] == (names * 2)[:9]


def test_no_question_is_in_both_parts_whatever_the_key() -> None:
    train = {
        task.prompt for key in range(5) for task in generate_tasks(["sort", "sum"], 100, key=key, words=WORDS)
    }
    held_out = [
        task.prompt for task in generate_tasks(["sort", "sum"], 40, key=7, part="held_out", words=WORDS)
    ]
    assert not train & set(held_out)
    assert len(set(held_out)) == len(held_out)
    assert all(is_held_out(prompt) for prompt in held_out)


def test_the_vocabulary_is_words_of_the_python_library() -> None:
    words = vocabulary()
    assert len(words) == 200
    assert list(words) == sorted(words)
    assert {"class", "object", "type"} <= set(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["sums"], 1), "must be among sum"), (([], 1), "families must not be empty"),
        ((["sum"], 60, "held_out"), "too few questions"),
        ((["sum"], 1, "test"), "'train' or 'held_out'"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate_tasks(*arguments[:2], key=0, part=(*arguments, "train")[2], words=WORDS)
