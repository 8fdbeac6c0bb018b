"""Separate two answers from their prompt, which stands in a column, at the beginning of both answers, or in
both.

A prompt that stood twice in a sequence would be learned as a part of the answer.
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
"""That both answers begin with a prompt of so many words is no coincidence."""


def separate_prompt(
    prompt: Messages | None, chosen: Any, rejected: Any
) -> tuple[Messages, Messages, Messages]:
    """Separates prompt and answers.

    Args:
        prompt: what a column says, or None.
        chosen, rejected: each a text, turns, or a text with speakers (`data_pipes.rows.dialogue`).

    Returns:
        The prompt's turns, and those of either answer. Without a prompt it is the turns with which both
        answers begin. The text of a prompt is taken off two answers that are texts if a line end follows it
        in both, or if it ends with a colon and has at least four words. What an answer says as a message is
        never cut.

    Raises:
        RowError: if the answers begin with another prompt than the given one; if both are texts that begin
            with a prompt of at least four words and go on in its line; or as `read_turns`.

    Example:
        >>> found = separate_prompt(None, "Human: Hi\\n\\nAssistant: Hello", "Human: Hi\\n\\nAssistant: No")
        >>> [side[0].content for side in found]
        ['Hi', 'Hello', 'No']
    """
    a, b = _read_side(chosen, prompt), _read_side(rejected, prompt)
    if prompt is None:
        prompt = a[: _count_shared(a, b)]
        return prompt, a[len(prompt) :], b[len(prompt) :]
    if _begins_with_prompt(a) and _begins_with_prompt(b):
        return _separate_sides(prompt, a, b)
    if (
        isinstance(chosen, str)
        and isinstance(rejected, str)
        and (a, b) == (drop_prompt(prompt, a), drop_prompt(prompt, b))
    ):
        first, second = _drop_prompt_text(prompt, chosen, rejected)
        return prompt, read_text_or_turns(first, "assistant"), read_text_or_turns(second, "assistant")
    return prompt, drop_prompt(prompt, a), drop_prompt(prompt, b)


def drop_prompt(prompt: Messages, answer: Messages) -> Messages:
    """Returns the answer without the prompt's turns, if it begins with all of them.

    Example:
        >>> from data_pipes.chat.messages import Message
        >>> asked, said = Message("user", "Hi"), Message("assistant", "Hello")
        >>> drop_prompt((asked,), (asked, said)) == drop_prompt((asked,), (said,)) == (said,)
        True
    """
    for start in (prompt, drop_system(prompt)):
        if start and turn_texts(answer[: len(start)]) == turn_texts(start):
            return answer[len(start) :]
    return answer


def _read_side(found: Any, prompt: Messages | None) -> Messages:
    """One answer; a text with speakers is a conversation if nothing else is the prompt, or if it begins with
    that."""
    spoken = read_dialogue(found) if isinstance(found, str) else ()
    if spoken and (prompt is None or drop_prompt(prompt, spoken) != spoken):
        return spoken
    return read_text_or_turns(found, "assistant")


def _separate_sides(prompt: Messages, a: Messages, b: Messages) -> tuple[Messages, Messages, Messages]:
    """Two answers that begin with a prompt of their own, which must be the given one, or more than it."""
    same = a[: _count_shared(a, b)]
    asked, inside = turn_texts(drop_system(prompt)), turn_texts(drop_system(same))
    if not asked or asked not in (inside[: len(asked)], inside[-len(asked) :]):
        raise RowError(
            "chosen and rejected begin with other turns than the prompt; leave the prompt out of them"
        )
    if same[0].role not in SYSTEM_ROLES:
        own = tuple(message for message in prompt[:1] if message.role in SYSTEM_ROLES) + same
    elif prompt[0].role in SYSTEM_ROLES:
        refuse_difference("the system prompt of both sides", same[:1], "that of the prompt", prompt[:1])
        own = same
    else:
        own = same
    return own, a[len(same) :], b[len(same) :]


def _drop_prompt_text(prompt: Messages, a: str, b: str) -> tuple[str, str]:
    """Two answers without the text of the prompt, where both begin with it."""
    text = (prompt[-1].content or "") if prompt else ""
    if not text.strip() or not (a.startswith(text) and b.startswith(text)):
        return a, b
    rests = [side[len(text) :] for side in (a, b)]
    if not all(rest.strip() and (rest[0].isspace() or text[-1].isspace()) for rest in rests):
        return a, b
    many = len(text.split()) >= MIN_WORDS
    if all(rest.startswith("\n") for rest in rests) or (many and text.rstrip().endswith(":")):
        return rests[0].lstrip(), rests[1].lstrip()
    if many:
        raise RowError(
            "chosen and rejected both begin with the text of the prompt, and may repeat it or take it up; leave it out "
            "of them, or, if they are to say it, give them as messages"
        )
    return a, b


def _begins_with_prompt(side: Messages) -> bool:
    """True if an answer begins with a prompt of its own."""
    return bool(side) and side[0].role not in ("assistant", "tool")


def _count_shared(a: Messages, b: Messages) -> int:
    """With how many turns both begin; a last turn of the assistant is no prompt."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while same and a[same - 1].role == "assistant":
        same -= 1
    return same
