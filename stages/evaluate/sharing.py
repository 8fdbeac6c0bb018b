"""Group contexts that begin with the same tokens, so that a shared beginning is read once.

Only sequences of ids are handled here; `stages.evaluate.likelihood` reads them with the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Ids = tuple[int, ...]

LEAST_SHARED = 16
"""Contexts that share fewer tokens are not grouped."""


class Group(NamedTuple):
    """Contexts with the same beginning.

    Fields:
        contexts: distinct, in lexicographic order.
        shared: P, length of the prefix that all share; shorter than the shortest context.
    """

    contexts: tuple[Ids, ...]
    shared: int


class Batch(NamedTuple):
    """Contexts that are read in one batch, with their continuations.

    Fields:
        contexts: B contexts of one group.
        shared: P of the group.
        length: number of positions in the cache, enough for the longest context and continuation.
        continuations: the continuations of all these contexts.
        row_of: for each continuation, the row of its context.
    """

    contexts: tuple[Ids, ...]
    shared: int
    length: int
    continuations: tuple[Ids, ...]
    row_of: tuple[int, ...]


def group_contexts(contexts: Sequence[Ids]) -> list[Group]:
    """Group contexts by their beginnings.

    In lexicographic order, contexts with a common beginning are neighbours. In one pass, a context joins the
    group before it if that saves at least as many tokens as it costs. It costs the tokens by which the
    group's shared part becomes shorter, read again for each member (a group of one shares nothing, so it
    costs nothing); it saves the tokens that the context shares with the group.

    Args:
        contexts: none empty; duplicates are merged.

    Returns:
        Groups, in lexicographic order.

    Example:
        >>> group_contexts([(1,) * 20 + (5,), (2, 3), (1,) * 20 + (6, 7)])[0].shared
        20

        Two that share 40 tokens would read 2 x 20 again for a third that shares only 20 with them:

        >>> contexts = [(1,) * 40 + (2,), (1,) * 40 + (3,), (1,) * 20 + (4,)]
        >>> [len(group.contexts) for group in group_contexts(contexts)]
        [2, 1]
    """
    groups: list[Group] = []
    members: list[Ids] = []
    shared = 0
    for context in sorted(set(contexts)):
        common = min(_common_length(members[-1], context), shared, len(context) - 1) if members else 0
        cost = (shared - common) * len(members) if len(members) > 1 else 0
        if members and common >= LEAST_SHARED and cost <= common:
            members.append(context)
            shared = common
            continue
        groups += _make_group(members, shared)
        members, shared = [context], len(context) - 1
    return groups + _make_group(members, shared)


def cut_batches(
    group: Group, continuations: Mapping[Ids, Sequence[Ids]], longest: int, tokens: int
) -> Iterator[Batch]:
    """Cut a group into batches of contexts of similar length.

    Args:
        group: from `group_contexts`.
        continuations: the continuations of each context.
        longest: maximum length of a row; each context fits together with each of its continuations.
        tokens: number of tokens per forward pass, approximately. A shared token, copied into the cache of
            every row, counts as an eighth of a token.

    Returns:
        An iterator over Batches; every context is in one of them.
    """
    remaining = sorted(group.contexts, key=lambda context: -len(context))
    while remaining:
        rows: list[Ids] = []
        length = tail = 0
        while remaining:
            context = remaining[0]
            new_length = max(length, len(context))
            new_tail = max([tail, *(len(continuation) - 1 for continuation in continuations[context])])
            cost = (len(rows) + 1) * (new_length - group.shared + group.shared // 8)
            if rows and (cost > tokens or new_length + new_tail > longest):
                break
            length, tail = new_length, new_tail
            rows.append(remaining.pop(0))
        pairs = [(row, text) for row, context in enumerate(rows) for text in continuations[context]]
        row_of, texts = zip(*pairs, strict=True)
        yield Batch(tuple(rows), group.shared, length + tail, texts, row_of)


def _make_group(members: Sequence[Ids], shared: int) -> list[Group]:
    """Return a list of one group, or of none without members; a group of one shares nothing."""
    if not members:
        return []
    return [Group(tuple(members), shared if len(members) > 1 else 0)]


def _common_length(one: Ids, other: Ids) -> int:
    """Count the tokens that both begin with."""
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))
