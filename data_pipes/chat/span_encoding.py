"""Spans of rendered text to ids, as if each text were encoded at once, yet cut exactly where its spans are.

A tokenizer reads a text from control token to control token, so a text may be cut there without changing an
id. A span that begins between two of them (after "assistant" and a new line) is cut by encoding the stretch
twice, whole and up to the cut: if the second is a beginning of the first, the cut lies between two tokens.

Shape letters: n tokens of one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipes.chat.assistant_spans import Span
from data_pipes.chat.rendering import split_placeholders
from data_pipes.tokenizer.spec import Tokenizer


class _Part(NamedTuple):
    """A text to encode: as plain text whatever it spells or not, and whether another text stands before
    it."""

    plain: bool
    later: bool
    text: str


class _Stretch(NamedTuple):
    """From one control token up to the next that matters.

    Fields:
        text: with placeholders; it ends with the next control token.
        texts: what the placeholders stand for.
        cuts: (place in the text, whether what stands before it, from the cut before on, is learned).
        drop: ids of the next control token, at the end.
    """

    text: str
    texts: Sequence[str]
    cuts: list[tuple[int, bool]]
    drop: int


def encode_spans(
    tokenizer: Tokenizer, rows: Iterable[tuple[Sequence[Span], Sequence[str]]], controls: re.Pattern
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Encodes rendered texts.

    Args:
        tokenizer: of the control tokens.
        rows: (spans of one text, what its placeholders stand for) of each.
        controls: pattern of the control tokens.

    Returns:
        (ids [n] int64, [n] bool: learned) of each.

    Raises:
        ValueError: as the tokenizer's `encode`.
    """
    stretches = [_split_stretches(spans, texts, controls) for spans, texts in rows]
    wanted: dict[_Part, np.ndarray] = {}
    for row in stretches:
        for stretch in row:
            for place in (len(stretch.text), *(place for place, _ in stretch.cuts)):
                wanted.update(dict.fromkeys(_parts(stretch.text[:place], stretch.texts), _NONE))
    _encode_parts(tokenizer, wanted)
    return [_encode_row(tokenizer, wanted, row) for row in stretches]


_NONE = np.zeros(0, np.int64)


def _split_stretches(spans: Sequence[Span], texts: Sequence[str], controls: re.Pattern) -> list[_Stretch]:
    """Cuts a text at the last control token before each border of two spans."""
    text = "".join(span.text for span in spans)
    borders: list[tuple[int, bool]] = []
    place = 0
    for span in spans:
        place += len(span.text)
        if borders and borders[-1][1] == span.trained:
            borders[-1] = (place, span.trained)
        elif span.text:
            borders.append((place, span.trained))
    if len(borders) < 2:
        return [_Stretch(text, texts, borders, 0)] if text else []
    tokens = [(match.start(), match.end()) for match in controls.finditer(text)]
    inner = [border for border, _ in borders[:-1]]
    anchors = {max((token for token in tokens if token[0] < border), default=(0, 0)) for border in inner}
    begins = sorted({(0, 0), *anchors})
    if len(begins) > 1 and begins[1][0] == 0:
        begins = begins[1:]
    found = []
    for (begin, _), (end, after) in zip(begins, [*begins[1:], (len(text), len(text))], strict=True):
        marked = [(min(border, end) - begin, mark) for border, mark in borders]
        last = next(i for i, (cut, _) in enumerate(marked) if cut == end - begin)
        cuts = [cut for cut in marked[: last + 1] if cut[0] > 0]
        found.append(_Stretch(text[begin:after], texts, cuts, int(after > end)))
    return found


def _parts(text: str, texts: Sequence[str]) -> list[_Part]:
    """A text with placeholders as texts to encode."""
    return [_Part(plain, i > 0, part) for i, (plain, part) in enumerate(split_placeholders(text, texts))]


def _encode_parts(tokenizer: Tokenizer, wanted: dict[_Part, np.ndarray]) -> None:
    """Fills in the ids.

    A tokenizer whose first piece is special ("▁" in SentencePiece's manner) reads a later part after a new
    line, which is then taken off.
    """
    after = tokenizer.spec.kind == "character"
    line = tokenizer.encode("\n") if after else []
    for plain, special in ((False, "all"), (True, "none")):
        some = [part for part in wanted if part.plain == plain]
        for later in (False, True):
            chosen = [part for part in some if part.later == later]
            before = "\n" if after and later else ""
            for part, ids in zip(
                chosen,
                tokenizer.encode_batch([before + p.text for p in chosen], special=special),
                strict=True,
            ):
                taken = ids[len(line) :] if before and ids[: len(line)].tolist() == line else ids
                wanted[part] = taken.astype(np.int64)


def _encode_row(
    tokenizer: Tokenizer, known: dict[_Part, np.ndarray], row: Sequence[_Stretch]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and marks of one text."""
    ids, marks = [_NONE], [np.zeros(0, bool)]
    for stretch in row:
        done, place, found = _NONE, 0, _stretch_ids(tokenizer, known, stretch.text, stretch.texts)
        found = found[: len(found) - stretch.drop]
        taken = 0
        for i, (cut, mark) in enumerate(stretch.cuts):
            last = i == len(stretch.cuts) - 1
            if last:
                count = len(found)
            else:
                head = np.concatenate(
                    [done, _stretch_ids(tokenizer, known, stretch.text[place:cut], stretch.texts, place > 0)]
                )
                if found[: len(head)].tolist() != head.tolist():  # a token lies on both sides
                    tail = _stretch_ids(tokenizer, known, stretch.text[cut:], stretch.texts, True)
                    found = np.concatenate([head, tail[: len(tail) - stretch.drop]])
                    done, place = head, cut
                count = len(head)
            ids.append(found[taken:count])
            marks.append(np.full(count - taken, mark))
            taken = count
    return np.concatenate(ids), np.concatenate(marks)


def _stretch_ids(
    tokenizer: Tokenizer, known: dict[_Part, np.ndarray], text: str, texts: Sequence[str], later: bool = False
) -> np.ndarray:
    """Ids of a text with placeholders."""
    wanted = [part._replace(later=part.later or later) for part in _parts(text, texts)]
    missing = {part: _NONE for part in wanted if part not in known}
    if missing:
        _encode_parts(tokenizer, missing)
        known.update(missing)
    return np.concatenate([_NONE, *(known[part] for part in wanted)])
