"""One schema for conversations, preferences, unpaired answers and prompts, and readers of the forms that they come in.

Every data set of fine-tuning says the same things under other names. Here each row becomes one of four records; what
cannot be read is named with its place, and never vanishes silently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from data_pipes.types import BadRow, OnBad, Row, stop

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT: Mapping[str, str] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
                               "chatgpt": "assistant", "bing": "assistant", "system": "system", "tool": "tool",
                               "observation": "tool"}  # fmt: skip
"""ShareGPT's names of the roles."""

Record = TypeVar("Record")


class Message(NamedTuple):
    """One turn.

    Fields:
        role: who speaks, a name of ROLES.
        content: the text; None where the row has none, as beside a tool call.
        fields: what else the turn holds (`tool_calls`, `reasoning_content`, `name`, ...), as (name, value) pairs in the
            row's order; the chat template sees each under its name.
        trained: False for an assistant's turn that is read and not learned.
    """

    role: str
    content: str | None
    fields: tuple[tuple[str, Any], ...] = ()
    trained: bool = True


Messages = tuple[Message, ...]


class Context(NamedTuple):
    """What a row says besides its turns.

    Fields:
        tools: JSON schemas of the functions that the assistant may call; the chat template sees them as `tools`.
        variables: further (name, value) pairs for the chat template, such as ("enable_thinking", False).
    """

    tools: tuple[Any, ...] = ()
    variables: tuple[tuple[str, Any], ...] = ()


PLAIN = Context()
"""That of a row with turns alone."""


class Conversation(NamedTuple):
    """Turns of which the assistant's are learned."""

    messages: Messages
    name: str
    context: Context = PLAIN


class Preference(NamedTuple):
    """Two answers to one prompt, the first of which somebody preferred."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    name: str
    context: Context = PLAIN


class Unpaired(NamedTuple):
    """One answer, and whether it is a good one."""

    prompt: Messages
    completion: Messages
    desirable: bool
    name: str
    context: Context = PLAIN


class Prompt(NamedTuple):
    """Something to answer, with the row that it came from, in which a reward finds what the answer should be."""

    messages: Messages
    row: Mapping[str, Any]
    name: str
    context: Context = PLAIN


class _BadError(ValueError):
    """A row that cannot be read, in words."""


def conversations(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Conversation]:
    """Reads rows to learn from.

    Args:
        rows: with the columns `messages`; `conversations` (ShareGPT); `instruction`, `input`, `output` (Alpaca);
            `prompt` and `completion`; or `question` and `answer`.
        on_bad: gets each row that has none of these, an unknown role, a content that is no text, or no assistant's
            turn.

    Returns:
        An iterator over Conversations.

    Example:
        >>> found = next(conversations([Row({"instruction": "Add.", "input": "1 1", "output": "2"}, "a:1")]))
        >>> [message[:2] for message in found.messages]
        [('user', 'Add.\\n\\n1 1'), ('assistant', '2')]
    """
    return _each(rows, _conversation, on_bad)


def preferences(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Preference]:
    """Reads pairs of answers.

    Args:
        rows: with the columns `chosen` and `rejected`, each a text or messages, and `prompt`; without `prompt` the
            turns with which both begin are the prompt.
        on_bad: gets each row that has not, whose answers are equal, or whose prompt is empty.

    Returns:
        An iterator over Preferences.

    Example:
        >>> next(preferences([Row({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}, "a:1")])).chosen[0].content
        '2'
    """
    return _each(rows, _preference, on_bad)


def unpaired(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Unpaired]:
    """Reads single answers with a label.

    Args:
        rows: with the columns `prompt`, `completion` and `label` (a truth value, or 0 and 1).
        on_bad: gets each row that has not, whose prompt is empty, or whose completion ends with somebody else's turn.

    Returns:
        An iterator over Unpaired.

    Example:
        >>> next(unpaired([Row({"prompt": "1 + 1?", "completion": "3", "label": 0}, "a:1")])).desirable
        False
    """
    return _each(rows, _unpaired, on_bad)


def prompts(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Prompt]:
    """Reads prompts to answer.

    Args:
        rows: with the column `prompt` (a text or messages), `messages` (an assistant's turn at the end is left off), or
            `question`.
        on_bad: gets each row that has not, or whose prompt is empty.

    Returns:
        An iterator over Prompts, each with all columns of its row.

    Example:
        >>> next(prompts([Row({"question": "1 + 1?", "answer": "2"}, "a:1")])).row["answer"]
        '2'
    """
    return _each(rows, _prompt, on_bad)


def _each(rows: Iterable[Row], read: Callable[[Mapping, str], Record], on_bad: OnBad) -> Iterator[Record]:
    """Reads row by row."""
    for row in rows:
        try:
            yield read(row.values, row.name)
        except _BadError as error:
            on_bad(BadRow(row.name, str(error)))


def _conversation(row: Mapping[str, Any], name: str) -> Conversation:
    """One row of any of the five forms."""
    if row.get("messages") is not None:
        found = _messages(row["messages"])
    elif row.get("conversations") is not None:
        found = _messages(row["conversations"])
    elif "instruction" in row and "output" in row:
        more = row.get("input") or ""
        found = _turn("user", row["instruction"], *([more] if more else [])) + _turn("assistant", row["output"])
    elif "prompt" in row and "completion" in row:
        found = _as(row["prompt"], "user") + _as(row["completion"], "assistant")
    elif "question" in row and "answer" in row:
        found = _turn("user", row["question"]) + _turn("assistant", row["answer"])
    else:
        raise _unknown(row, "messages; conversations; instruction, output; prompt, completion; or question, answer")
    if not any(message.role == "assistant" for message in found):
        raise _BadError("the conversation has no turn of the assistant, so there is nothing to learn from it")
    return Conversation(found, name)


def _preference(row: Mapping[str, Any], name: str) -> Preference:
    """One row with chosen and rejected."""
    if "chosen" not in row or "rejected" not in row:
        raise _unknown(row, "chosen and rejected, with prompt or with the prompt in both")
    chosen, rejected = _as(row["chosen"], "assistant"), _as(row["rejected"], "assistant")
    if row.get("prompt") is not None:
        prompt = _as(row["prompt"], "user")
        if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:  # given twice
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    else:
        same = _common(chosen, rejected)
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    if chosen == rejected:
        raise _BadError("chosen and rejected are equal, so there is nothing to prefer; drop the row")
    _need(prompt, "the prompt is empty; give it in `prompt`, or as the turns with which chosen and rejected begin")
    return Preference(prompt, _ended(chosen, "chosen"), _ended(rejected, "rejected"), name)


def _unpaired(row: Mapping[str, Any], name: str) -> Unpaired:
    """One row with prompt, completion and label."""
    if not {"prompt", "completion", "label"} <= row.keys():
        raise _unknown(row, "prompt, completion and label")
    if row["label"] not in (True, False, 0, 1):
        raise _BadError(f"label must be true or false (or 1 or 0), got {row['label']!r}")
    prompt, completion = _as(row["prompt"], "user"), _as(row["completion"], "assistant")
    _need(prompt, "the prompt is empty; give it in `prompt`")
    return Unpaired(prompt, _ended(completion, "completion"), bool(row["label"]), name)


def _prompt(row: Mapping[str, Any], name: str) -> Prompt:
    """One row with prompt, messages or question."""
    if row.get("prompt") is not None:
        found = _as(row["prompt"], "user")
    elif row.get("messages") is not None:
        found = _messages(row["messages"])
        found = found[:-1] if found and found[-1].role == "assistant" else found
    elif row.get("question") is not None:
        found = _turn("user", row["question"])
    else:
        raise _unknown(row, "prompt, messages or question")
    return Prompt(_need(found, "the prompt is empty; give it in `prompt`, `messages` or `question`"), row, name)


def _messages(found: Any) -> Messages:
    """A list of {"role", "content"} or {"from", "value"}."""
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise _BadError(f"expected a list of messages, got a {type(found).__name__}")
    return tuple(_message(turn) for turn in found)


def _message(turn: Any) -> Message:
    """One turn, in either of the two ways of writing it."""
    if not isinstance(turn, Mapping):
        raise _BadError(f"expected a message with role and content, got a {type(turn).__name__}")
    if "from" in turn and "value" in turn:
        role, content = SHAREGPT.get(str(turn["from"]), str(turn["from"])), turn["value"]
    elif "role" in turn and "content" in turn:
        role, content = str(turn["role"]), turn["content"]
    else:
        raise _BadError(
            f"expected a message with role and content (or from and value), got {', '.join(map(str, turn))}"
        )
    if role not in ROLES:
        raise _BadError(f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
    return _turn(role, content)[0]


def _as(found: Any, role: str) -> Messages:
    """A text as one turn of `role`, or messages."""
    return _turn(role, found) if isinstance(found, str) else _messages(found)


def _turn(role: str, *contents: Any) -> Messages:
    """One turn of texts, a blank line between them."""
    for content in contents:
        if not isinstance(content, str):
            raise _BadError(f"the content of the {role}'s turn must be a text, got a {type(content).__name__}")
        if re.search("[\ud800-\udfff]", content):
            raise _BadError(f"the {role}'s turn has half a surrogate pair, which is no text")
    return (Message(role, "\n\n".join(contents)),)


def _common(a: Messages, b: Messages) -> int:
    """With how many turns both begin; a last turn of the assistant is no prompt."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while same and a[same - 1].role == "assistant":
        same -= 1
    return same


def _need(found: Messages, words: str) -> Messages:
    """The prompt, if there is one."""
    if not any(message.content for message in found):
        raise _BadError(words)
    return found


def _ended(found: Messages, side: str) -> Messages:
    """An answer, if it ends as one."""
    if not found or found[-1].role != "assistant":
        raise _BadError(f"{side} must end with a turn of the assistant; leave off what follows it")
    return found


def _unknown(row: Mapping[str, Any], wanted: str) -> _BadError:
    """No form that is known."""
    return _BadError(f"expected the columns {wanted}; got {', '.join(map(str, row)) or '(none)'}")
