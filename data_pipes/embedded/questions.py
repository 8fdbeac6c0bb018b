"""An embedded quiz: multiple-choice questions about Python's own library, in MMLU's layout, with nothing
downloaded.

It asks for what stands in the training part of the embedded corpus, so it measures what a model remembers of
what it read. Every set of four choices is asked four times, each choice being right once: whoever looks only
at the choices (the longest, the one in another style) is right one time in four, by construction. And no
question has four letters in a row in common with its answer, so that comparing their letters helps little.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data_pipes.choices import Question, Questions
from data_pipes.embedded.corpus import embedded
from data_pipes.embedded.lessons import Summary, summaries
from data_pipes.shuffle import fold_in, key_words, named, shuffled

Item = TypeVar("Item")

CHOICES = 4
"""Choices of a question, and questions about a set of choices."""

DEV = 5
"""Examples of each subject, as in MMLU."""

TEST = 100
"""Questions of each subject, unless told otherwise."""

FREQUENT = 0.02
"""Share of the summaries from which on a word is in too many to tell them apart."""

TYPES = ("dict", "list", "set", "tuple", "str", "int")
"""Types that begin with a small letter and that classes derive from."""

ALIASES = ("IOError", "EnvironmentError", "WindowsError")
"""Other names of OSError."""

RUN = 4
"""Letters in a row by which an answer would be given away."""


class Fact(NamedTuple):
    """Something to be asked.

    Fields:
        question: what is asked.
        answer: the right choice.
        also: texts that would be right as well, or could be taken for it, so that they are no wrong choices.
        near: facts with the same word make each other's most plausible wrong choices.
    """

    question: str
    answer: str
    also: frozenset[str]
    near: str


class Library(NamedTuple):
    """What the questions are made of.

    Fields:
        functions: those of `data_pipes.embedded.lessons.summaries` whose summary and bare name are nobody
            else's.
        parameters: function -> names of its parameters; only of functions that take no others.
        words: module -> all words of its source; only of modules that import nothing by "*".
        classes: (module, class, its only base).
    """

    functions: list[Summary]
    parameters: dict[str, list[str]]
    words: dict[str, frozenset[str]]
    classes: list[tuple[str, str, str]]


def quiz(count: int = TEST, *, key: Any) -> Questions:
    """Makes a quiz.

    A benchmark is worth what its wrong choices are worth: they come from the same module or are of the same
    kind, and none of them is right as well.

    Args:
        count: test questions of each subject, >= 0; a subject that has fewer gives all that it has. Where it
            is no multiple of 4, the last set is cut short.
        key: a seed or a key [2] uint32; the same gives the same quiz, in the same version of Python.

    Returns:
        Questions: of each subject in SUBJECTS `count` to be asked, and 5 examples, whose sets are not asked.
            The right
        letters of the four questions of a set are A, B, C and D, in an order that the key decides.

    Steps:
        1. Read the library, once.
        2. Shuffle the facts of a subject, and order them so that those near each other stand together.
        3. Deal them out into sets of four: each fact goes to the oldest set that is not full, where its
           answer is wrong for all the others, and theirs for it. Sets that stay open are left out.
        4. Shuffle the sets. Of each of the first five one question is an example; the others are asked in
           full.

    Raises:
        ValueError: if count is negative.
    """
    if count < 0:
        raise ValueError(f"quiz: count must be 0 or more, got {count}")
    # 1. The library.
    library = _read()
    root = named(key_words(key), "quiz")
    test: list[Question] = []
    dev: dict[str, list[Question]] = {}
    for subject, facts in SUBJECTS.items():
        own = named(root, subject)
        # 2. and 3. Sets of four.
        sets = _deal(sorted(_in_order(list(facts(library)), named(own, "facts")), key=lambda fact: fact.near))
        # 4. Examples, and the rest.
        sets = _in_order(sets, named(own, "sets"))
        asked = [_asked(group, fold_in(own, number)) for number, group in enumerate(sets)]
        rest = [question for group in asked[DEV:] for question in group]
        dev[subject] = _named([group[0] for group in asked[:DEV]], f"quiz/dev/{subject}", subject)
        test += _named(_in_order(rest[:count], named(own, "test")), f"quiz/test/{subject}", subject)
    return Questions(test, dev, "the embedded quiz")


def _read() -> Library:
    """The library: its functions, and what the modules that they stand in have besides."""
    found = list(summaries("train"))
    texts, bare = Counter(f.text for f in found), Counter(_bare(f.name) for f in found)
    functions = [f for f in found if texts[f.text] == 1 and bare[_bare(f.name)] == 1]
    places = {_module(f.name) for f in found}
    library = Library(functions, {}, {}, [])
    for document in embedded("train"):
        module = document.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if document.name.endswith(".py") and module in places:
            body = ast.parse(document.text).body
            library.parameters.update(_parameters(module, body))
            library.classes.extend(_classes(module, body))
            if re.search(r"import\s*\(?\s*\*", document.text) is None:
                library.words[module] = frozenset(re.findall(r"\w+", document.text))
    return library


def _parameters(module: str, body: Sequence[ast.stmt]) -> Iterator[tuple[str, list[str]]]:
    """The parameters of the functions that take no other keywords."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is None:
            names = [p.arg for p in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            yield f"{module}.{node.name}", [] if "self" in names else names


def _classes(module: str, body: Sequence[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    """The public classes with one base, which their source names, and not by an alias of another."""
    for node in body:
        bases = node.bases if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
        if (
            isinstance(node, ast.ClassDef)
            and len(bases) == 1
            and isinstance(bases[0], ast.Name | ast.Attribute)
        ):
            base = _bare(ast.unparse(bases[0]))
            if (base[0].isupper() or base in TYPES) and base not in ALIASES:
                yield module, node.name, base


def _function_summaries(library: Library) -> Iterator[Fact]:
    """What a function does; not those that do nearly the same."""
    for one, alike in _alike(library.functions):
        also = frozenset(other.text for other in alike)
        yield Fact(f"What does the function {one.name} do?", one.text, also, _module(one.name))


def _function_names(library: Library) -> Iterator[Fact]:
    """Which function does something; not those that do nearly the same."""
    for one, alike in _alike(library.functions):
        also = frozenset(other.name for other in alike)
        yield Fact(f"Which function does this? {one.text}", one.name, also, _module(one.name))


def _function_modules(library: Library) -> Iterator[Fact]:
    """Which module defines a function; not those in whose source its name stands at all."""
    for one in library.functions:
        module, bare = _module(one.name), _bare(one.name)
        if module in library.words and not _runs(module) & _runs(bare):
            also = frozenset(other for other, words in library.words.items() if bare in words)
            yield Fact(f"Which module defines the function {bare}?", module, also, str(module.count(".")))


def _function_parameters(library: Library) -> Iterator[Fact]:
    """A parameter of a function: the last one whose name has three letters and is not given away."""
    for one in library.functions:
        listed = library.parameters.get(one.name, [])
        telling = [name for name in listed if len(name) > 2 and not _runs(name) & _runs(one.name)]
        if telling:
            question = f"Which of these is a parameter of the function {one.name}?"
            yield Fact(question, telling[-1], frozenset(listed), _module(one.name))


def _base_classes(library: Library) -> Iterator[Fact]:
    """What a class derives from directly; exceptions among exceptions."""
    for module, name, base in library.classes:
        stem, base_stem = (
            re.sub("(Error|Exception|Warning)$", "", text) for text in (f"{module}.{name}", base)
        )
        if not _runs(stem) & _runs(base_stem):
            question = f"Which class does {module}.{name} derive from directly?"
            yield Fact(question, base, frozenset([name]), module if base_stem == base else "")


def _runs(text: str) -> set[str]:
    """All runs of four letters and digits in a text."""
    words = re.findall("[a-z0-9]+", text.lower())
    return {word[i : i + RUN] for word in words for i in range(len(word) - RUN + 1)}


def _alike(functions: Sequence[Summary]) -> Iterator[tuple[Summary, list[Summary]]]:
    """Each function that its summary does not give away, with those that do nearly the same (itself among
    them).

    Their summaries share half the telling words of the shorter: words of four letters or more, or with other
    signs ("+="), that stand in few summaries.
    """
    words = [_words(one.text) for one in functions]
    common = Counter(word for found in words for word in found)
    telling = [{word for word in found if common[word] <= FREQUENT * len(functions)} for found in words]
    for one, mine in zip(functions, telling, strict=True):
        if not _runs(_bare(one.name)) & _runs(one.text):
            near = [2 * len(mine & its) >= min(len(mine), len(its)) for its in telling]
            yield one, [other for other, is_near in zip(functions, near, strict=True) if is_near]


def _words(text: str) -> set[str]:
    """The words of a summary that have four letters or other signs, without what stands around them."""
    words = (word.strip(".,;:()'\"`") for word in text.lower().split())
    return {word for word in words if len(word) > 3 or (word and not word.isalnum())}


def _deal(facts: Sequence[Fact]) -> list[tuple[Fact, ...]]:
    """Sets of four facts, each of whose answers is wrong for the others."""
    full: list[tuple[Fact, ...]] = []
    growing: list[list[Fact]] = []
    for fact in facts:
        home = next((group for group in growing if all(_apart(fact, other) for other in group)), None)
        if home is None:
            growing.append([fact])
        elif len(home) < CHOICES - 1:
            home.append(fact)
        else:
            growing.remove(home)
            full.append((*home, fact))
    return full


def _apart(one: Fact, other: Fact) -> bool:
    """True if neither answer fits the other's question."""
    return one.answer != other.answer and one.answer not in other.also and other.answer not in one.also


def _asked(group: Sequence[Fact], key: tuple[int, int]) -> list[Question]:
    """The four questions of a set; the right letter of each is another."""
    letters = _in_order(list(range(CHOICES)), key)
    found = []
    for number, (fact, letter) in enumerate(zip(group, letters, strict=True)):
        choices = _in_order([other.answer for other in group if other is not fact], fold_in(key, number))
        choices.insert(letter, fact.answer)
        found.append(Question(fact.question, tuple(choices), letter, "", ""))
    return found


def _in_order(items: Sequence[Item], key: tuple[int, int]) -> list[Item]:
    """The items in an order that the key decides."""
    return [items[int(i)] for i in shuffled(np.arange(len(items)), len(items), key)] if items else []


def _named(found: Sequence[Question], place: str, subject: str) -> list[Question]:
    """Questions with their subject, and their place counted from 1."""
    return [question._replace(subject=subject, name=f"{place}:{n}") for n, question in enumerate(found, 1)]


def _module(name: str) -> str:
    """The module of a function."""
    return name.rpartition(".")[0]


def _bare(name: str) -> str:
    """A name without what it stands in."""
    return name.rpartition(".")[2]


SUBJECTS: Mapping[str, Callable[[Library], Iterator[Fact]]] = {
    "function_summaries": _function_summaries,
    "function_names": _function_names,
    "function_modules": _function_modules,
    "function_parameters": _function_parameters,
    "base_classes": _base_classes,
}
"""Each subject: Library -> its facts."""
