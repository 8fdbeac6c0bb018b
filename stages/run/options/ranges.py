"""Ranges of numeric flags, markers beside their types, and the check of all values of flags."""

from __future__ import annotations

import math
from dataclasses import Field
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, get_type_hints

from stages.run.options.values import check_types

LARGEST = 2**31 - 1
"""Limit on integers: counts of steps are int32, as in optax."""


class Flags(Protocol):
    """A dataclass of flags."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class AtLeast(NamedTuple):
    """Finite numbers of at least `low`; integers are at most LARGEST.

    Fields:
        low: the smallest number.
        fix: advice that ends the message.
    """

    low: float
    fix: str = ""


class Above(NamedTuple):
    """Finite numbers above `low`.

    Fields:
        low: lower bound, excluded.
        fix: advice that ends the message.
    """

    low: float
    fix: str = ""


class Within(NamedTuple):
    """Numbers in an interval.

    Fields:
        interval: as in mathematics; "[0, 1)" holds 0 but not 1.
        noun: name of the number in the message.
        fix: advice that ends the message.
    """

    interval: str
    noun: str = "a number"
    fix: str = ""


class ShownAs(NamedTuple):
    """The name of an argument without a flag, in messages.

    Fields:
        name: as in the usage line.
    """

    name: str


class MayBeEmpty(NamedTuple):
    """Text that may be empty, such as a system message."""


Share = Annotated[float, Within("[0, 1)", "a share")]
Probability = Annotated[
    float | None, Within("(0, 1]", "a probability", "1, or leaving the flag out, samples from all tokens")
]
Decay = Annotated[float | None, Within("(0, 1)", "a decay", "0.999 is usual; leave it out for no average")]
Seed = Annotated[int, Within("[0, 4294967295]")]


def check_values(flags: Flags) -> None:
    """Checks the type of every flag, numbers against the range beside their type, and refuses empty text.

    An empty text is mostly a shell variable that is not set; as a path it would mean the current folder.

    Args:
        flags: a dataclass with fields such as `batch_size: Annotated[int, AtLeast(1)] = 16`. None is not
            checked; of a tuple each element is. Text with the marker MayBeEmpty may be empty.

    Raises:
        ValueError: for a value of another type, a number out of range, or an empty text; it names the flag,
            what was expected, the value and the fix.

    Example:
        >>> from stages.run.options.pretrain import PretrainOptions
        >>> check_values(PretrainOptions(batch_size=0))
        Traceback (most recent call last):
        ValueError: --batch_size: expected at least 1, got 0
    """
    check_types(flags)
    for name, hint in get_type_hints(type(flags), include_extras=True).items():
        value = getattr(flags, name)
        values = value if isinstance(value, tuple | list) else (value,)
        markers = getattr(hint, "__metadata__", ())
        shown = next((marker.name for marker in markers if isinstance(marker, ShownAs)), f"--{name}")
        if "" in values and MayBeEmpty() not in markers:
            raise ValueError(
                f"{shown}: expected text, got an empty one (a shell variable that is not set?); give a "
                "value, or leave the flag out"
            )
        for marker in markers:
            if isinstance(marker, AtLeast | Above | Within):
                for number in values:
                    _check_number(shown, number, marker)


def _check_number(name: str, value: float | None, marker: AtLeast | Above | Within) -> None:
    """Raises if a number is out of its range."""
    if value is None:
        return
    expected = _expectation(value, marker)
    if expected:
        fix = f"; {marker.fix}" if marker.fix else ""
        raise ValueError(f"{name}: expected {expected}, got {value}{fix}")


def _expectation(value: float, marker: AtLeast | Above | Within) -> str:
    """Describes the expected range if a number is outside it; else ""."""
    if isinstance(marker, Within):
        return "" if _contains(marker.interval, value) else f"{marker.noun} in {marker.interval}"
    if isinstance(marker, Above):
        return "" if marker.low < value < math.inf else f"a finite number above {marker.low}"
    if isinstance(value, int) and value > LARGEST:
        return f"at most {LARGEST}"
    if marker.low <= value < math.inf:
        return ""
    return f"at least {marker.low}" if isinstance(value, int) else f"a finite number, at least {marker.low}"


def _contains(interval: str, value: float) -> bool:
    """Tells whether an interval such as "(0, 1]" has a number."""
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below
