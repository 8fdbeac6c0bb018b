"""Encode rendered spans: the ids of the whole text, cut exactly at the borders of its spans.

A tokenizer encodes the text between two control tokens by itself, so the text may be cut at a control token
without a change of ids. A span that begins elsewhere (after "assistant" and a line end) is cut by encoding
the text around it (a stretch) twice, whole and up to the cut: if the ids of the second are a prefix of those
of the first, the cut lies between two tokens. If they are not, a token crosses the cut: the texts before and
after it are then encoded separately.

Shape letters: n tokens of one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, product
from typing import NamedTuple

import numpy as np

from data_pipes.chat.assistant_spans import Span
from data_pipes.chat.rendering import split_placeholders
from data_pipes.tokenizer.spec import Tokenizer


class _Part(NamedTuple):
    """A text to encode.

    Fields:
        plain: True if it is plain text even where it spells a control token.
        later: True if other text precedes it.
        text: the text, without placeholders.
    """

    plain: bool
    later: bool
    text: str


class _Stretch(NamedTuple):
    """The text from one anchor to the next; an anchor is the last control token before a border of spans.

    The beginning of the text counts as an anchor.

    Fields:
        text: the text, with placeholders; it ends with the next anchor, if there is one.
        texts: texts of the placeholders.
        cuts: (index in the text, True if the text between the previous cut and this one is trained) pairs.
        drop: number of ids at the end that belong to the next stretch (those of its anchor).
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
        tokenizer: a tokenizer that has the control tokens.
        rows: (spans, texts of the placeholders) of each text.
        controls: pattern of the control tokens.

    Returns:
        (ids [n] int64, trained [n] bool) of each.

    Raises:
        ValueError: as in the tokenizer's `encode`.
    """
    stretches = [_split_stretches(spans, texts, controls) for spans, texts in rows]
    ids: dict[_Part, np.ndarray] = {}
    for stretch in chain.from_iterable(stretches):
        for end in (len(stretch.text), *(cut for cut, _ in stretch.cuts)):
            ids.update(dict.fromkeys(_parts(stretch.text[:end], stretch.texts), _NONE))
    _encode_parts(tokenizer, ids)
    return [_encode_row(tokenizer, ids, row) for row in stretches]


_NONE = np.zeros(0, np.int64)


def _split_stretches(spans: Sequence[Span], texts: Sequence[str], controls: re.Pattern) -> list[_Stretch]:
    """Splits a text at the last control token before each border of two spans."""
    text = "".join(span.text for span in spans)
    borders: list[tuple[int, bool]] = []
    end = 0
    for span in spans:
        end += len(span.text)
        if borders and borders[-1][1] == span.trained:
            borders[-1] = (end, span.trained)
        elif span.text:
            borders.append((end, span.trained))
    if len(borders) < 2:
        return [_Stretch(text, texts, borders, 0)] if text else []
    # Anchors are (start, end) of control tokens; (0, 0) is the beginning of the text.
    tokens = [(match.start(), match.end()) for match in controls.finditer(text)]
    inner = [border for border, _ in borders[:-1]]
    before_borders = {
        max((token for token in tokens if token[0] < border), default=(0, 0)) for border in inner
    }
    anchors = sorted({(0, 0), *before_borders})
    if len(anchors) > 1 and anchors[1][0] == 0:  # a control token at the beginning
        anchors = anchors[1:]
    stretches = []
    next_anchors = [*anchors[1:], (len(text), len(text))]
    for (start, _), (end, anchor_end) in zip(anchors, next_anchors, strict=True):
        inside = [(border - start, trained) for border, trained in borders if start < border < end]
        # The text between the last border inside and the next anchor belongs to the border at or after `end`.
        last_trained = next(trained for border, trained in borders if border >= end)
        cuts = [*inside, (end - start, last_trained)]
        stretches.append(_Stretch(text[start:anchor_end], texts, cuts, int(anchor_end > end)))
    return stretches


def _parts(text: str, texts: Sequence[str]) -> list[_Part]:
    """Splits a text with placeholders into the texts to encode."""
    return [_Part(plain, i > 0, part) for i, (plain, part) in enumerate(split_placeholders(text, texts))]


def _encode_parts(tokenizer: Tokenizer, ids: dict[_Part, np.ndarray]) -> None:
    """Encodes the keys of `ids` and sets their values, in place.

    A tokenizer of characters may treat the beginning of a text differently (SentencePiece puts "▁" in front),
    so a later part is encoded with a line end before it, whose ids are then removed.
    """
    is_character = tokenizer.spec.kind == "character"
    newline_ids = tokenizer.encode("\n") if is_character else []
    for plain, later in product((False, True), repeat=2):
        parts = [part for part in ids if part.plain == plain and part.later == later]
        before = "\n" if is_character and later else ""
        texts = [before + part.text for part in parts]
        rows = tokenizer.encode_batch(texts, special="none" if plain else "all")
        for part, row in zip(parts, rows, strict=True):
            if before and row[: len(newline_ids)].tolist() == newline_ids:
                row = row[len(newline_ids) :]
            ids[part] = row.astype(np.int64)


def _encode_row(
    tokenizer: Tokenizer, part_ids: dict[_Part, np.ndarray], row: Sequence[_Stretch]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of one text, and True for each that is trained."""
    ids, trained = [_NONE], [np.zeros(0, bool)]
    for stretch in row:
        whole = _stretch_ids(tokenizer, part_ids, stretch.text, stretch.texts)
        whole = whole[: len(whole) - stretch.drop]
        settled = _NONE  # ids before the last cut that a token crossed
        start = 0  # index of that cut in the text
        count = 0  # number of ids already in `ids`
        for cut, is_trained in stretch.cuts[:-1]:
            rest = _stretch_ids(tokenizer, part_ids, stretch.text[start:cut], stretch.texts, start > 0)
            head = np.concatenate([settled, rest])
            if whole[: len(head)].tolist() != head.tolist():  # a token crosses the cut
                tail = _stretch_ids(tokenizer, part_ids, stretch.text[cut:], stretch.texts, True)
                whole = np.concatenate([head, tail[: len(tail) - stretch.drop]])
                settled, start = head, cut
            ids.append(whole[count : len(head)])
            trained.append(np.full(len(head) - count, is_trained))
            count = len(head)
        if stretch.cuts:
            ids.append(whole[count:])
            trained.append(np.full(len(whole) - count, stretch.cuts[-1][1]))
    return np.concatenate(ids), np.concatenate(trained)


def _stretch_ids(
    tokenizer: Tokenizer,
    part_ids: dict[_Part, np.ndarray],
    text: str,
    texts: Sequence[str],
    later: bool = False,
) -> np.ndarray:
    """Ids of a text with placeholders; parts that are not in `part_ids` are encoded and added to it."""
    parts = [part._replace(later=part.later or later) for part in _parts(text, texts)]
    missing = {part: _NONE for part in parts if part not in part_ids}
    if missing:
        _encode_parts(tokenizer, missing)
        part_ids.update(missing)
    return np.concatenate([_NONE, *(part_ids[part] for part in parts)])
