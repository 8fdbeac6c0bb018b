"""Which text is kept apart for validation: whole documents, chosen by their names; of a few documents, their
ends.

A name decides, so that the choice is the same on every machine, and stays as it was when other documents are
added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from data_pipes.embedded.python_library import is_held_out
from data_pipes.types import Document

Rule = Literal["names", "ends"]
Part = Literal["train", "held_out"]

MOST_BYTES = 10_000_000
"""Text kept apart at most: more makes every validation slow, and its figure no steadier."""


def rule(
    documents: Iterable[Document], share: float, root: str, left_out: Callable[[], str] = lambda: ""
) -> Rule:
    """Decides from the first documents how to split.

    Chance may keep none of ten documents apart, or half of the text. So where there are fewer than 2/share,
    or none of them has a name that is chosen, each gives its own end instead.

    Args:
        documents: read until it is clear; all of them only if they are few.
        share: kept apart, in (0, 0.5].
        root: see `parts`.
        left_out: () -> what else there was, and why it is not among the documents; asked if there is no text.

    Returns:
        "names" or "ends".

    Raises:
        ValueError: if the share is out of range, or no document has text.
    """
    if not 0 < share <= 0.5:
        raise ValueError(
            f"--held_out: expected a share in (0, 0.5], got {share}; 0.05 keeps a twentieth apart"
        )
    if root == "embedded":
        return "names"
    needed, count, written, chosen = math.ceil(2 / share), 0, False, False
    for document in documents:
        count += 1
        written = written or bool(document.text.strip())
        chosen = chosen or _is_chosen(document, share, root)
        if count >= needed and written and chosen:
            return "names"
    if not written:
        raise ValueError(
            f"--data_path {root}: there is no text in it ({count} documents, none with text){left_out()}; give "
            "files with text"
        )
    return "ends"


def parts(
    documents: Iterable[Document], *, rule: Rule, share: float, root: str
) -> Iterator[tuple[Part, Document]]:
    """Splits documents.

    Args:
        documents: read once, in order.
        rule: "names" keeps whole documents apart, "ends" the end of each.
        share: of the documents, or of each one's text.
        root: what stands before each name, and does not count: the same folder may be called in several ways.

    Returns:
        An iterator over (part, document), in order, none of them empty. Once 10 MB are kept apart, the rest
        is for training.

    Example:
        >>> list(parts([Document("ab\\ncd\\n", "a")], rule="ends", share=0.5, root="."))
        [('train', Document(text='ab\\n', name='a')), ('held_out', Document(text='cd\\n', name='a'))]
    """
    room = MOST_BYTES
    for document in documents:
        if room <= 0:
            pieces: list[tuple[Part, Document]] = [("train", document)]
        elif rule == "ends":
            pieces = _cut(document, share)
        else:
            pieces = [("held_out" if _is_chosen(document, share, root) else "train", document)]
        for part, piece in pieces:
            if piece.text:
                room -= len(piece.text.encode()) if part == "held_out" else 0
                yield part, piece


def _is_chosen(document: Document, share: float, root: str) -> bool:
    """By the hash of a name; the parts of one embedded file stay together."""
    name = (
        document.name.split("#")[0]
        if root == "embedded"
        else document.name.removeprefix(str(Path(root))).lstrip("/")
    )
    return is_held_out(name, share)


def _cut(document: Document, share: float) -> list[tuple[Part, Document]]:
    """The document, and its end from a line's beginning; from anywhere, if it is one line."""
    text = document.text
    middle = max(1, math.floor(len(text) * (1 - share)))
    line = text.find("\n", middle - 1) + 1
    place = line if 0 < line < len(text) else middle
    return [
        ("train", document._replace(text=text[:place])),
        ("held_out", document._replace(text=text[place:])),
    ]
