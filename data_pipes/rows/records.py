"""Read rows of fine-tuning data sets into the four records of `data_pipes.chat.messages`.

The known columns are those of `data_pipes.rows.columns` and `data_pipes.rows.context`, and those that the
functions below name; all others are metadata. No key of a turn is dropped (`data_pipes.rows.turns`).

Two columns for the same part of a row must be equal, or the row is refused, with two exceptions. `messages`
wins over columns of prompts and completions, which are then references (`problem` and `solution` of
OpenR1-Math). And `answer`, often only the short result, gives way to a written-out `output`, `completion`,
`response` or `solution`.

A row that cannot be read is reported with its place; nothing is dropped without a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from data_pipes.chat.messages import Conversation, Messages, Preference, Prompt, Unpaired
from data_pipes.rows.columns import (
    COMPLETION_COLUMNS,
    MESSAGE_COLUMNS,
    PROMPT_COLUMNS,
    SYSTEM_ROLES,
    drop_system,
    read_completion_columns,
    read_message_columns,
    read_prompt_columns,
    read_text_or_turns,
    refuse_difference,
)
from data_pipes.rows.context import drop_nulls, prepend_system, read_context
from data_pipes.rows.dialogue import read_dialogue
from data_pipes.rows.shared_prompt import drop_prompt, separate_prompt
from data_pipes.rows.turns import RowError
from data_pipes.types import BadRow, OnBad, Row, stop

Record = TypeVar("Record")

LABELS = MappingProxyType({"true": True, "false": False, "1": True, "0": False})
"""Labels as text, in small letters."""


def read_conversations(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Conversation]:
    """Reads rows of conversations, for supervised fine-tuning.

    Args:
        rows: with a column of MESSAGE_COLUMNS; one of PROMPT_COLUMNS and one of COMPLETION_COLUMNS, each a
            text or turns; or a `text` that is a dialogue (`data_pipes.rows.dialogue`). Further columns:
            `input` or `context` of an `instruction`, `history`, and those of `data_pipes.rows.context`.
        on_bad: gets each row without these columns, with an unknown role, non-text content,
            contradicting columns, or no turn of the assistant to train on.

    Returns:
        An iterator over Conversations.

    Example:
        >>> row = Row({"instruction": "Add.", "input": "1 1", "output": "2"}, "a:1")
        >>> [message[:2] for message in next(read_conversations([row])).messages]
        [('user', 'Add.\\n\\n1 1'), ('assistant', '2')]
    """
    return _read_rows(rows, _read_conversation, on_bad)


def read_preferences(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Preference]:
    """Reads rows of preferences: two completions of one prompt, chosen and rejected.

    Args:
        rows: with `chosen` and `rejected`, each a text, turns, or a dialogue. The prompt is a column of
            PROMPT_COLUMNS, or one of MESSAGE_COLUMNS whose last turn is not the assistant's, or else the
            turns that both completions have in common at the beginning. Or OpenAI's `input`,
            `preferred_output`, `non_preferred_output`. A prompt that both completions repeat is read once.
        on_bad: gets each row without these columns, with equal completions, with an empty prompt, or whose
            completions begin with a different prompt.

    Returns:
        An iterator over Preferences.

    Example:
        >>> row = Row({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}, "a:1")
        >>> next(read_preferences([row])).chosen[0].content
        '2'
    """
    return _read_rows(rows, _read_preference, on_bad)


def read_unpaired(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Unpaired]:
    """Reads rows of single completions with a label.

    Args:
        rows: with `prompt`, `completion` and `label` (true or false, or 1 or 0; or these as text, as in CSV).
        on_bad: gets each row without these columns, with an empty prompt, or with a completion that ends with
            a turn of another role.

    Returns:
        An iterator over Unpaired.

    Example:
        >>> row = Row({"prompt": "1 + 1?", "completion": "3", "label": 0}, "a:1")
        >>> next(read_unpaired([row])).desirable
        False
    """
    return _read_rows(rows, _read_unpaired, on_bad)


def read_prompts(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Prompt]:
    """Reads rows of prompts.

    Args:
        rows: with `prompt` (a text or turns), one of MESSAGE_COLUMNS (a last turn of the assistant is
            dropped), or another of PROMPT_COLUMNS.
        on_bad: gets each row without these columns, or with an empty prompt.

    Returns:
        An iterator over Prompts, each with all columns of its row.

    Example:
        >>> next(read_prompts([Row({"question": "1 + 1?", "answer": "2"}, "a:1")])).row["answer"]
        '2'
    """
    return _read_rows(rows, _read_prompt, on_bad)


def _read_rows(
    rows: Iterable[Row], read: Callable[[Mapping, str], Record], on_bad: OnBad
) -> Iterator[Record]:
    """Reads row by row; a row with a RowError goes to on_bad."""
    for row in rows:
        try:
            yield read(row.values, row.name)
        except RowError as error:
            on_bad(BadRow(row.name, str(error)))


def _read_conversation(row: Mapping[str, Any], name: str) -> Conversation:
    """One conversation: messages, a prompt with a completion, or a dialogue."""
    columns = drop_nulls(row)
    messages = read_message_columns(columns)
    completion: Messages = ()
    if messages is not None and "prompt" in columns and "completion" in columns:
        pair = drop_system(read_prompt_columns(columns) + read_completion_columns(columns))
        refuse_difference("prompt with completion", pair, "messages", drop_system(messages))
    elif (
        messages is None and _has_column(PROMPT_COLUMNS, columns) and _has_column(COMPLETION_COLUMNS, columns)
    ):
        prompt = read_prompt_columns(columns)
        completion = drop_prompt(prompt, read_completion_columns(columns))
        messages = prompt + completion
    elif messages is None and isinstance(columns.get("text"), str):
        messages = read_dialogue(columns["text"]) or None
    if messages is None:
        pair_columns = f"{_join_or(PROMPT_COLUMNS)} with {_join_or(COMPLETION_COLUMNS)}"
        raise _unknown_columns(row, f"{MESSAGE_COLUMNS[0]}; {pair_columns}; or text with speakers")
    messages = prepend_system(columns, messages)
    _check_trained(messages)
    prompt_turns = 0  # turns that are not trained although the assistant wrote some of them
    if completion and {"prompt", "completion"} <= columns.keys():
        length = len(messages) - len(completion)
        if any(message.role == "assistant" for message in messages[:length]):
            prompt_turns = length
    return Conversation(messages, name, read_context(columns), prompt_turns)


def _read_preference(row: Mapping[str, Any], name: str) -> Preference:
    """One row with chosen and rejected."""
    columns = _rename_openai(drop_nulls(row))
    if "chosen" not in columns or "rejected" not in columns:
        raise _unknown_columns(row, "chosen and rejected, with prompt or with the prompt in both")
    prompt, chosen, rejected = separate_prompt(
        _preference_prompt(columns), columns["chosen"], columns["rejected"]
    )
    if chosen == rejected:
        raise RowError("chosen and rejected are equal, so there is no preference; drop the row")
    prompt = prepend_system(columns, prompt)
    _check_prompt(prompt, "`prompt`, or as the turns with which chosen and rejected begin")
    context = read_context(columns)
    _check_completion(chosen, "chosen")
    _check_completion(rejected, "rejected")
    return Preference(prompt, chosen, rejected, name, context)


def _read_unpaired(row: Mapping[str, Any], name: str) -> Unpaired:
    """One row with prompt, completion and label."""
    columns = drop_nulls(row)
    if not {"prompt", "completion", "label"} <= columns.keys():
        raise _unknown_columns(row, "prompt, completion and label")
    desirable = _read_label(columns["label"])
    prompt = read_prompt_columns(columns)
    completion = drop_prompt(prompt, read_text_or_turns(columns["completion"], "assistant"))
    _check_completion(completion, "completion")
    prompt = prepend_system(columns, prompt)
    _check_prompt(prompt, "`prompt`")
    return Unpaired(prompt, completion, desirable, name, read_context(columns))


def _read_label(label: Any) -> bool:
    """True for a desirable completion; a label in CSV is a text."""
    value = LABELS.get(label.strip().lower()) if isinstance(label, str) else label
    if value not in (True, False):
        raise RowError(f"label must be true or false (or 1 or 0), got {label!r}")
    return bool(value)


def _read_prompt(row: Mapping[str, Any], name: str) -> Prompt:
    """One row with a prompt, turns or a question."""
    columns = drop_nulls(row)
    prompt = None if "prompt" in columns else read_message_columns(columns)
    if prompt is not None:
        if prompt and prompt[-1].role == "assistant":
            prompt = prompt[:-1]
    elif _has_column(PROMPT_COLUMNS, columns):
        prompt = read_prompt_columns(columns)
    else:
        raise _unknown_columns(row, f"messages or {_join_or(PROMPT_COLUMNS)}")
    prompt = prepend_system(columns, prompt)
    _check_prompt(prompt, "`prompt`, `messages` or `question`")
    return Prompt(prompt, row, name, read_context(columns))


def _preference_prompt(columns: Mapping[str, Any]) -> Messages | None:
    """Reads the prompt of a preference from its own column; None if it is part of the completions.

    The column is one of PROMPT_COLUMNS, or one of MESSAGE_COLUMNS if each completion is a single turn.
    """
    if _has_column(PROMPT_COLUMNS, columns):
        return read_prompt_columns(columns)
    for side in (columns["chosen"], columns["rejected"]):
        if isinstance(side, list | tuple) and len(side) > 1:
            return None
    turns = read_message_columns(columns)
    return turns if turns and turns[-1].role != "assistant" else None


def _rename_openai(columns: dict[str, Any]) -> dict[str, Any]:
    """Renames OpenAI's columns of a preference: `input`, `preferred_output`, `non_preferred_output`."""
    if "preferred_output" not in columns or "non_preferred_output" not in columns:
        return columns
    source = columns.get("input")
    if not isinstance(source, Mapping) or source.get("messages") is None:
        raise RowError("expected messages in input, with preferred_output and non_preferred_output")
    renamed = {name: x for name, x in columns.items() if name != "input"}
    renamed |= {name: x for name, x in drop_nulls(source).items() if name != "messages"}
    renamed["prompt"] = source["messages"]
    renamed["chosen"], renamed["rejected"] = columns["preferred_output"], columns["non_preferred_output"]
    return renamed


def _has_column(names: tuple[str, ...], columns: Mapping[str, Any]) -> bool:
    """True if the row has one of these columns."""
    return any(name in columns for name in names)


def _check_trained(messages: Messages) -> None:
    """Refuses a conversation without a trained turn."""
    turns = [message for message in messages if message.role == "assistant"]
    if not turns:
        raise RowError(
            "the conversation has no turn of the assistant, so there is nothing to train on; drop it"
        )
    if not any(turn.trained for turn in turns):
        raise RowError(
            "every turn of the assistant has weight 0, so there is nothing to train on; drop the row"
        )


def _check_prompt(prompt: Messages, where: str) -> None:
    """Refuses a prompt without content; `where` names the places for it."""
    if not any(message.content for message in prompt if message.role not in SYSTEM_ROLES):
        raise RowError(f"the prompt is empty; give it in {where}")


def _check_completion(completion: Messages, side: str) -> None:
    """Refuses a completion that does not end with a turn of the assistant, or has no trained turn."""
    if not completion or completion[-1].role != "assistant":
        raise RowError(f"{side} must end with a turn of the assistant; remove the turns after it")
    if not any(message.trained for message in completion if message.role == "assistant"):
        raise RowError(f"every turn of {side} has weight 0; drop the row")


def _unknown_columns(row: Mapping[str, Any], expected: str) -> RowError:
    """An error for a row without the expected columns."""
    present = drop_nulls(row)
    got = ", ".join(str(name) if name in present else f"{name} (null)" for name in row)
    return RowError(f"expected the columns {expected}; got {got or '(none)'}")


def _join_or(names: tuple[str, ...]) -> str:
    """Names as a choice: "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
