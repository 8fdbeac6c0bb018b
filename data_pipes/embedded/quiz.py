"""Generate a quiz: multiple-choice questions about Python's library, in MMLU's layout.

All answers are in the training split of the embedded corpus, so the quiz measures how much of it a model
remembers. Every set of four choices has four questions, and each choice is the answer to one of them: a model
that looks only at the choices (their length, their style) has an accuracy of 1/4, by construction. No
question shares an n-gram of four characters with its answer, so that comparing characters helps little.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data_pipes.choices import Question, Questions
from data_pipes.embedded import python_library
from data_pipes.embedded.tuning_rows import Summary, read_summaries
from data_pipes.shuffle import fold_in, fold_in_name, key_words, permute

Item = TypeVar("Item")

CHOICES = 4
"""Number of choices of a question, and of questions that share a set of choices."""

DEV_COUNT = 5
"""Number of few-shot examples of each subject, as in MMLU."""

TEST_COUNT = 100
"""Default number of questions of each subject."""

MAX_WORD_SHARE = 0.02
"""Words that occur in more than this share of the summaries are ignored when summaries are compared."""

TYPES = ("dict", "list", "set", "tuple", "str", "int")
"""Lower-case names of types that classes derive from."""

ALIASES = ("IOError", "EnvironmentError", "WindowsError")
"""Other names of OSError."""

NGRAM = 4
"""Length n of the character n-grams; a question and its answer must not share one."""


class Fact(NamedTuple):
    """A question and its answer, to which wrong choices are added later.

    Fields:
        question: the question's text.
        answer: the right choice.
        also: other texts that are right or nearly right, which cannot be wrong choices.
        near: sort key (a module name, ...); facts with the same key give each other plausible wrong choices.
    """

    question: str
    answer: str
    also: frozenset[str]
    near: str


class Library(NamedTuple):
    """The parts of Python's library from which questions are made.

    Fields:
        functions: functions of `data_pipes.embedded.tuning_rows.read_summaries` whose summary and bare name
            are unique.
        parameters: function -> names of its parameters; only for functions without **keywords.
        words: module -> all words of its source; only for modules without "import *".
        classes: (module, class, its only base).
    """

    functions: list[Summary]
    parameters: dict[str, list[str]]
    words: dict[str, frozenset[str]]
    classes: list[tuple[str, str, str]]


def quiz(count: int = TEST_COUNT, *, key: Any) -> Questions:
    """Generates the quiz: test questions and few-shot examples for each subject.

    A benchmark is only as good as its wrong choices: they come from the same module or are of the same kind,
    and none of them is right as well.

    Args:
        count: number of test questions of each subject, >= 0; a subject with fewer gives all of them. If it
            is not a multiple of 4, the last set is incomplete.
        key: a seed or a key [2] uint32; the same key gives the same quiz, in the same version of Python.

    Returns:
        Questions: for each subject in SUBJECTS `count` test questions, and 5 examples from other sets. The
        right letters of the four questions of a set are A, B, C and D, shuffled under the key.

    Steps:
        1. Read the library, once.
        2. Shuffle the facts of a subject, and sort them so that facts with the same `near` are neighbours.
        3. Group them into sets of four: each fact is added to the oldest incomplete set in which its answer
           is wrong for all other questions, and their answers for its question. Incomplete sets are dropped.
        4. Shuffle the sets. One question of each of the first five sets is an example; the other sets are the
           test questions.

    Raises:
        ValueError: if count is negative.
    """
    if count < 0:
        raise ValueError(f"quiz: count must be 0 or more, got {count}")
    # 1. The library.
    library = _read_library()
    root = fold_in_name(key_words(key), "quiz")
    test: list[Question] = []
    dev: dict[str, list[Question]] = {}
    for subject, find_facts in SUBJECTS.items():
        subject_key = fold_in_name(root, subject)
        # 2. Order.
        facts = _shuffle(list(find_facts(library)), fold_in_name(subject_key, "facts"))
        facts.sort(key=lambda fact: fact.near)
        # 3. Sets of four.
        sets = _shuffle(_group_in_sets(facts), fold_in_name(subject_key, "sets"))
        # 4. Examples, and the test.
        questions = [_make_questions(group, fold_in(subject_key, i)) for i, group in enumerate(sets)]
        examples = [group[0] for group in questions[:DEV_COUNT]]
        tested = [question for group in questions[DEV_COUNT:] for question in group][:count]
        dev[subject] = _number(examples, f"quiz/dev/{subject}", subject)
        test += _number(_shuffle(tested, fold_in_name(subject_key, "test")), f"quiz/test/{subject}", subject)
    return Questions(test, dev, "the embedded quiz")


def _read_library() -> Library:
    """Functions with unique summaries, and parameters, classes and words of the modules with summaries."""
    summaries = read_summaries("train")
    texts = Counter(summary.text for summary in summaries)
    bare_names = Counter(_bare(summary.name) for summary in summaries)
    functions = [f for f in summaries if texts[f.text] == 1 and bare_names[_bare(f.name)] == 1]
    modules = {_module(summary.name) for summary in summaries}
    library = Library(functions, {}, {}, [])
    for document in python_library.documents("train"):
        module = document.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if document.name.endswith(".py") and module in modules:
            body = ast.parse(document.text).body
            library.parameters.update(_parameters(module, body))
            library.classes.extend(_classes(module, body))
            if re.search(r"import\s*\(?\s*\*", document.text) is None:
                library.words[module] = frozenset(re.findall(r"\w+", document.text))
    return library


def _parameters(module: str, body: Sequence[ast.stmt]) -> Iterator[tuple[str, list[str]]]:
    """The parameters of functions without **keywords; none of those with a parameter `self`."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is None:
            names = [p.arg for p in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            yield f"{module}.{node.name}", [] if "self" in names else names


def _classes(module: str, body: Sequence[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    """The public classes with exactly one base, which is a name or an attribute, and no alias."""
    for node in body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_") or len(node.bases) != 1:
            continue
        if isinstance(node.bases[0], ast.Name | ast.Attribute):
            base = _bare(ast.unparse(node.bases[0]))
            if (base[0].isupper() or base in TYPES) and base not in ALIASES:
                yield module, node.name, base


def _function_summaries(library: Library) -> Iterator[Fact]:
    """Asks for the summary of a function; summaries of similar functions are excluded as wrong choices."""
    for function, similar in _similar_functions(library.functions):
        also = frozenset(other.text for other in similar)
        question = f"What does the function {function.name} do?"
        yield Fact(question, function.text, also, _module(function.name))


def _function_names(library: Library) -> Iterator[Fact]:
    """Asks for the function with a summary; similar functions are excluded as wrong choices."""
    for function, similar in _similar_functions(library.functions):
        also = frozenset(other.name for other in similar)
        question = f"Which function does this? {function.text}"
        yield Fact(question, function.name, also, _module(function.name))


def _function_modules(library: Library) -> Iterator[Fact]:
    """Asks for the module of a function; modules whose source has its name are excluded as wrong choices."""
    for function in library.functions:
        module, bare = _module(function.name), _bare(function.name)
        if module in library.words and not _ngrams(module) & _ngrams(bare):
            also = frozenset(other for other, words in library.words.items() if bare in words)
            yield Fact(f"Which module defines the function {bare}?", module, also, str(module.count(".")))


def _function_parameters(library: Library) -> Iterator[Fact]:
    """Asks for a parameter: the last one of three letters or more that shares no n-gram with the name."""
    for function in library.functions:
        parameters = library.parameters.get(function.name, [])
        usable = [name for name in parameters if len(name) > 2 and not _ngrams(name) & _ngrams(function.name)]
        if usable:
            question = f"Which of these is a parameter of the function {function.name}?"
            yield Fact(question, usable[-1], frozenset(parameters), _module(function.name))


def _base_classes(library: Library) -> Iterator[Fact]:
    """Asks for the base of a class; exceptions are grouped with exceptions."""
    for module, name, base in library.classes:
        stem, base_stem = _without_suffix(f"{module}.{name}"), _without_suffix(base)
        if not _ngrams(stem) & _ngrams(base_stem):
            question = f"Which class does {module}.{name} derive from directly?"
            yield Fact(question, base, frozenset([name]), module if base_stem == base else "")


def _without_suffix(name: str) -> str:
    """Name of an exception class without the suffix Error, Exception or Warning."""
    return re.sub("(Error|Exception|Warning)$", "", name)


def _ngrams(text: str) -> set[str]:
    """All n-grams of NGRAM letters and digits inside the words of a text."""
    words = re.findall("[a-z0-9]+", text.lower())
    return {word[i : i + NGRAM] for word in words for i in range(len(word) - NGRAM + 1)}


def _similar_functions(functions: Sequence[Summary]) -> Iterator[tuple[Summary, list[Summary]]]:
    """Each function whose summary shares no n-gram with its name, and its similar functions, itself included.

    Two functions are similar if their summaries share at least half the rare words of the one with fewer. A
    rare word has four letters or more, or other characters ("+="), and occurs in few summaries.
    """
    words = [_content_words(function.text) for function in functions]
    counts = Counter(word for summary_words in words for word in summary_words)
    max_count = MAX_WORD_SHARE * len(functions)
    rare = [{word for word in summary_words if counts[word] <= max_count} for summary_words in words]
    for function, own in zip(functions, rare, strict=True):
        if not _ngrams(_bare(function.name)) & _ngrams(function.text):
            overlaps = [2 * len(own & other) >= min(len(own), len(other)) for other in rare]
            yield function, list(compress(functions, overlaps))


def _content_words(text: str) -> set[str]:
    """The words of a summary with four letters or more or with other characters, without punctuation."""
    words = (word.strip(".,;:()'\"`") for word in text.lower().split())
    return {word for word in words if len(word) > 3 or (word and not word.isalnum())}


def _group_in_sets(facts: Sequence[Fact]) -> list[tuple[Fact, ...]]:
    """Sets of four facts, in which every answer is wrong for the other three questions."""
    full: list[tuple[Fact, ...]] = []
    open_sets: list[list[Fact]] = []
    for fact in facts:
        fits = (group for group in open_sets if all(_are_distinct(fact, other) for other in group))
        group = next(fits, None)
        if group is None:
            open_sets.append([fact])
        elif len(group) < CHOICES - 1:
            group.append(fact)
        else:
            open_sets.remove(group)
            full.append((*group, fact))
    return full


def _are_distinct(one: Fact, other: Fact) -> bool:
    """True if neither answer fits the other's question."""
    return one.answer != other.answer and one.answer not in other.also and other.answer not in one.also


def _make_questions(facts: Sequence[Fact], key: tuple[int, int]) -> list[Question]:
    """The four questions of a set, each with a different right letter."""
    letters = _shuffle(list(range(CHOICES)), key)
    questions = []
    for number, (fact, letter) in enumerate(zip(facts, letters, strict=True)):
        choices = _shuffle([other.answer for other in facts if other is not fact], fold_in(key, number))
        choices.insert(letter, fact.answer)
        questions.append(Question(fact.question, tuple(choices), letter, "", ""))
    return questions


def _shuffle(items: Sequence[Item], key: tuple[int, int]) -> list[Item]:
    """The items, shuffled under the key."""
    return [items[int(i)] for i in permute(np.arange(len(items)), len(items), key)] if items else []


def _number(questions: Sequence[Question], prefix: str, subject: str) -> list[Question]:
    """Sets the subject and the name of each question; the name ends with its number, from 1."""
    return [q._replace(subject=subject, name=f"{prefix}:{number}") for number, q in enumerate(questions, 1)]


def _module(name: str) -> str:
    """Module part of a function's dotted name."""
    return name.rpartition(".")[0]


def _bare(name: str) -> str:
    """Last part of a dotted name."""
    return name.rpartition(".")[2]


SUBJECTS: Mapping[str, Callable[[Library], Iterator[Fact]]] = {
    "function_summaries": _function_summaries,
    "function_names": _function_names,
    "function_modules": _function_modules,
    "function_parameters": _function_parameters,
    "base_classes": _base_classes,
}
"""Subject -> function from a Library to the facts of that subject."""
