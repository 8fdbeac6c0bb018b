"""Counts in messages: a number and its noun, "1 row" and "2 rows"."""

from __future__ import annotations


def count_noun(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the singular or the plural.

    Args:
        count: >= 0.
        noun: in the singular.
        plural: "" adds an s.

    Example:
        >>> count_noun(1, "row"), count_noun(2000, "row"), count_noun(0, "batch", "batches")
        ('1 row', '2,000 rows', '0 batches')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
