"""The embedded quiz: each question has one right choice, which the form of the choices does not reveal."""

from __future__ import annotations

import importlib
import inspect
import sysconfig
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from data_pipes.choices import Question, Questions
from data_pipes.embedded import quiz as quiz_module
from data_pipes.embedded.python_library import is_held_out
from data_pipes.embedded.quiz import DEV_COUNT, SUBJECTS, TEST_COUNT, Fact, Library, quiz
from data_pipes.embedded.tuning_rows import Summary

MODULES = ("base64", "calendar", "codecs", "contextlib", "copy", "dataclasses", "difflib", "email", "fnmatch", "heapq",
           "html", "http", "inspect", "json", "logging", "operator", "os", "pickle", "plistlib", "posixpath", "random",
           "shutil", "smtplib", "stat", "statistics", "string", "tarfile", "tempfile", "textwrap", "threading",
           "tokenize", "traceback", "typing", "unittest", "urllib", "uuid", "warnings", "xml", "zipfile")  # fmt: skip
"""Modules that can be imported on every system without side effects."""


@pytest.fixture(scope="module", name="quiz_and_library")
def read_once() -> tuple[Questions, Library]:
    """All questions and the library they were generated from, which is read once for all tests."""
    library = quiz_module._read_library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quiz_module, "_read_library", lambda: library)
        return quiz(10_000, key=0), library


@pytest.fixture(name="cached_library")
def _use_cached_library(quiz_and_library: tuple[Questions, Library], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiz_module, "_read_library", lambda: quiz_and_library[1])


def select_subject(questions: list[Question], subject: str) -> list[Question]:
    return [question for question in questions if question.subject == subject]


def rate_of_right_picks(questions: list[Question], pick: Callable[[Question], int]) -> float:
    """Fraction of the questions whose right choice the rule `pick` picks."""
    return sum(pick(question) == question.answer for question in questions) / len(questions)


@pytest.mark.usefixtures("cached_library")
def test_the_quiz_has_the_form_of_mmlu() -> None:
    found = quiz(key=0)
    assert Counter(question.subject for question in found.test) == dict.fromkeys(SUBJECTS, TEST_COUNT)
    assert {subject: len(questions) for subject, questions in found.dev.items()} == dict.fromkeys(
        SUBJECTS, DEV_COUNT
    )
    for question in [*found.test, *(q for questions in found.dev.values() for q in questions)]:
        assert len(set(question.choices)) == 4
        assert question.question.endswith(("?", "."))
    assert found.test[0].name == "quiz/test/function_summaries:1"
    assert found.dev["base_classes"][4].name == "quiz/dev/base_classes:5"
    names = [question.name for question in found.test]
    assert len(set(names)) == len(names)


@pytest.mark.usefixtures("cached_library")
def test_the_key_decides_the_questions() -> None:
    assert quiz(8, key=0) == quiz(8, key=0)
    assert quiz(8, key=0) != quiz(8, key=1)
    assert quiz(0, key=0).test == []
    assert len(quiz(6, key=0).test) == 6 * len(SUBJECTS)
    with pytest.raises(ValueError, match="count must be 0 or more, got -1"):
        quiz(-1, key=0)


def test_test_questions_and_examples_are_disjoint(quiz_and_library: tuple[Questions, Library]) -> None:
    for subject, examples in quiz_and_library[0].dev.items():
        test = select_subject(quiz_and_library[0].test, subject)
        questions = [question.question for question in [*test, *examples]]
        assert len(set(questions)) == len(questions)
        if subject in ("function_summaries", "function_names"):  # the answers of these two are all different
            assert not {c for question in test for c in question.choices} & {
                c for q in examples for c in q.choices
            }


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_choices_alone_do_not_tell_the_answer(
    quiz_and_library: tuple[Questions, Library], subject: str
) -> None:
    """Each set of choices appears in four questions; each choice, and each letter, is right in one of them.

    Picking the longest or the shortest choice is as good as chance.
    """
    questions = select_subject(quiz_and_library[0].test, subject)
    sets: dict[frozenset[str], list[Question]] = {}
    for question in questions:
        sets.setdefault(frozenset(question.choices), []).append(question)
    for choices, group in sets.items():
        assert {question.choices[question.answer] for question in group} == choices
        assert {question.answer for question in group} == {0, 1, 2, 3}
    error = (0.25 * 0.75 / len(questions)) ** 0.5
    for size in (max, min):
        picked = rate_of_right_picks(
            questions, lambda q, size=size: size(range(4), key=lambda i: len(q.choices[i]))
        )
        assert abs(picked - 0.25) < 3 * error


@pytest.mark.parametrize("subject", SUBJECTS)
def test_spelling_overlap_hardly_tells_the_answer(
    quiz_and_library: tuple[Questions, Library], subject: str
) -> None:
    """Pick the choice that shares the largest part of its trigrams with the question; chance is 0.25."""

    def trigrams(text: str) -> set[str]:
        return {text[i : i + 3].lower() for i in range(len(text) - 2)}

    def overlap(question: Question) -> int:
        return max(
            range(4),
            key=lambda i: (
                len(trigrams(question.choices[i]) & trigrams(question.question))
                / max(1, len(trigrams(question.choices[i])))
            ),
        )

    assert rate_of_right_picks(select_subject(quiz_and_library[0].test, subject), overlap) < 0.5
    assert rate_of_right_picks(quiz_and_library[0].test, overlap) < 0.35


def test_right_choices_are_right_and_wrong_ones_wrong_by_inspection(
    quiz_and_library: tuple[Questions, Library],
) -> None:
    """Check against the imported modules: attributes, signatures and base classes."""
    checked: Counter[str] = Counter()
    for question in quiz_and_library[0].test:
        words = question.question.rstrip("?").split()
        if question.subject == "function_modules":
            known = [c for c in question.choices if c.split(".")[0] in MODULES]
            right = [c for c in known if hasattr(importlib.import_module(c), words[-1])]
            if question.choices[question.answer] not in known:
                assert right == []
                continue
        elif question.subject == "function_parameters" and words[-1].split(".")[0] in MODULES:
            module_name, _, name = words[-1].rpartition(".")
            function = getattr(importlib.import_module(module_name), name)
            if inspect.isbuiltin(function):
                continue
            right = [c for c in question.choices if c in inspect.signature(function).parameters]
        elif question.subject == "base_classes" and words[3].split(".")[0] in MODULES:
            module_name, _, name = words[3].rpartition(".")
            bases = {base.__name__ for base in getattr(importlib.import_module(module_name), name).__bases__}
            right = [c for c in question.choices if c in bases]
        else:
            continue
        checked[question.subject] += 1
        assert right == [question.choices[question.answer]], question
    assert min(checked.values()) > 25
    assert len(checked) == 3


def test_summaries_and_names_equal_the_librarys(quiz_and_library: tuple[Questions, Library]) -> None:
    texts = {summary.name: summary.text for summary in quiz_and_library[1].functions}
    for question in select_subject(quiz_and_library[0].test, "function_summaries"):
        name = question.question.removeprefix("What does the function ").removesuffix(" do?")
        assert question.choices[question.answer] == texts[name]
    for question in select_subject(quiz_and_library[0].test, "function_names"):
        text = question.question.removeprefix("Which function does this? ")
        assert [name for name in question.choices if texts[name] == text] == [
            question.choices[question.answer]
        ]


def test_answers_are_in_the_training_split(quiz_and_library: tuple[Questions, Library]) -> None:
    top = Path(sysconfig.get_path("stdlib"))
    modules = {summary.name.rpartition(".")[0] for summary in quiz_and_library[1].functions} | {
        name for name, *_ in quiz_and_library[1].classes
    }
    for name in modules:
        path = name.replace(".", "/")
        file = f"{path}.py" if (top / f"{path}.py").is_file() else f"{path}/__init__.py"
        assert not is_held_out(file)


SIMILAR_FUNCTIONS = Library(
    [Summary("m.aaaa", "Walk trees upwards."), Summary("m.bbbb", "Walk trees downwards and upwards."),
     Summary("m.cccc", "Same as p += q."), Summary("m.dddd", "Same as p -= q."), Summary("m.eeee", "Same as p *= q."),
     Summary("m.walks", "Walks slowly.")],
    {}, {}, [],
)  # fmt: skip


def test_functions_with_similar_summaries_are_not_each_others_distractors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quiz_module, "MAX_WORD_SHARE", 0.4)  # "same" is in half of the summaries
    facts = {fact.answer: fact for fact in SUBJECTS["function_names"](SIMILAR_FUNCTIONS)}
    assert list(facts) == [
        "m.aaaa",
        "m.bbbb",
        "m.cccc",
        "m.dddd",
        "m.eeee",
    ]  # "m.walks" is left out: its name is in its summary
    assert facts["m.aaaa"].also == {"m.aaaa", "m.bbbb"}
    assert facts["m.cccc"].also == {"m.cccc"}


def test_facts_list_all_choices_that_would_also_be_right() -> None:
    """A second module with the same name, the other parameters, a class name that contains its base's."""
    library = Library(
        [
            Summary("one.walk", "x"),
            Summary("two.find", "x"),
            Summary("walker.walked", "x"),
            Summary("star.other", "x"),
        ],
        {"one.walk": ["top", "of", "down"], "two.find": ["find_all"]},
        {"one": frozenset(["walk", "find"]), "two": frozenset(["find"]), "walker": frozenset(["walked"])},
        [
            ("m", "Leaf", "Node"),
            ("m", "NodeList", "Node"),
            ("m", "BadLeafError", "LeafError"),
            ("m", "Bad", "OSError"),
        ],
    )
    modules = list(SUBJECTS["function_modules"](library))
    assert [(fact.answer, set(fact.also)) for fact in modules] == [("one", {"one"}), ("two", {"one", "two"})]
    (fact,) = SUBJECTS["function_parameters"](library)
    assert fact == Fact(
        "Which of these is a parameter of the function one.walk?",
        "down",
        frozenset(["top", "of", "down"]),
        "one",
    )
    bases = [(fact.question.split()[3], fact.near) for fact in SUBJECTS["base_classes"](library)]
    assert bases == [("m.Leaf", "m"), ("m.Bad", "")]


def test_parameters_and_classes_are_parsed_from_source() -> None:
    body = quiz_module.ast.parse(
        "def f(a, /, b, *c, d=1): ...\ndef g(a, **b): ...\ndef h(self): ...\n"
        "class A(dict): ...\nclass B(x.Base): ...\nclass C(IOError): ...\nclass D(A, B): ...\nclass E(make()): ...\n"
        "class _F(Base): ...\nclass G(error): ...\nclass H(object): ...\nclass I(Base, metaclass=M): ...\n"
    ).body
    assert list(quiz_module._parameters("m", body)) == [("m.f", ["a", "b", "d"]), ("m.h", [])]
    assert list(quiz_module._classes("m", body)) == [
        ("m", "A", "dict"),
        ("m", "B", "Base"),
        ("m", "I", "Base"),
    ]


def test_a_fact_joins_the_oldest_set_that_it_fits() -> None:
    facts = [
        Fact(word, answer, frozenset(also), "")
        for word, answer, also in [
            ("1", "a", ""),
            ("2", "a", ""),
            ("3", "b", ""),
            ("4", "c", "d"),
            ("5", "d", ""),
            ("6", "e", ""),
            ("7", "b", ""),
        ]
    ]
    assert [[fact.question for fact in group] for group in quiz_module._group_in_sets(facts)] == [
        ["1", "3", "4", "6"]
    ]
    for first, second in product(facts, facts):
        assert quiz_module._are_distinct(first, second) == quiz_module._are_distinct(second, first)
