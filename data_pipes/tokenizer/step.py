"""One step of a tokenizer's normalizer, pre-tokenizer or decoder, as Hugging Face's tokenizer.json names it.

Each of the three parts is a tuple of steps that run in order. A step is data, so that a spec can be
compared, hashed and written; `normalizer`, `pre_tokenizer` and `decoder` turn steps into functions.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A step and its options.

    Fields:
        type: its name in tokenizer.json, such as "Metaspace".
        options: (name, value), in the order of the file; a pattern is ("String", text) or ("Regex",
            expression).
    """

    type: str
    options: tuple[tuple[str, Hashable], ...] = ()


def step(name: str, **options: Hashable) -> Step:
    """Makes a step.

    Example:
        >>> step("Strip", content=" ", start=1, stop=0).options[0]
        ('content', ' ')
    """
    return Step(name, tuple(options.items()))


def step_options(given: Step) -> dict[str, Any]:
    """Returns the options of a step by name."""
    return dict(given.options)


NFC = (Step("NFC"),)
"""The normalizer of Qwen 2: Unicode's normal form C, which writes "é" as one code point, not as two."""
