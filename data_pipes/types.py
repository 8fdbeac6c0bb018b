"""Types of the data: documents and rows that come in, and the pipe, a sequence of batches that comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Protocol


class Document(NamedTuple):
    """One text, and its location for messages ("corpus.jsonl:17", "asyncio/tasks.py")."""

    text: str
    name: str


def text_length(document: Document) -> int:
    """Returns the number of characters of a document."""
    return len(document.text)


class Row(NamedTuple):
    """One record of a data set: the values of its columns, and its location for messages."""

    values: dict[str, Any]
    name: str


class BadRow(NamedTuple):
    """A record that could not be read: its location, and the reason."""

    name: str
    reason: str


class Pipe(Protocol):
    """A sequence of batches that is a pure function of the index.

    `pipe[i]` is one batch, the same bit for bit in every call; `pipe[a:]` is again a pipe, so that resuming
    is `pipe[int(state.step):]`; `len(pipe)` covers all epochs.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


OnBad = Callable[[BadRow], Any]
"""Handler of a bad record: `stop` raises, `bad.append` (bad = []) collects it and continues."""


def stop(bad: BadRow) -> NoReturn:
    """Raises on the first bad record, the default of every source.

    Raises:
        ValueError: always, with the record's location and the reason.
    """
    raise ValueError(f"{bad.name}: {bad.reason}; or pass on_bad=bad.append (bad = []) to skip such records")
