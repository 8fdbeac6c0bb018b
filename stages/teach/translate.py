"""Languages of the student edition, and their catalogues `locale/LANG/NAME.po`.

A catalogue maps an English paragraph to its translation. What has no translation is shown in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from stages.teach.messages import Sentence

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


def say(text: str, lang: str, /, **fields: object) -> str:
    """Translates a sentence, and fills in its fields.

    Args:
        text: English, a sentence of the catalogue `messages`.
        lang: one of `LANGUAGES`.
        fields: what to fill in; a `Sentence` among them is translated too.

    Raises:
        ValueError: for a language without catalogues.
        ModuleNotFoundError: if polib is not installed.

    Example:
        >>> say("added {path}", "en", path="a.py")
        'added a.py'
    """
    words = {
        name: say(value.text, lang, **value.fields) if isinstance(value, Sentence) else value
        for name, value in fields.items()
    }
    return translate(text, lang).format(**words)


def say_error(error: BaseException, lang: str) -> str:
    """Returns the message of an error, translated if the argument of the error is a `Sentence`.

    Raises:
        ValueError: for a language without catalogues.
        ModuleNotFoundError: if polib is not installed.

    Example:
        >>> say_error(ValueError(Sentence("added {path}", {"path": "a.py"})), "en")
        'added a.py'
    """
    sentence = error.args[0] if error.args else None
    return say(sentence.text, lang, **sentence.fields) if isinstance(sentence, Sentence) else str(error)


def find_language(environment: Mapping[str, str]) -> str:
    """Finds the user's language in the environment's variables; English if there are no texts in it.

    The order of the variables is gettext's.

    It is for messages where no edition says the language.

    Example:
        >>> find_language({"LANG": "zh_CN.UTF-8"}), find_language({"LANG": "zh_CN", "LC_ALL": "C"})
        ('zh', 'en')
    """
    names = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    first = next((environment[name] for name in names if environment.get(name)), "")
    lang = first.partition(":")[0].partition(".")[0].partition("_")[0]
    return lang if lang in LANGUAGES else "en"


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
