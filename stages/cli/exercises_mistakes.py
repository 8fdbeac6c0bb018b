"""Mistakes in the flags of `intro2llm exercises` in the learner's language.

The command line's parser writes them in English, for all subcommands; here each form of them is a sentence
with a translation. Text of a form that is not here stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.teach.translate import LANGUAGES, say

REQUIRED = "{flag} is required"
SEVERAL_REQUIRED = "{flags} are required"
UNKNOWN_NEAR = "{flag}: unknown flag; did you mean {near}?"
UNKNOWN_OFF = "{flag}: unknown flag; write {other}"
UNKNOWN = "{flag}: unknown flag"
NO_CHOICE = "{flag}: expected one of {choices}, got {value}"
NO_NUMBER = "{flag}: expected a whole number, got {value}"
NO_VALUE = "{flag} needs a value"
NEEDLESS_VALUE = "{flag} takes no value, got {value}; {other} turns it off"
WORD_NEAR = "unexpected {word}; did you mean {near}?"
NO_HYPHENS = "unexpected {word}; a flag begins with --"
TOO_MANY = "unexpected {word} after {words}"
HELP = "{mistake}; {command} --help lists the flags"

MISTAKES = (
    REQUIRED,
    SEVERAL_REQUIRED,
    UNKNOWN_NEAR,
    UNKNOWN_OFF,
    UNKNOWN,
    NO_CHOICE,
    NO_NUMBER,
    NO_VALUE,
    NEEDLESS_VALUE,
    WORD_NEAR,
    NO_HYPHENS,
    TOO_MANY,
)
"""Forms of a mistake."""


def translate_mistake(text: str, lang: str) -> str:
    """Translates the message of a mistake in the flags.

    Args:
        text: as the parser of the command line wrote it.
        lang: one of `LANGUAGES`.

    Example:
        >>> translate_mistake("NAME is required; intro2llm exercises hint --help lists the flags", "en")
        'NAME is required; intro2llm exercises hint --help lists the flags'
    """
    if fields := _match(HELP, text):
        return say(HELP, lang, mistake=translate_mistake(fields["mistake"], lang), command=fields["command"])
    for form in MISTAKES:
        if fields := _match(form, text):
            return say(form, lang, **fields)
    return text


def find_asked_language(arguments: Sequence[str]) -> str:
    """Finds the language that `--lang` asks for; "" if there is none, or one without texts.

    Example:
        >>> find_asked_language(["my", "--lang=zh"]), find_asked_language(["my", "--lang", "fr"])
        ('zh', '')
    """
    words = [*arguments, ""]
    for index, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--lang":
            asked = value if equals else words[index + 1]
            return asked if asked in LANGUAGES else ""
    return ""


def _match(form: str, text: str) -> dict[str, str]:
    """The fields of a sentence of this form; none if the text has another."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(form))
    found = re.fullmatch(pattern, text, re.DOTALL)
    return found.groupdict() if found else {}
