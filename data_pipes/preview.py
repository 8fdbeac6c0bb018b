"""Render a batch before training on it: text in the loss, and context without loss.

Most errors in fine-tuning data are errors of the loss mask, which are easy to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from pure.loss.cross_entropy import IGNORE

KINDS = ("trained", "read")
"""Kinds of tokens: a label of the loss, or context without loss. Padding is left out."""


class Piece(NamedTuple):
    """A span of text of one kind (one of KINDS) in one segment (example) of a row."""

    text: str
    kind: str
    segment: int


def preview(batch: Mapping[str, Tensor], decode: Callable[[Sequence[int]], str]) -> list[list[Piece]]:
    """Cuts the rows of a batch into pieces.

    Args:
        batch: "tokens", "labels" [B, T], optional "segment_ids" [B, T]; or "chosen_tokens", ... and
            "rejected_tokens", ..., whose rows are chosen, then rejected; or "prompts" and "lengths".
        decode: ids -> text, with special tokens.

    Returns:
        The pieces of each row. A token is "trained" if it is a label of the loss, else "read"; tokens after
        the end of the example are left out. The last label of a row is included.

    Example:
        >>> import torch
        >>> batch = {"tokens": torch.tensor([[65, 66, 0]]), "labels": torch.tensor([[-100, 67, -100]])}
        >>> preview(batch, lambda ids: "".join(map(chr, ids)))
        [[Piece(text='AB', kind='read', segment=0), Piece(text='C', kind='trained', segment=0)]]
    """
    if "prompts" in batch:
        rows = zip(batch["prompts"].tolist(), batch["lengths"].tolist(), strict=True)
        return [[Piece(decode(ids[:length]), "read", 0)] for ids, length in rows]
    names = ("",) if "tokens" in batch else ("chosen_", "rejected_")
    return [row for name in names for row in _rows(batch, name, decode)]


def _rows(
    batch: Mapping[str, Tensor], name: str, decode: Callable[[Sequence[int]], str]
) -> Iterator[list[Piece]]:
    """Yields the pieces of each row of one pair of tensors, `{name}tokens` and `{name}labels`."""
    tokens, labels = batch[f"{name}tokens"].tolist(), batch[f"{name}labels"].tolist()
    segments = batch["segment_ids"].tolist() if "segment_ids" in batch else [[0] * len(row) for row in tokens]
    for row in zip(tokens, labels, segments, strict=True):
        marked = [token for segment in sorted(set(row[2])) for token in _mark_tokens(*row, segment)]
        yield _join_pieces(marked, decode)


def _mark_tokens(
    tokens: list[int], labels: list[int], segments: list[int], segment: int
) -> list[tuple[int, str, int]]:
    """The tokens of one example, each with its kind and segment, without the padding after it."""
    columns = [column for column, number in enumerate(segments) if number == segment]
    ids, targets = [tokens[column] for column in columns], [labels[column] for column in columns]
    last = max((i for i, label in enumerate(targets) if label != IGNORE), default=-1)
    count = max(last + 1, *(i + 1 for i, token in enumerate(ids) if token), 0)  # padding follows
    kinds = ["read", *("trained" if label != IGNORE else "read" for label in targets)]
    marked = [(token, kind, segment) for token, kind in zip(ids[:count], kinds, strict=False)]
    if 0 <= last == count - 1:
        marked.append((targets[last], "trained", segment))
    return marked


def _join_pieces(marked: list[tuple[int, str, int]], decode: Callable[[Sequence[int]], str]) -> list[Piece]:
    """Joins neighbouring tokens of one kind and segment."""
    pieces: list[tuple[list[int], str, int]] = []
    for token, kind, segment in marked:
        if pieces and pieces[-1][1:] == (kind, segment):
            pieces[-1][0].append(token)
        else:
            pieces.append(([token], kind, segment))
    return [Piece(decode(ids), kind, segment) for ids, kind, segment in pieces]
