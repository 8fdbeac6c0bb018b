"""Languages of the student edition, and their catalogues `locale/LANG/NAME.po`.

A catalogue maps an English paragraph to its translation. What has no translation is shown in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

LANGUAGES = ("en", "zh")
"""Languages that the edition is written in."""

LOCALE = Path(__file__).resolve().parent / "locale"
"""Folder of the catalogues, one folder for each language but English."""

MESSAGES = "messages"
"""Name of the catalogue of sentences that the commands print."""


def translate(text: str, lang: str) -> str:
    """Translates a constant English sentence, whose format fields are filled in afterwards, or any unit.

    Args:
        text: a sentence of the catalogue `messages`, or a unit of a docstring or page.
        lang: one of `LANGUAGES`.

    Returns:
        The translation, or `text` where there is none.

    Raises:
        ValueError: for a language without catalogues.
        ModuleNotFoundError: if polib is not installed, which reads the catalogues.

    Example:
        >>> translate("added {path}", "en")
        'added {path}'
    """
    return read_catalogue(lang, MESSAGES).get(text, "") or read_catalogues(lang).get(text, "") or text


@lru_cache
def read_catalogues(lang: str) -> Mapping[str, str]:
    """Reads all catalogues of a language, as one.

    Raises:
        ValueError: for a language without catalogues.
        ModuleNotFoundError: if polib is not installed.
    """
    _check_language(lang)
    names = sorted(path.stem for path in (LOCALE / lang).glob("*.po"))
    return MappingProxyType(
        {text: word for name in names for text, word in read_catalogue(lang, name).items()}
    )


@lru_cache
def read_catalogue(lang: str, name: str) -> Mapping[str, str]:
    """Reads one catalogue; English has none, and a file that is not there is an empty one.

    Args:
        lang: one of `LANGUAGES`.
        name: of the file, such as "messages".

    Returns:
        Paragraph -> translation, of those that are translated.

    Raises:
        ValueError: for a language without catalogues.
        ModuleNotFoundError: if polib is not installed.
    """
    _check_language(lang)
    path = LOCALE / lang / f"{name}.po"
    if lang == "en" or not path.exists():
        return MappingProxyType({})
    try:
        import polib
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"the texts in {lang!r} are read by polib, which is not installed; "
            'pip install "intro2llm[exercises]", or start with --lang en'
        ) from None
    entries = polib.pofile(str(path), encoding="utf-8")
    return MappingProxyType(
        {entry.msgid: entry.msgstr for entry in entries if entry.msgstr and not entry.obsolete}
    )


def _check_language(lang: str) -> None:
    """Refuses a language without catalogues."""
    if lang not in LANGUAGES:
        raise ValueError(f"the student edition is written in {', '.join(LANGUAGES)}, not in {lang!r}")
