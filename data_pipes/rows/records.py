"""Read the forms that rows of fine-tuning come in.

Each row becomes one of the four records of `data_pipes.chat.messages`. A column is read if its name is known
(`columns`, `row_context`, and below); every key of a turn is read or kept (`turns`); other columns are
metadata. Two columns that would be the same part of a row must say the same, or the row is refused; with two
exceptions. The turns of `messages` win over question and answer columns, which are then references (`problem`
and `solution` of OpenR1-Math). And `answer`, often the short result, gives way to a written-out `output`,
`completion`, `response` or `solution`.

What cannot be read is named with its place, and never vanishes silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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


def read_conversations(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Conversation]:
    """Reads rows to learn from.

    Args:
        rows: with a column of TURNS; one of QUESTIONS and one of ANSWERS (or `answer`), each a text or turns;
            or a `text` with speakers (`data_pipes.rows.dialogue`). Beside them: `input` or `context` with an
            `instruction`, `history`, and what `data_pipes.rows.context` reads.
        on_bad: gets each row that has none of these, an unknown role, a content that is no text, columns that
            contradict each other, or no assistant's turn to learn.

    Returns:
        An iterator over Conversations.

    Example:
        >>> found = next(read_conversations([Row({"instruction": "Add.", "input": "1 1", "output": "2"}, "a:1")]))
        >>> [message[:2] for message in found.messages]
        [('user', 'Add.\\n\\n1 1'), ('assistant', '2')]
    """
    return _read_rows(rows, _read_conversation, on_bad)


def read_preferences(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Preference]:
    """Reads pairs of answers.

    Args:
        rows: with the columns `chosen` and `rejected`, each a text, turns, or a text with speakers; and a
            column of QUESTIONS, or turns that end with a question, or else the turns with which both begin
            are the prompt. Or OpenAI's `input`, `preferred_output`, `non_preferred_output`. A prompt that
            stands again at the beginning of both sides is read once.
        on_bad: gets each row that has not, whose answers are equal, or whose prompt is empty or another one
            than both sides begin with.

    Returns:
        An iterator over Preferences.

    Example:
        >>> next(read_preferences([Row({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}, "a:1")])).chosen[0].content
        '2'
    """
    return _read_rows(rows, _read_preference, on_bad)


def read_unpaired(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Unpaired]:
    """Reads single answers with a label.

    Args:
        rows: with the columns `prompt`, `completion` and `label` (a truth value, or 0 and 1).
        on_bad: gets each row that has not, whose prompt is empty, or whose completion ends with somebody
            else's turn.

    Returns:
        An iterator over Unpaired.

    Example:
        >>> next(read_unpaired([Row({"prompt": "1 + 1?", "completion": "3", "label": 0}, "a:1")])).desirable
        False
    """
    return _read_rows(rows, _read_unpaired, on_bad)


def read_prompts(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Prompt]:
    """Reads prompts to answer.

    Args:
        rows: with the column `prompt` (a text or turns), one of TURNS (an assistant's turn at the end is left
            off), or another of QUESTIONS.
        on_bad: gets each row that has not, or whose prompt is empty.

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
    """Reads row by row."""
    for row in rows:
        try:
            yield read(row.values, row.name)
        except RowError as error:
            on_bad(BadRow(row.name, str(error)))


def _read_conversation(row: Mapping[str, Any], name: str) -> Conversation:
    """One row of any of the three forms."""
    columns = drop_nulls(row)
    found = read_message_columns(columns)
    answer: Messages | None = None
    if found is not None and "prompt" in columns and "completion" in columns:
        other = read_prompt_columns(columns) + read_completion_columns(columns)
        refuse_difference("prompt with completion", drop_system(other), "messages", drop_system(found))
    elif found is None and _has_column(PROMPT_COLUMNS, columns) and _has_column(COMPLETION_COLUMNS, columns):
        question = read_prompt_columns(columns)
        answer = drop_prompt(question, read_completion_columns(columns))
        found = question + answer
    elif found is None and isinstance(columns.get("text"), str):
        found = read_dialogue(columns["text"]) or None
    if found is None:
        pair = f"{_join_or(PROMPT_COLUMNS)} with {_join_or(COMPLETION_COLUMNS)}"
        raise _unknown_columns(row, f"{MESSAGE_COLUMNS[0]}; {pair}; or text with speakers")
    found = prepend_system(columns, found)
    if not (said := [message for message in found if message.role == "assistant"]):
        raise RowError("the conversation has no turn of the assistant, so there is nothing to learn from it")
    if not any(message.trained for message in said):
        raise RowError(
            "no turn of the assistant is to be learned (weight 0), so there is nothing to learn; drop it"
        )
    given = len(found) - len(answer) if answer and {"prompt", "completion"} <= columns.keys() else 0
    spoken = any(message.role == "assistant" for message in found[:given])
    return Conversation(found, name, read_context(columns), given if spoken else 0)


def _read_preference(row: Mapping[str, Any], name: str) -> Preference:
    """One row with chosen and rejected."""
    columns = _rename_openai(drop_nulls(row))
    if "chosen" not in columns or "rejected" not in columns:
        raise _unknown_columns(row, "chosen and rejected, with prompt or with the prompt in both")
    prompt, chosen, rejected = separate_prompt(
        _preference_prompt(columns), columns["chosen"], columns["rejected"]
    )
    if chosen == rejected:
        raise RowError("chosen and rejected are equal, so there is nothing to prefer; drop the row")
    prompt = _check_prompt(
        prepend_system(columns, prompt), "`prompt`, or as the turns with which chosen and rejected begin"
    )
    context = read_context(columns)
    return Preference(
        prompt, _check_completion(chosen, "chosen"), _check_completion(rejected, "rejected"), name, context
    )


def _read_unpaired(row: Mapping[str, Any], name: str) -> Unpaired:
    """One row with prompt, completion and label."""
    columns = drop_nulls(row)
    if not {"prompt", "completion", "label"} <= columns.keys():
        raise _unknown_columns(row, "prompt, completion and label")
    if columns["label"] not in (True, False, 0, 1):
        raise RowError(f"label must be true or false (or 1 or 0), got {columns['label']!r}")
    question = read_prompt_columns(columns)
    completion = _check_completion(
        drop_prompt(question, read_text_or_turns(columns["completion"], "assistant")), "completion"
    )
    prompt = _check_prompt(prepend_system(columns, question), "`prompt`")
    return Unpaired(prompt, completion, bool(columns["label"]), name, read_context(columns))


def _read_prompt(row: Mapping[str, Any], name: str) -> Prompt:
    """One row with prompt, turns or a question."""
    columns = drop_nulls(row)
    found = None if "prompt" in columns else read_message_columns(columns)
    if found is not None:
        found = found[:-1] if found and found[-1].role == "assistant" else found
    elif _has_column(PROMPT_COLUMNS, columns):
        found = read_prompt_columns(columns)
    else:
        raise _unknown_columns(row, f"messages or {_join_or(PROMPT_COLUMNS)}")
    return Prompt(
        _check_prompt(prepend_system(columns, found), "`prompt`, `messages` or `question`"),
        row,
        name,
        read_context(columns),
    )


def _preference_prompt(columns: Mapping[str, Any]) -> Messages | None:
    """The prompt of a preference, if a column has it: a question, or turns beside single answers."""
    if _has_column(PROMPT_COLUMNS, columns):
        return read_prompt_columns(columns)
    whole = [
        side
        for side in (columns["chosen"], columns["rejected"])
        if isinstance(side, list | tuple) and side[1:]
    ]
    turns = None if whole else read_message_columns(columns)
    return turns if turns and turns[-1].role != "assistant" else None


def _rename_openai(columns: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's columns of a preference (`input`, `preferred_output`, `non_preferred_output`) under our
    names."""
    if "preferred_output" not in columns or "non_preferred_output" not in columns:
        return columns
    asked = columns.get("input")
    if not isinstance(asked, Mapping) or asked.get("messages") is None:
        raise RowError("expected messages in input, beside preferred_output and non_preferred_output")
    rest = {name: x for name, x in drop_nulls(asked).items() if name != "messages"}
    kept = {name: x for name, x in columns.items() if name != "input"}
    chosen, rejected = columns["preferred_output"], columns["non_preferred_output"]
    return {**kept, **rest, "prompt": asked["messages"], "chosen": chosen, "rejected": rejected}


def _has_column(names: tuple[str, ...], columns: Mapping[str, Any]) -> bool:
    """True if there is one of these columns."""
    return any(name in columns for name in names)


def _check_prompt(found: Messages, where: str) -> Messages:
    """The prompt, if there is one."""
    if not any(message.content for message in found if message.role not in SYSTEM_ROLES):
        raise RowError(f"the prompt is empty; give it in {where}")
    return found


def _check_completion(found: Messages, side: str) -> Messages:
    """An answer, if it ends as one."""
    if not found or found[-1].role != "assistant":
        raise RowError(f"{side} must end with a turn of the assistant; leave off what follows it")
    if not any(message.trained for message in found if message.role == "assistant"):
        raise RowError(f"no turn of {side} is to be learned (weight 0); drop the row")
    return found


def _unknown_columns(row: Mapping[str, Any], wanted: str) -> RowError:
    """No form that is known."""
    got = ", ".join(f"{name} (null)" if value is None else str(name) for name, value in row.items())
    return RowError(f"expected the columns {wanted}; got {got or '(none)'}")


def _join_or(names: tuple[str, ...]) -> str:
    """Names as a choice."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
