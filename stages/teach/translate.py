"""Languages of the student edition."""

from __future__ import annotations

LANGUAGES = ("en",)
"""Languages that the edition is written in."""


def translate(text: str, lang: str) -> str:
    """Translates a constant English text, whose format fields are filled in afterwards.

    Args:
        text: a sentence or a paragraph.
        lang: one of `LANGUAGES`.

    Raises:
        ValueError: for a language without a catalogue.
    """
    if lang not in LANGUAGES:
        raise ValueError(f"the student edition is written in {', '.join(LANGUAGES)}, not in {lang!r}")
    return text
