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
    ANSWERS,
    QUESTIONS,
    SYSTEM_ROLES,
    TURNS,
    as_turns,
    read_answer,
    read_question,
    read_turn_columns,
    refuse_difference,
    without_system,
)
from data_pipes.rows.context import present, read_context, with_system
from data_pipes.rows.dialogue import read_dialogue
from data_pipes.rows.shared_prompt import after, separate
from data_pipes.rows.turns import RowError
from data_pipes.types import BadRow, OnBad, Row, stop

Record = TypeVar("Record")


def conversations(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Conversation]:
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
        >>> found = next(conversations([Row({"instruction": "Add.", "input": "1 1", "output": "2"}, "a:1")]))
        >>> [message[:2] for message in found.messages]
        [('user', 'Add.\\n\\n1 1'), ('assistant', '2')]
    """
    return _each(rows, _conversation, on_bad)


def preferences(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Preference]:
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
        >>> next(preferences([Row({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}, "a:1")])).chosen[0].content
        '2'
    """
    return _each(rows, _preference, on_bad)


def unpaired(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[Unpaired]:
    """Reads single answers with a label.

    Args:
        rows: with the columns `prompt`, `completion` and `label` (a truth value, or 0 and 1).
        on_bad: gets each row that has not, whose prompt is empty, or whose completion ends with somebody
            else's turn.

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
        rows: with the column `prompt` (a text or turns), one of TURNS (an assistant's turn at the end is left
            off), or another of QUESTIONS.
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
        except RowError as error:
            on_bad(BadRow(row.name, str(error)))


def _conversation(row: Mapping[str, Any], name: str) -> Conversation:
    """One row of any of the three forms."""
    columns = present(row)
    found = read_turn_columns(columns)
    answer: Messages | None = None
    if found is not None and "prompt" in columns and "completion" in columns:
        other = read_question(columns) + read_answer(columns)
        refuse_difference("prompt with completion", without_system(other), "messages", without_system(found))
    elif found is None and _any(QUESTIONS, columns) and _any(ANSWERS, columns):
        question = read_question(columns)
        answer = after(question, read_answer(columns))
        found = question + answer
    elif found is None and isinstance(columns.get("text"), str):
        found = read_dialogue(columns["text"]) or None
    if found is None:
        raise _unknown(row, f"{TURNS[0]}; {_or(QUESTIONS)} with {_or(ANSWERS)}; or text with speakers")
    found = with_system(columns, found)
    if not (said := [message for message in found if message.role == "assistant"]):
        raise RowError("the conversation has no turn of the assistant, so there is nothing to learn from it")
    if not any(message.trained for message in said):
        raise RowError(
            "no turn of the assistant is to be learned (weight 0), so there is nothing to learn; drop it"
        )
    given = len(found) - len(answer) if answer and {"prompt", "completion"} <= columns.keys() else 0
    spoken = any(message.role == "assistant" for message in found[:given])
    return Conversation(found, name, read_context(columns), given if spoken else 0)


def _preference(row: Mapping[str, Any], name: str) -> Preference:
    """One row with chosen and rejected."""
    columns = _renamed(present(row))
    if "chosen" not in columns or "rejected" not in columns:
        raise _unknown(row, "chosen and rejected, with prompt or with the prompt in both")
    prompt, chosen, rejected = separate(_given(columns), columns["chosen"], columns["rejected"])
    if chosen == rejected:
        raise RowError("chosen and rejected are equal, so there is nothing to prefer; drop the row")
    prompt = _need(
        with_system(columns, prompt), "`prompt`, or as the turns with which chosen and rejected begin"
    )
    context = read_context(columns)
    return Preference(prompt, _ended(chosen, "chosen"), _ended(rejected, "rejected"), name, context)


def _unpaired(row: Mapping[str, Any], name: str) -> Unpaired:
    """One row with prompt, completion and label."""
    columns = present(row)
    if not {"prompt", "completion", "label"} <= columns.keys():
        raise _unknown(row, "prompt, completion and label")
    if columns["label"] not in (True, False, 0, 1):
        raise RowError(f"label must be true or false (or 1 or 0), got {columns['label']!r}")
    question = read_question(columns)
    completion = _ended(after(question, as_turns(columns["completion"], "assistant")), "completion")
    prompt = _need(with_system(columns, question), "`prompt`")
    return Unpaired(prompt, completion, bool(columns["label"]), name, read_context(columns))


def _prompt(row: Mapping[str, Any], name: str) -> Prompt:
    """One row with prompt, turns or a question."""
    columns = present(row)
    found = None if "prompt" in columns else read_turn_columns(columns)
    if found is not None:
        found = found[:-1] if found and found[-1].role == "assistant" else found
    elif _any(QUESTIONS, columns):
        found = read_question(columns)
    else:
        raise _unknown(row, f"messages or {_or(QUESTIONS)}")
    return Prompt(
        _need(with_system(columns, found), "`prompt`, `messages` or `question`"),
        row,
        name,
        read_context(columns),
    )


def _given(columns: Mapping[str, Any]) -> Messages | None:
    """The prompt of a preference, if a column has it: a question, or turns beside single answers."""
    if _any(QUESTIONS, columns):
        return read_question(columns)
    whole = [
        side
        for side in (columns["chosen"], columns["rejected"])
        if isinstance(side, list | tuple) and side[1:]
    ]
    turns = None if whole else read_turn_columns(columns)
    return turns if turns and turns[-1].role != "assistant" else None


def _renamed(columns: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's columns of a preference (`input`, `preferred_output`, `non_preferred_output`) under our
    names."""
    if "preferred_output" not in columns or "non_preferred_output" not in columns:
        return columns
    asked = columns.get("input")
    if not isinstance(asked, Mapping) or asked.get("messages") is None:
        raise RowError("expected messages in input, beside preferred_output and non_preferred_output")
    rest = {name: x for name, x in present(asked).items() if name != "messages"}
    kept = {name: x for name, x in columns.items() if name != "input"}
    chosen, rejected = columns["preferred_output"], columns["non_preferred_output"]
    return {**kept, **rest, "prompt": asked["messages"], "chosen": chosen, "rejected": rejected}


def _any(names: tuple[str, ...], columns: Mapping[str, Any]) -> bool:
    """True if there is one of these columns."""
    return any(name in columns for name in names)


def _need(found: Messages, where: str) -> Messages:
    """The prompt, if there is one."""
    if not any(message.content for message in found if message.role not in SYSTEM_ROLES):
        raise RowError(f"the prompt is empty; give it in {where}")
    return found


def _ended(found: Messages, side: str) -> Messages:
    """An answer, if it ends as one."""
    if not found or found[-1].role != "assistant":
        raise RowError(f"{side} must end with a turn of the assistant; leave off what follows it")
    if not any(message.trained for message in found if message.role == "assistant"):
        raise RowError(f"no turn of {side} is to be learned (weight 0); drop the row")
    return found


def _unknown(row: Mapping[str, Any], wanted: str) -> RowError:
    """No form that is known."""
    got = ", ".join(f"{name} (null)" if value is None else str(name) for name, value in row.items())
    return RowError(f"expected the columns {wanted}; got {got or '(none)'}")


def _or(names: tuple[str, ...]) -> str:
    """Names as a choice."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
