"""What flows through the pipes: documents and rows at one end, a sequence of batches at the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Protocol


class Document(NamedTuple):
    """One text, and where it came from ("corpus.jsonl:17", "asyncio/tasks.py"), so that every message can
    name it."""

    text: str
    name: str


class Row(NamedTuple):
    """One record of a data set before anyone decides which of its fields is text, and where it came from."""

    values: dict[str, Any]
    name: str


class BadRow(NamedTuple):
    """A record that could not be read: where it is, and what is wrong with it."""

    name: str
    reason: str


class Pipe(Protocol):
    """A sequence of batches that is a pure function of the index.

    `pipe[i]` is one whole batch, equal bit for bit whenever it is asked for; `pipe[a:]` is again a pipe, so
    that resuming is `pipe[int(state.step):]`; `len(pipe)` covers all epochs.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


OnBad = Callable[[BadRow], Any]
"""What to do with a bad record: `stop` raises, `bad.append` (bad = []) collects it and goes on."""


def stop(bad: BadRow) -> NoReturn:
    """Raises on the first bad record: what every source does unless told otherwise.

    Raises:
        ValueError: always, with the record's place and what is wrong with it.
    """
    raise ValueError(
        f"{bad.name}: {bad.reason}; or pass on_bad=bad.append (bad = []) to pass over such records"
    )
