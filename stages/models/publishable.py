"""Refuse files that must not be published: a card of other weights, paths of the home folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.models import checksums
from stages.models.hub import CARD

TEXTS = (".json", ".jinja", ".md")
NOT_SEARCHED = ("tokenizer.json",)
"""Files without paths: tokens of a vocabulary, such as "/root", are no folders."""

_DIGEST = re.compile(r"^\| sha256 of `+ ?([^`|]+?) ?`+ \| `([0-9a-f]{64})` \|\s*$", re.MULTILINE)


def refuse_outdated_card(folder: Path) -> None:
    """Refuse a card that `intro2llm card` wrote of other weights: a save over a folder keeps its card.

    Args:
        folder: of a model.

    Raises:
        ValueError: if a sha256 in the card's table differs from that in SHA256SUMS, or is of a file that
            is not listed there. Without SHA256SUMS, or without such rows, nothing is compared.
    """
    path, sums = folder / CARD, checksums.read(folder)
    if not sums or not path.is_file():
        return
    for name, digest in _DIGEST.findall(path.read_text("utf-8", "replace")):
        if sums.get(name) != digest:
            there = f"{sums[name][:16]}..." if name in sums else "no such file"
            raise ValueError(
                f"{path}: the card is of other weights: sha256 of {name} is {digest[:16]}... in it, "
                f"{checksums.NAME} has {there}; write it anew with intro2llm card RUN, or delete it"
            )


def refuse_home_paths(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    """Refuse files with the path of the user's home folder, which would tell the name of the account.

    Args:
        folder: of the model, for messages.
        files: name -> the file, or bytes that take its place; JSON, templates and the card are searched.

    Raises:
        ValueError: for such a path; it names the file, and the field or line.
    """
    home = str(Path.home()).rstrip("/")
    if not home:
        return
    pattern = re.compile(rf"(?<![\w.-]){re.escape(home)}(?![\w-])")
    for name, file in files.items():
        if not name.endswith(TEXTS) or name in NOT_SEARCHED:
            continue
        data = file if isinstance(file, bytes) else file.read_bytes()
        for place, text in _list_texts(name, data.decode("utf-8", "replace")):
            if pattern.search(text):
                raise ValueError(
                    f"{folder / name}: {place} has the path of your home folder, which would be published; "
                    f"take it out there{'' if name == CARD else f', and delete {checksums.NAME}'}"
                )


def _list_texts(name: str, text: str) -> Iterator[tuple[str, str]]:
    """(place, text) of each text of a file: fields of JSON, lines of others."""
    try:
        fields = json.loads(text) if name.endswith(".json") else None
    except (ValueError, RecursionError):
        fields = None
    if fields is None:
        yield from ((f"line {number}", line) for number, line in enumerate(text.splitlines(), 1))
    else:
        yield from _list_fields(fields, "")


def _list_fields(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(field, text) of each text in JSON, names of fields too."""
    if isinstance(value, str):
        yield place or "its text", value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            inner = f"{place}.{name}" if place else name
            yield inner, name
            yield from _list_fields(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _list_fields(item, place)
