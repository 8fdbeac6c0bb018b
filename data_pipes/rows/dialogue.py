"""Read a conversation from one string, in which the speaker's name precedes each turn.

    \\n\\nHuman: Hi\\n\\nAssistant: Hello            Anthropic's hh-rlhf
    ### Human: Hi### Assistant: Hello           OpenAssistant's guanaco
    USER: Hi\\nASSISTANT: Hello                   a speaker at the beginning of a line

Only a string that begins with a speaker's name is split.
"""

from __future__ import annotations

import re

from data_pipes.chat.messages import Message, Messages

_NAMES = "Human|User|USER|Assistant|ASSISTANT|System|SYSTEM"
_HASHES = re.compile(rf"(?:\A\s*)?###\s*({_NAMES})\s*:")
_PARAGRAPH = re.compile(rf"(?<!\s)(?:\A|(?=[^\S\n]*\n[^\S\n]*\n))\s*({_NAMES}):")
_LINE = re.compile(rf"(?<!\s)(?:\A|(?=[^\S\n]*\n))\s*({_NAMES}):")
"""Speakers' names with the white space before them. The patterns take linear time."""


def read_dialogue(text: str) -> Messages:
    """Splits a string into turns at the speakers' names.

    Args:
        text: any string. A dialogue begins with a speaker's name and has at least two. If names follow blank
            lines, those at the beginning of other lines are text.

    Returns:
        The turns, stripped; () if the string is not a dialogue. An empty assistant turn at the end, as in a
        prompt, is dropped.

    Example:
        >>> [tuple(turn[:2]) for turn in read_dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello\\nHuman: no")]
        [('user', 'Hi'), ('assistant', 'Hello\\nHuman: no')]
    """
    for pattern in (_HASHES, _PARAGRAPH, _LINE):
        if pattern.match(text) and len(pattern.findall(text)) > 1:
            return _split_turns(pattern, text)
    return ()


def read_dialogue_prompt(text: str) -> Messages:
    """Reads a prompt that ends with the assistant's name: "\\n\\nHuman: Hi\\n\\nAssistant:".

    Args:
        text: any string.

    Returns:
        The turns before the assistant's name; () if the string is not such a prompt.

    Example:
        >>> read_dialogue_prompt("Human: Hi\\n\\nAssistant:")[0].content
        'Hi'
        >>> read_dialogue_prompt("Who said: Human: Hi?")
        ()
    """
    return read_dialogue(text) if re.search(r"(?:\n|###\s*)(?:Assistant|ASSISTANT):\s*\Z", text) else ()


def _split_turns(pattern: re.Pattern, text: str) -> Messages:
    """Turns of a dialogue whose speakers' names match the pattern."""
    pieces = pattern.split(text)[1:]
    turns = []
    for name, content in zip(pieces[::2], pieces[1::2], strict=True):
        role = "user" if name.lower() == "human" else name.lower()
        turns.append(Message(role, content.strip()))
    if turns[-1] == Message("assistant", ""):
        turns.pop()
    return tuple(turns)
