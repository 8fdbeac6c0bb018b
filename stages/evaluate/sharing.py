"""What contexts have in common: which of them are read together, so that a shared beginning is read once.

Only sequences of ids are looked at here; `stages.evaluate.likelihood` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Ids = tuple[int, ...]

LEAST = 16
"""Shared tokens below which contexts are not worth a reading of their own."""


class Group(NamedTuple):
    """Contexts with the same beginning.

    Fields:
        contexts: distinct, in lexical order.
        shared: P, tokens that all begin with; less than the shortest context has.
    """

    contexts: tuple[Ids, ...]
    shared: int


class Batch(NamedTuple):
    """Contexts that are read side by side, and what follows them.

    Fields:
        contexts: B of a group.
        shared: P of the group.
        places: of the cache: for the longest context and its longest ending.
        endings: all of them.
        row_of: the context's number of each ending.
    """

    contexts: tuple[Ids, ...]
    shared: int
    places: int
    endings: tuple[Ids, ...]
    row_of: tuple[int, ...]


def groups(contexts: Sequence[Ids]) -> list[Group]:
    """Groups contexts by their beginnings.

    In lexical order contexts with a common beginning stand together. Going through them once, a context joins
    the group before it if that costs no more than it saves. It costs the tokens by which the group's shared
    part becomes shorter, read again in each member (of a group of one nothing was shared, so nothing is
    lost); it saves what the context has in common with the group.

    Args:
        contexts: none empty; doubles are one.

    Returns:
        Groups, in lexical order.

    Example:
        >>> groups([(1,) * 20 + (5,), (2, 3), (1,) * 20 + (6, 7)])[0].shared
        20

        Two that share 40 tokens would read 2 x 20 again for a third that shares only 20 with them:

        >>> [len(group.contexts) for group in groups([(1,) * 40 + (i,) for i in (2, 3)] + [(1,) * 20 + (4,)])]
        [2, 1]
    """
    found: list[Group] = []
    members: list[Ids] = []
    shared = 0
    for context in sorted(set(contexts)):
        common = min(_common(members[-1], context), shared, len(context) - 1) if members else 0
        loss = (shared - common) * len(members) if len(members) > 1 else 0
        if members and common >= LEAST and loss <= common:
            members.append(context)
            shared = common
            continue
        found += [Group(tuple(members), shared)] if members else []
        members, shared = [context], len(context) - 1
    found += [Group(tuple(members), shared)] if members else []
    return [group._replace(shared=0) if len(group.contexts) == 1 else group for group in found]


def batches(group: Group, endings: Mapping[Ids, Sequence[Ids]], most: int, tokens: int) -> Iterator[Batch]:
    """Cuts a group into batches of like length.

    Args:
        group: from `groups`.
        endings: of each context.
        most: places that a row may have; each context fits with each of its endings.
        tokens: to read at a time, about. A shared token in the cache of a row counts as an eighth of one.

    Returns:
        An iterator over Batches; every context is in one of them.
    """
    order = sorted(group.contexts, key=lambda context: -len(context))
    while order:
        taken: list[Ids] = []
        longest = tail = 0
        while order:
            new = (max(longest, len(order[0])), max([tail, *(len(e) - 1 for e in endings[order[0]])]))
            cost = (len(taken) + 1) * (new[0] - group.shared + group.shared // 8)
            if taken and (cost > tokens or sum(new) > most):
                break
            longest, tail = new
            taken.append(order.pop(0))
        pairs = [(row, ending) for row, context in enumerate(taken) for ending in endings[context]]
        yield Batch(
            tuple(taken), group.shared, longest + tail, tuple(e for _, e in pairs), tuple(r for r, _ in pairs)
        )


def _common(one: Ids, other: Ids) -> int:
    """Tokens that both begin with."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
