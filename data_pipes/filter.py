"""Filters for documents, and a report of the documents that they dropped and why.

A filter is a pure function of a document that returns None to keep it, else the reason, "filter: finding". A
filter that compares documents with each other is a fold instead: a pure function of each document, and a step
that compares its results in order; see `duplicates`. `apply_filters` runs both kinds, the pure functions in
several processes.

Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", 2021, appendix A.1
(rules on quality and repetition, and their limits).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from data_pipes.ngram import hash_ngrams, hash_words
from data_pipes.types import Document, text_length
from data_pipes.workers import group, map_in_order
from pure.plural import count_noun

_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x9f\ufffd]")
_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])

Filter = Callable[[Document], str | None]

BATCH_CHARACTERS = 1 << 20
"""Characters that a worker process filters at once."""


class Fold(NamedTuple):
    """A filter with a memory of earlier documents.

    Fields:
        init: () -> an empty memory.
        prepare: document -> all that is compared of it, such as a hash; a pure function, the costly part.
        step: (memory, name of the document, prepared) -> reason or None; updates the memory in place.
    """

    init: Callable[[], Any]
    prepare: Callable[[Document], Any]
    step: Callable[[Any, str, Any], str | None]


class Drop(NamedTuple):
    """A dropped document: its name, the reason ("filter: finding"), and its number of characters."""

    name: str
    reason: str
    characters: int


class Report(NamedTuple):
    """Counts of dropped documents.

    Fields:
        dropped: filter -> (documents, characters).
        examples: filter -> the first three, as "name (finding)".
    """

    dropped: dict[str, tuple[int, int]]
    examples: dict[str, list[str]]


def apply_filters(
    documents: Iterable[Document],
    filters: Sequence[Filter | Fold],
    *,
    on_drop: Callable[[Drop], Any],
    workers: int | None = 1,
) -> Iterator[Document]:
    """Yields the documents that every filter keeps, and reports each of the others to `on_drop`.

    Args:
        documents: the documents, read once, in order.
        filters: applied in order, until one returns a reason. Put the cheap ones first, and those that
            compare documents last, so that they store only kept documents. Picklable, unless workers is 1.
        on_drop: called with a Drop for each dropped document, in this process; `drops.append` of a list
            collects them for `report`.
        workers: processes that run the filters and the `prepare` of folds, see `map_in_order`; the result
            does not depend on it. None takes all cores, or 1 for at most 4 Mi characters.

    Returns:
        An iterator over the documents kept, unchanged.

    Raises:
        ValueError, TypeError, ChildProcessError: as `map_in_order`.

    Example:
        >>> drops = []
        >>> stream = [Document("short", "a"), Document("quite long enough", "b")]
        >>> [d.name for d in apply_filters(stream, [length(minimum=10)], on_drop=drops.append)], drops
        (['b'], [Drop(name='a', reason='length: 5 characters, fewer than 10', characters=5)])
    """
    steps = [partial(f.step, f.init()) if isinstance(f, Fold) else None for f in filters]
    for document, findings in _map_filters(documents, filters, workers):
        reason = _first_reason(document.name, findings, steps)
        if reason is None:
            yield document
        else:
            on_drop(Drop(document.name, reason, len(document.text)))


def report(drops: Iterable[Drop]) -> Report:
    """Counts dropped documents by filter.

    Example:
        >>> report([Drop("a", "length: 5 characters", 5), Drop("b", "length: 2 characters", 2)]).dropped
        {'length': (2, 7)}
    """
    dropped: dict[str, tuple[int, int]] = {}
    examples: dict[str, list[str]] = {}
    for drop in drops:
        name, _, finding = drop.reason.partition(": ")
        documents, characters = dropped.get(name, (0, 0))
        dropped[name] = (documents + 1, characters + drop.characters)
        if documents < 3:
            examples.setdefault(name, []).append(f"{drop.name} ({finding})")
    return Report(dropped, examples)


def render_report(counts: Report) -> str:
    """Renders a report, one line per filter, sorted by dropped characters, largest first.

    Example:
        >>> print(render_report(report([Drop("a", "length: 5 characters", 5)])))
        length: 1 document, 5 characters; a (5 characters)
    """
    by_characters = sorted(counts.dropped.items(), key=lambda item: -item[1][1])
    lines = []
    for name, (documents, characters) in by_characters:
        examples = ", ".join(counts.examples[name])
        size = f"{count_noun(documents, 'document')}, {count_noun(characters, 'character')}"
        lines.append(f"{name}: {size}; {examples}")
    return "\n".join(lines) or "no document was dropped"


def length(minimum: int = 1, maximum: int | None = None) -> Filter:
    """Drops documents with fewer than `minimum` or more than `maximum` characters.

    Raises:
        ValueError: if maximum is below minimum.
    """
    if maximum is not None and maximum < minimum:
        raise ValueError(f"length: maximum must be at least minimum, got {minimum} and {maximum}; swap them")
    return partial(_length, minimum=minimum, maximum=maximum)


def binary(maximum: float = 0.001) -> Filter:
    """Drops texts in which the share of control and replacement characters is above `maximum`.

    Such a text is a binary file, or was decoded with the wrong encoding. White space is not counted.

    Example:
        >>> binary()(Document("ab\\x01\\x02", "x"))
        'binary: 0.5 of the characters are control or replacement characters, more than 0.001'
    """
    return partial(_binary, maximum=maximum)


def alphanumeric(minimum: float = 0.25) -> Filter:
    """Drops texts (tables, ASCII art, dumps) with a share of letters and digits below `minimum`.

        share = number of letters and digits / number of characters

    The default is usual for code; for prose 0.6 is usual.

    Example:
        >>> alphanumeric()(Document("a-------------------", "x"))
        'alphanumeric: 0.05 of the characters are letters or digits, less than 0.25'

    Source: Kocetkov et al. 2022, "The Stack", section 3.
    """
    return partial(_alphanumeric, minimum=minimum)


def lines(mean: float = 100, longest: int = 1000) -> Filter:
    """Drops texts (generated code, data) with long lines: on average over `mean`, or one over `longest`.

    Both limits are in characters. Prose with one paragraph per line needs larger ones.

    Example:
        >>> lines()(Document("x" * 1200 + 30 * "\\n", "x"))
        'lines: the longest line has 1,200 characters, more than 1000'

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 3.1.
    """
    return partial(_lines, mean=mean, longest=longest)


def prose(minimum_words: int = 50, maximum_words: int = 100_000) -> Filter:
    """Drops texts that are not English prose: Gopher's quality rules, with its limits.

    Args:
        minimum_words: smallest number of words; words are separated by white space.
        maximum_words: largest number of words.

    Returns:
        A filter. It requires, in this order: the number of words; a mean word length of 3 to 10; at most 0.1
        "#" or "..." per word; at most 0.9 of the lines beginning with a bullet, and 0.3 ending with an
        ellipsis; letters in at least 0.8 of the words; and at least two of the stop words "the", "be", "to",
        "of", "and", "that", "have", "with".

    Source: Rae et al. 2021, appendix A.1.1.
    """
    return partial(_prose, minimum_words=minimum_words, maximum_words=maximum_words)


def repetition(scale: float = 1.0) -> Filter:
    """Drops repetitive texts: Gopher's repetition rules.

    A model that is trained on boilerplate and lists learns to repeat itself.

    Args:
        scale: multiplies all limits; 1 gives the paper's, larger is more lenient (source code repeats more
            than prose).

    Returns:
        A filter. Its limits, as shares of the lines or characters of the text: duplicate lines 0.30,
        duplicate paragraphs 0.30, characters in duplicate lines 0.20 and in duplicate paragraphs 0.20; in
        the most frequent word n-gram of n = 2, 3, 4: 0.20, 0.18, 0.16; in repeated word n-grams of n = 5,
        ..., 10: 0.15, 0.14, 0.13, 0.12, 0.11, 0.10 (second and later occurrences, each character counted
        once). White space is not counted in the shares of n-grams.

    Source: Rae et al. 2021, table A1.
    """
    return partial(_repetition, scale=scale)


def _map_filters(
    documents: Iterable[Document], filters: Sequence[Filter | Fold], workers: int | None
) -> Iterator[tuple[Document, Iterable[Any]]]:
    """Yields documents with their findings: computed on demand with workers=1, else in batches."""
    if workers == 1:
        yield from ((document, _find(document, filters)) for document in documents)
        return
    batches = group(documents, BATCH_CHARACTERS, text_length)
    for batch, findings in map_in_order(partial(_find_all, filters=filters), batches, workers):
        yield from zip(batch, findings, strict=True)


def _find_all(documents: list[Document], filters: Sequence[Filter | Fold]) -> list[list[Any]]:
    """The findings of each document of a batch."""
    return [list(_find(document, filters)) for document in documents]


def _find(document: Document, filters: Sequence[Filter | Fold]) -> Iterator[Any]:
    """Yields a filter's reason or None, and what a fold prepares; ends after the first reason."""
    for rule in filters:
        finding = rule.prepare(document) if isinstance(rule, Fold) else rule(document)
        yield finding
        if finding is not None and not isinstance(rule, Fold):
            return


def _first_reason(
    name: str, findings: Iterable[Any], steps: Sequence[Callable[[str, Any], str | None] | None]
) -> str | None:
    """Returns the first reason to drop a document: a filter's own, or that of a fold's step."""
    for finding, step in zip(findings, steps, strict=False):
        reason = finding if step is None else step(name, finding)
        if reason is not None:
            return reason
    return None


def _length(document: Document, *, minimum: int, maximum: int | None) -> str | None:
    size = len(document.text)
    if size < minimum:
        return f"length: {count_noun(size, 'character')}, fewer than {minimum}"
    if maximum is not None and size > maximum:
        return f"length: {count_noun(size, 'character')}, more than {maximum}"
    return None


def _binary(document: Document, *, maximum: float) -> str | None:
    share = len(_CONTROL.findall(document.text)) / max(len(document.text), 1)
    return _above("binary", share, "of the characters are control or replacement characters", maximum)


def _alphanumeric(document: Document, *, minimum: float) -> str | None:
    share = sum(map(str.isalnum, document.text)) / max(len(document.text), 1)
    return _below("alphanumeric", share, "of the characters are letters or digits", minimum)


def _lines(document: Document, *, mean: float, longest: int) -> str | None:
    sizes = [len(line) for line in document.text.splitlines()] or [0]
    if max(sizes) > longest:
        return f"lines: the longest line has {count_noun(max(sizes), 'character')}, more than {longest}"
    average = sum(sizes) / len(sizes)
    return f"lines: {average:.0f} characters a line, more than {mean}" if average > mean else None


def _prose(document: Document, *, minimum_words: int, maximum_words: int) -> str | None:
    text, words = document.text, document.text.split()
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    if not minimum_words <= len(words) <= maximum_words:
        return f"prose: {count_noun(len(words), 'word')}, not between {minimum_words} and {maximum_words}"
    size = sum(map(len, words)) / max(len(words), 1)
    symbols = (text.count("#") + text.count("...") + text.count("…")) / max(len(words), 1)
    bullets = sum(row.startswith(("•", "-", "*")) for row in rows) / max(len(rows), 1)
    ellipses = sum(row.endswith(("...", "…")) for row in rows) / max(len(rows), 1)
    with_letter = sum(any(map(str.isalpha, word)) for word in words) / max(len(words), 1)
    stop_words = len(_STOP_WORDS & {word.lower() for word in words})
    return (
        _below("prose", size, "characters a word", 3)
        or _above("prose", size, "characters a word", 10)
        or _above("prose", symbols, "hashes or ellipses a word", 0.1)
        or _above("prose", bullets, "of the lines are bullets", 0.9)
        or _above("prose", ellipses, "of the lines end in an ellipsis", 0.3)
        or _below("prose", with_letter, "of the words have a letter", 0.8)
        or _below("prose", stop_words, "of 8 common English words occur", 2)
    )


def _repetition(document: Document, *, scale: float) -> str | None:
    for unit, separator in (("lines", "\n"), ("paragraphs", "\n\n")):
        parts = [part.strip() for part in document.text.split(separator) if part.strip()]
        repeated = list((Counter(parts) - Counter(set(parts))).elements())
        part_share = len(repeated) / max(len(parts), 1)
        character_share = sum(map(len, repeated)) / max(len(document.text), 1)
        reason = _above("repetition", part_share, f"of the {unit} are duplicates", 0.3 * scale)
        reason = reason or _above(
            "repetition", character_share, f"of the characters are in duplicate {unit}", 0.2 * scale
        )
        if reason:
            return reason
    words = document.text.split()
    sizes, hashes = np.array([len(word) for word in words], np.int64), hash_words(words)
    total = max(int(sizes.sum()), 1)
    for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16)):
        share = _most_frequent_ngram(sizes, hashes, n) / total
        finding = f"of the characters are in the most frequent {n}-gram of words"
        if reason := _above("repetition", share, finding, limit * scale):
            return reason
    for n in range(5, 11):
        share = _repeated_ngrams(sizes, hashes, n) / total
        finding = f"of the characters are in repeated {n}-grams of words"
        if reason := _above("repetition", share, finding, (0.2 - 0.01 * n) * scale):
            return reason
    return None


def _most_frequent_ngram(sizes: np.ndarray, hashes: np.ndarray, n: int) -> int:
    """Characters in all occurrences of the most frequent n-gram of words; 0 if none occurs twice."""
    ngrams = hash_ngrams(hashes, n)
    if not len(ngrams):
        return 0
    _, first, counts = np.unique(ngrams, return_index=True, return_counts=True)
    top = int(counts.argmax())
    return int(counts[top] * sizes[first[top] : first[top] + n].sum()) if counts[top] > 1 else 0


def _repeated_ngrams(sizes: np.ndarray, hashes: np.ndarray, n: int) -> int:
    """Characters in n-grams of words that occurred earlier in the text, each character counted once."""
    ngrams = hash_ngrams(hashes, n)
    is_repeat = np.ones(len(ngrams), bool)
    is_repeat[np.unique(ngrams, return_index=True)[1]] = False
    depth_changes = np.zeros(len(sizes) + 1, np.int64)
    np.add.at(depth_changes, np.flatnonzero(is_repeat), 1)
    np.add.at(depth_changes, np.flatnonzero(is_repeat) + n, -1)
    return int(sizes[np.cumsum(depth_changes)[:-1] > 0].sum())


def _above(name: str, value: float, finding: str, limit: float) -> str | None:
    return f"{name}: {value:.3g} {finding}, more than {limit:.3g}" if value > limit else None


def _below(name: str, value: float, finding: str, limit: float) -> str | None:
    return f"{name}: {value:.3g} {finding}, less than {limit:.3g}" if value < limit else None
