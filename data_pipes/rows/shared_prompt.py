"""Separate the prompt of a preference from its two completions.

The prompt is a column, or the beginning of both completions, or both. If it is both, it must be removed from
the completions: otherwise it would be in the sequence twice, and trained on as part of the completion.
"""

from __future__ import annotations

from typing import Any

from data_pipes.chat.messages import Messages
from data_pipes.rows.columns import (
    SYSTEM_ROLES,
    drop_system,
    read_text_or_turns,
    refuse_difference,
    turn_texts,
)
from data_pipes.rows.dialogue import read_dialogue
from data_pipes.rows.turns import RowError

MIN_WORDS = 4
"""Smallest number of words of a prompt that both completions begin with not by chance, but to repeat it."""


def separate_prompt(
    prompt: Messages | None, chosen: Any, rejected: Any
) -> tuple[Messages, Messages, Messages]:
    """Separates the prompt from the chosen and the rejected completion.

    Args:
        prompt: turns of the prompt column, or None if there is none.
        chosen, rejected: each a string, turns, or a dialogue (`data_pipes.rows.dialogue`).

    Returns:
        The turns of the prompt, of chosen and of rejected. If prompt is None, the turns that both completions
        begin with are the prompt. If both completions are strings that begin with the prompt's text, it is
        removed from them if a line end follows it in both, or if it ends with a colon and has at least four
        words. The content of a message is never changed.

    Raises:
        RowError: if the completions begin with another prompt than the column's; if both are strings that
            begin with a prompt of at least four words and continue on its last line; or as `read_turns`.

    Example:
        >>> sides = separate_prompt(None, "Human: Hi\\n\\nAssistant: Hello", "Human: Hi\\n\\nAssistant: No")
        >>> [side[0].content for side in sides]
        ['Hi', 'Hello', 'No']
    """
    a, b = _read_side(chosen, prompt), _read_side(rejected, prompt)
    if prompt is None:
        prompt = a[: _count_shared(a, b)]
        return prompt, a[len(prompt) :], b[len(prompt) :]
    if _begins_with_prompt(a) and _begins_with_prompt(b):
        return _separate_sides(prompt, a, b)
    rests = drop_prompt(prompt, a), drop_prompt(prompt, b)
    if rests == (a, b) and isinstance(chosen, str) and isinstance(rejected, str):
        first, second = _drop_prompt_text(prompt, chosen, rejected)
        return prompt, read_text_or_turns(first, "assistant"), read_text_or_turns(second, "assistant")
    return prompt, *rests


def drop_prompt(prompt: Messages, completion: Messages) -> Messages:
    """Returns the completion without the turns of the prompt, if it begins with all of them.

    Example:
        >>> from data_pipes.chat.messages import Message
        >>> question, answer = Message("user", "Hi"), Message("assistant", "Hello")
        >>> drop_prompt((question,), (question, answer)) == drop_prompt((question,), (answer,)) == (answer,)
        True
    """
    for start in (prompt, drop_system(prompt)):
        if start and turn_texts(completion[: len(start)]) == turn_texts(start):
            return completion[len(start) :]
    return completion


def _read_side(value: Any, prompt: Messages | None) -> Messages:
    """Reads a completion; a string is a dialogue if there is no prompt, or if it begins with the prompt."""
    dialogue = read_dialogue(value) if isinstance(value, str) else ()
    if dialogue and (prompt is None or drop_prompt(prompt, dialogue) != dialogue):
        return dialogue
    return read_text_or_turns(value, "assistant")


def _separate_sides(prompt: Messages, a: Messages, b: Messages) -> tuple[Messages, Messages, Messages]:
    """Separates completions whose own prompt begins or ends with the turns of `prompt`; refuses others."""
    shared = a[: _count_shared(a, b)]
    expected, actual = turn_texts(drop_system(prompt)), turn_texts(drop_system(shared))
    if not expected or expected not in (actual[: len(expected)], actual[-len(expected) :]):
        raise RowError(
            "chosen and rejected begin with other turns than the prompt; remove the prompt from them"
        )
    full = shared
    if shared[0].role not in SYSTEM_ROLES:
        full = tuple(message for message in prompt[:1] if message.role in SYSTEM_ROLES) + shared
    elif prompt[0].role in SYSTEM_ROLES:
        refuse_difference(
            "the system prompt of chosen and rejected", shared[:1], "that of the prompt", prompt[:1]
        )
    return full, a[len(shared) :], b[len(shared) :]


def _drop_prompt_text(prompt: Messages, a: str, b: str) -> tuple[str, str]:
    """Returns two completions without the text of the prompt, if both repeat it."""
    text = (prompt[-1].content or "") if prompt else ""
    if not text.strip() or not (a.startswith(text) and b.startswith(text)):
        return a, b
    rests = [side[len(text) :] for side in (a, b)]
    if not all(rest.strip() and (rest[0].isspace() or text[-1].isspace()) for rest in rests):
        return a, b
    is_long = len(text.split()) >= MIN_WORDS
    if all(rest.startswith("\n") for rest in rests) or (is_long and text.rstrip().endswith(":")):
        return rests[0].lstrip(), rests[1].lstrip()
    if is_long:
        raise RowError(
            "chosen and rejected both begin with the text of the prompt, and may repeat or continue it; "
            "remove it from them, or, if it is part of the completions, write these as messages"
        )
    return a, b


def _begins_with_prompt(side: Messages) -> bool:
    """True if a completion begins with a turn of the user or the system."""
    return bool(side) and side[0].role not in ("assistant", "tool")


def _count_shared(a: Messages, b: Messages) -> int:
    """Number of leading turns that are equal in both, without assistant turns at their end."""
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    while shared and a[shared - 1].role == "assistant":
        shared -= 1
    return shared
