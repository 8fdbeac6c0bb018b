"""Read conversations that are written as one text, with the speaker's name before each turn.

    \\n\\nHuman: Hi\\n\\nAssistant: Hello            Anthropic's hh-rlhf
    ### Human: Hi### Assistant: Hello           OpenAssistant's guanaco
    USER: Hi\\nASSISTANT: Hello                   and its like, a speaker at the beginning of a line

A text is one of these only if it begins with a speaker, so that no ordinary text is cut.
"""

from __future__ import annotations

import re

from data_pipes.chat.messages import Message, Messages

_NAMES = "Human|User|USER|Assistant|ASSISTANT|System|SYSTEM"
_SHARP = re.compile(rf"(?:\A\s*)?###\s*({_NAMES})\s*:")
_PARAGRAPH = re.compile(rf"(?<!\s)(?:\A|(?=[^\S\n]*\n[^\S\n]*\n))\s*({_NAMES}):")
_LINE = re.compile(rf"(?<!\s)(?:\A|(?=[^\S\n]*\n))\s*({_NAMES}):")
"""Speakers with the white space before them, of which each run is looked at once: many blank lines take
linear time."""


def read_dialogue(text: str) -> Messages:
    """Cuts a text at its speakers.

    Args:
        text: begins with a speaker; speakers follow blank lines where any does, else line ends.

    Returns:
        The turns, white space around each left off; () for a text of another form. A last turn of the
        assistant with no text, as in a prompt, is left off.

    Example:
        >>> [tuple(turn[:2]) for turn in read_dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello\\nHuman: no")]
        [('user', 'Hi'), ('assistant', 'Hello\\nHuman: no')]
    """
    pattern = next(
        (p for p in (_SHARP, _PARAGRAPH, _LINE) if p.match(text) and len(p.findall(text)) > 1), None
    )
    if pattern is None:
        return ()
    pieces = pattern.split(text)[1:]
    turns = tuple(
        Message({"human": "user"}.get(name.lower(), name.lower()), content.strip())
        for name, content in zip(pieces[::2], pieces[1::2], strict=True)
    )
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def read_dialogue_prompt(text: str) -> Messages:
    """Reads a prompt that ends where the assistant is to speak: "\\n\\nHuman: Hi\\n\\nAssistant:".

    Args:
        text: any.

    Returns:
        The turns before that; () for a text of another form.

    Example:
        >>> read_dialogue_prompt("Human: Hi\\n\\nAssistant:")[0].content, read_dialogue_prompt("Who said: Human: Hi?")
        ('Hi', ())
    """
    return read_dialogue(text) if re.search(r"(?:\n|###\s*)(?:Assistant|ASSISTANT):\s*\Z", text) else ()
