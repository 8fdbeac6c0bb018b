"""A look at a batch before training on it: what is learned, what is only read, where one example ends.

Most faults of fine-tuning data are faults of the mask, and a mask can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from pure.loss.cross_entropy import IGNORE

KINDS = ("trained", "read", "padding")


class Piece(NamedTuple):
    """A stretch of text of one kind (a name of KINDS), in one example of a row."""

    text: str
    kind: str
    segment: int


def preview(batch: Mapping[str, Tensor], decode: Callable[[Sequence[int]], str]) -> list[list[Piece]]:
    """Cuts the rows of a batch into pieces.

    Args:
        batch: "tokens", "labels" [B, T], "segment_ids" [B, T] by choice; or "chosen_tokens", ... and
            "rejected_tokens", ..., of which each answer is a row; or "prompts" and "lengths".
        decode: ids -> text, control tokens shown.

    Returns:
        For each row its pieces. A token is "trained" if the one before it is to predict it, "padding" if
        nothing is there, else "read". (The last label of a row is shown too, as it is learned.)

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


def _rows(batch: Mapping[str, Tensor], name: str, decode: Callable) -> Iterator[list[Piece]]:
    """The rows of one pair of tokens and labels."""
    tokens, labels = batch[f"{name}tokens"].tolist(), batch[f"{name}labels"].tolist()
    segments = batch["segment_ids"].tolist() if "segment_ids" in batch else [[0] * len(row) for row in tokens]
    for row in zip(tokens, labels, segments, strict=True):
        yield _pieces([found for segment in sorted(set(row[2])) for found in _marked(*row, segment)], decode)


def _marked(
    tokens: list[int], labels: list[int], segments: list[int], segment: int
) -> list[tuple[int, str, int]]:
    """The tokens of one example with their kinds; what follows the last of it is padding, and left off."""
    here = [i for i, s in enumerate(segments) if s == segment]
    ids, wanted = [tokens[i] for i in here], [labels[i] for i in here]
    last = max((i for i, label in enumerate(wanted) if label != IGNORE), default=-1)
    count = max(last + 1, *(i + 1 for i, token in enumerate(ids) if token), 0)  # what follows is padding
    kinds = ["read", *("trained" if label != IGNORE else "read" for label in wanted)]
    found = [(token, kind, segment) for token, kind in zip(ids[:count], kinds, strict=False)]
    return [*found, (wanted[last], "trained", segment)] if 0 <= last == count - 1 else found


def _pieces(marked: list[tuple[int, str, int]], decode: Callable) -> list[Piece]:
    """Joins neighbours of one kind."""
    pieces: list[tuple[list[int], str, int]] = []
    for token, kind, segment in marked:
        if pieces and pieces[-1][1:] == (kind, segment):
            pieces[-1][0].append(token)
        else:
            pieces.append(([token], kind, segment))
    return [Piece(decode(ids), kind, segment) for ids, kind, segment in pieces]
