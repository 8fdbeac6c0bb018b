"""The error of an exercise that is not solved yet."""

from __future__ import annotations


class Unsolved(NotImplementedError):
    """Raised by a function of the student edition whose body was left out.

    Example:
        >>> raise Unsolved("dpo_loss")
        Traceback (most recent call last):
        stages.teach.unsolved.Unsolved: dpo_loss
    """
