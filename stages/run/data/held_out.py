"""Hold out text for validation: whole documents chosen by name, or the ends of all if there are few.

The hash of a document's name decides, so the choice is the same on every machine, and does not change when
other documents are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from data_pipes.embedded.python_library import is_held_out
from data_pipes.types import Document
from pure.plural import count_noun

Rule = Literal["names", "ends"]
Part = Literal["train", "held_out"]

MOST_BYTES = 10_000_000
"""Limit on the held-out text: more makes every validation slow, and its result no more precise."""


def choose_rule(
    documents: Iterable[Document], share: float, root: str, report: Callable[[], str] = lambda: ""
) -> Rule:
    """Chooses the rule of the split from the first documents.

    A choice by name may hold out none of ten documents, or half of the text. So if there are fewer than
    2/share documents, or none with a chosen name, the end of each document is held out instead.

    Args:
        documents: read until the choice is clear; all of them only if they are few.
        share: share of the text to hold out, in (0, 0.5].
        root: see `split`.
        report: () -> summary of what was left out, for the message that there is no text.

    Returns:
        "names" or "ends".

    Raises:
        ValueError: if the share is out of range, or no document has text.
    """
    if not 0 < share <= 0.5:
        raise ValueError(
            f"--held_out: expected a share in (0, 0.5], got {share}; 0.05 holds out one in twenty"
        )
    if root == "embedded":
        return "names"
    needed, count, has_text, has_chosen = math.ceil(2 / share), 0, False, False
    for document in documents:
        count += 1
        has_text = has_text or bool(document.text.strip())
        has_chosen = has_chosen or _is_chosen(document, share, root)
        if count >= needed and has_text and has_chosen:
            return "names"
    if not has_text:
        raise ValueError(
            f"--data_path {root}: there is no text in it ({count_noun(count, 'document')}, none with "
            f"text){report()}; give files with text"
        )
    return "ends"


def split(
    documents: Iterable[Document], *, rule: Rule, share: float, root: str
) -> Iterator[tuple[Part, Document]]:
    """Splits documents into training and held-out text.

    Args:
        documents: read once, in order.
        rule: "names" holds out whole documents, "ends" the end of each.
        share: held-out share of the documents, or of each document's text.
        root: --data_path; it is removed from names, as the same folder may have several paths.

    Returns:
        An iterator over (part, document), in order, none of them empty. After 10 MB of held-out text the
        rest is for training.

    Example:
        >>> list(split([Document("ab\\ncd\\n", "a")], rule="ends", share=0.5, root="."))
        [('train', Document(text='ab\\n', name='a')), ('held_out', Document(text='cd\\n', name='a'))]
    """
    bytes_left = MOST_BYTES
    for document in documents:
        pieces: list[tuple[Part, Document]] = [("train", document)]
        if bytes_left > 0 and rule == "ends":
            pieces = _split_end(document, share)
        elif bytes_left > 0 and _is_chosen(document, share, root):
            pieces = [("held_out", document)]
        for part, piece in pieces:
            if piece.text:
                bytes_left -= len(piece.text.encode()) if part == "held_out" else 0
                yield part, piece


def _is_chosen(document: Document, share: float, root: str) -> bool:
    """Decides by the hash of a name; the topics of one embedded file stay together."""
    if root == "embedded":
        return is_held_out(document.name.split("#")[0], share)
    return is_held_out(document.name.removeprefix(str(Path(root))).lstrip("/"), share)


def _split_end(document: Document, share: float) -> list[tuple[Part, Document]]:
    """Splits off the end of a document, from the beginning of a line if there is one."""
    text = document.text
    earliest = max(1, math.floor(len(text) * (1 - share)))
    line_start = text.find("\n", earliest - 1) + 1
    cut = line_start if 0 < line_start < len(text) else earliest
    return [
        ("train", document._replace(text=text[:cut])),
        ("held_out", document._replace(text=text[cut:])),
    ]
