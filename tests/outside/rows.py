"""Rows for fine-tuning in the forms of published data sets, written by `datasets`.

`datasets` gives all rows of a file the same columns and all turns the same keys, and fills them with nulls;
to test this, each row is written together with a row that has every key. The expected value is what TRL
reads; where TRL does not read a form, it is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
from trl.data_utils import extract_prompt, maybe_convert_to_chatml
from trl.trainer.utils import remove_none_values

from data_pipes.chat.messages import Context, Messages
from data_pipes.rows.records import read_conversations, read_preferences, read_prompts
from data_pipes.source.path import rows
from tests.outside.form import Form

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
U, A, B = (
    {"role": role, "content": text}
    for role, text in (("user", "1 + 1?"), ("assistant", "2"), ("assistant", "3"))
)
S = {"role": "system", "content": "Be brief."}
"""Turns: U of the user, A and B of the assistant (right and wrong), S of the system."""

FULL = {
    **U,
    "from": "human",
    "value": "1 + 1?",
    "name": "x",
    "tool_calls": [CALL],
    "weight": 1,
    "tool_call_id": "c",
    "reasoning_content": "easy",
}
"""A turn with every key, so that all other turns of the file get nulls."""

SHAREGPT = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]


def _write_with_full_row(values: dict[str, Any], folder: Path, kind: str) -> dict[str, Any]:
    """Write the row and one that has every key, and return the row as `datasets` reads it."""
    datasets.disable_progress_bars()
    lists = {
        name: [FULL] for name, x in values.items() if isinstance(x, list) and x and isinstance(x[0], dict)
    }
    found = datasets.Dataset.from_list([values, {"tools": [TOOL], **lists}])
    if kind == "parquet":
        found.to_parquet(folder / "rows.parquet")
    elif kind == "jsonl":
        found.to_json(folder / "rows.jsonl")
    else:
        found.save_to_disk(folder / "rows")
    return dict(found[0])


def _json(values: dict[str, Any], folder: Path, _: str) -> dict[str, Any]:
    """Write the row alone, as JSON."""
    (folder / "rows.jsonl").write_text(json.dumps(values) + "\n")
    return values


def _plain(messages: Messages) -> list[dict[str, Any]]:
    """Messages as dictionaries."""
    read = [{"role": m.role, "content": m.content, **dict(m.fields)} for m in messages]
    return [turn if m.trained else {**turn, "weight": 0} for m, turn in zip(messages, read, strict=True)]


def _first_row(read: Callable, folder: Path) -> Any:
    (path,) = folder.iterdir()
    return next(read(_first(path)))


def _first(path: Path) -> Iterable:
    yield next(iter(rows(str(path))))


def _context(context: Context) -> dict[str, Any]:
    return {"tools": list(context.tools)} | dict(context.variables)


def _sft(folder: Path) -> Any:
    found = _first_row(read_conversations, folder)
    return {"messages": _plain(found.messages), **_context(found.context)}


def _dpo(folder: Path) -> Any:
    found = _first_row(read_preferences, folder)
    sides = {name: _plain(getattr(found, name)) for name in ("prompt", "chosen", "rejected")}
    return sides | _context(found.context)


def _prompt_of(folder: Path) -> Any:
    found = _first_row(read_prompts, folder)
    return {"messages": _plain(found.messages), **_context(found.context)}


def _case(
    name: str,
    values: dict[str, Any],
    right: Any = None,
    *,
    ours: Callable[[Path], Any] = _sft,
    refused: str = "",
    kind: str = "parquet",
    write: Callable = _write_with_full_row,
) -> Form:
    """A form whose expected value `right` is given, or a function of the row as `datasets` reads it."""

    def theirs(folder: Path) -> Any:
        row = write(values, folder, kind)
        if callable(right):
            return right(row)
        expected = right if isinstance(right, dict) else {"messages": right}
        return {**expected, "tools": expected.get("tools", [])}

    return Form("row", name, "datasets" if write is _write_with_full_row else "json", theirs, ours, refused)


def _trl(row: dict[str, Any]) -> dict[str, Any]:
    """Turns and tools as TRL reads them."""
    row = maybe_convert_to_chatml(remove_none_values(row))
    return {"messages": row["messages"], "tools": row.get("tools") or []}


def _trl_pair(row: dict[str, Any]) -> dict[str, Any]:
    """Prompt and two completions as TRL reads them."""
    row = extract_prompt(maybe_convert_to_chatml(remove_none_values(row)))
    return {name: row[name] for name in ("prompt", "chosen", "rejected")} | {"tools": []}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


TURNS = (
    *(_case(f"messages in {kind}", {"messages": [U, A]}, _trl, kind=kind) for kind in ("parquet", "jsonl", "folder")),
    _case("ShareGPT", {"conversations": SHAREGPT}, [U, A]),
    _case("ShareGPT's from and value, as TRL converts them", {"conversations": [
          {"from": "system", "value": "Be brief."}, {"from": "user", "value": "1 + 1?"},
          {"from": "assistant", "value": "2"}]}, _trl),
    _case("ShareGPT with null from and value next to role and content", {"conversations": [U, A]}, _trl),
    _case("a column conversation", {"conversation": SHAREGPT}, [U, A]),
    _case("messages and an equal conversations", {"messages": [U, A], "conversations": SHAREGPT}, [U, A]),
    _case("messages and another conversations", {"messages": [U, A], "conversations": [U, B]},
          refused="conversations and messages differ"),
    _case("messages and another prompt with completion", {"messages": [U, A], "prompt": "1 + 1?", "completion": "3"},
          refused="prompt with completion and messages differ"),
    _case("messages and a reference solution", {"messages": [U, A], "problem": "1 + 1?", "solution": "It is 2."},
          _trl),
    _case("messages as JSON text", {"messages": json.dumps([U, A])}, [U, A]),
    _case("exchanges of input and output", {"conversation": [{"input": "1 + 1?", "output": "2"}]}, [U, A], write=_json),
    _case("a developer's turn", {"messages": [{**S, "role": "developer"}, U, A]}, _trl),
    _case("an unknown role", {"messages": [{**U, "role": "critic"}, A]}, refused="turn 1: unknown role 'critic'"),
    _case("a tool's answer", {"messages": [U, {**A, "content": "", "tool_calls": [CALL]},
          {"role": "tool", "content": "2", "tool_call_id": "c", "name": "add"}, A], "tools": [TOOL]}, _trl),
    _case("a call with a null content", {"messages": [U, {"role": "assistant", "content": None,
          "tool_calls": [CALL]}]}, [U, {"role": "assistant", "content": None, "tool_calls": [CALL]}]),
    _case("a call with arguments as JSON text (OpenAI)", {"messages": [U, {**A, "tool_calls": [
          {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]}]},
          [U, {**A, "tool_calls": [{"id": "c", **CALL}]}], write=_json),
    _case("a call whose arguments are no JSON", {"messages": [U, {**A, "tool_calls": [
          {"type": "function", "function": {"name": "add", "arguments": "{a: 1"}}]}]},
          refused="turn 2: expected the arguments of 'add'", write=_json),
    _case("function_call and functions (OpenAI's older form)", {"functions": [TOOL["function"]], "messages": [
          U, {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
          {"role": "function", "name": "add", "content": "2"}, A]},
          {"tools": [TOOL], "messages": [U, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                                         {"role": "tool", "content": "2", "name": "add"}, A]}, write=_json),
    _case("function_call and observation (LLaMA-Factory)", {"tools": json.dumps([TOOL]), "system": "Be brief.",
          "conversations": [SHAREGPT[0], {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                            {"from": "observation", "value": "2"}, SHAREGPT[1]]},
          {"tools": [TOOL], "messages": [S, U, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                                         {"role": "tool", "content": "2"}, A]}, write=_json),
    _case("tools as a list of JSON texts", {"messages": [U, A], "tools": [json.dumps(TOOL)]},
          {"tools": [TOOL], "messages": [U, A]}, write=_json),
    _case("tools that are no JSON", {"messages": [U, A], "tools": "search"}, refused="tools must be JSON", write=_json),
    _case("reasoning_content", {"messages": [U, {**A, "reasoning_content": "easy"}]}, _trl),
    _case("thinking", {"messages": [U, {**A, "thinking": "easy"}]}, [U, {**A, "thinking": "easy"}], write=_json),
    _case("weight 0 (OpenAI)", {"messages": [U, {**B, "weight": 0}, U, {**A, "weight": 1}]},
          [U, {**B, "weight": 0}, U, A]),
    _case("train: false (Axolotl)", {"messages": [{**U, "train": False}, {**B, "train": False}, U,
          {**A, "train": True}]}, [U, {**B, "weight": 0}, U, A], write=_json),
    _case("loss: false (ms-swift)", {"messages": [U, {**B, "loss": False}, U, A]}, [U, {**B, "weight": 0}, U, A],
          write=_json),
    _case("masked: true", {"messages": [U, {**B, "masked": True}, U, {**A, "masked": False}]},
          [U, {**B, "weight": 0}, U, A], write=_json),
    _case("weight 0.5", {"messages": [U, {**A, "weight": 0.5}]}, refused="turn 2: weight must be 0 or 1", write=_json),
    _case("weight 0 everywhere", {"messages": [U, {**A, "weight": 0}]}, refused="nothing to train on"),
    _case("a user's turn with weight 1", {"messages": [{**U, "weight": 1}, A]}, refused="only turns of the assistant"),
    _case("parts of text", {"messages": [{"role": "user", "content": [{"type": "text", "text": "1 + "},
          {"type": "text", "text": "1?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "2"}]}]},
          [U, A], write=_json),
    _case("a part that is an image", {"messages": [{"role": "user", "content": [
          {"type": "image", "url": "a.png"}]}, A]}, refused="turn 1: the user's turn has a part of type 'image'",
          write=_json),
    _case("a column of images", {"messages": [U, A], "images": ["a.png"]}, refused="the column images", write=_json),
    _case("a system column", {"messages": [U, A], "system": "Be brief."}, [S, U, A]),
    _case("a system_prompt column, and the same turn", {"conversations": [S, U, A], "system_prompt": "Be brief."},
          [S, U, A]),
    _case("a system column, and another turn", {"messages": [S, U, A], "system": "Be long."},
          refused="the column system and the first turn are different system prompts"),
    _case("chat_template_kwargs (TRL)", {"messages": [U, A], "chat_template_kwargs": {"enable_thinking": False}},
          {"messages": [U, A], "enable_thinking": False}),
    _case("tools of Json features", {"messages": [U, {**A, "tool_calls": [CALL]}, {**A, "tool_calls": [
          {"type": "function", "function": {"name": "add", "arguments": {"a": "one"}}}]}]},
          lambda row: {"messages": row["messages"], "tools": []},
          write=lambda values, folder, _: _write_mixed_types(values, folder)),
)  # fmt: skip


def _write_mixed_types(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write rows whose arguments have several types, which `datasets` stores as JSON inside Parquet."""
    datasets.disable_progress_bars()
    (folder / "rows.jsonl").write_text(json.dumps(values) + "\n")
    found = datasets.load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "cache")
    )
    found.to_parquet(folder / "rows.parquet")
    row = dict(found[0])
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name != "rows.parquet":
            path.unlink() if path.is_file() else path.rmdir()
    return row


PAIRS_OF_COLUMNS = tuple(
    _case(f"{ask} and {answer}", {ask: "1 + 1?", answer: "2"}, [U, A])
    for ask, answer in (
        ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response"),
        ("query", "response"), ("problem", "solution"), ("question", "answer"), ("question", "response"),
        ("input", "output"),
    )
)  # fmt: skip

TEXTS = (
    *PAIRS_OF_COLUMNS,
    _case("prompt and completion of turns", {"prompt": [U], "completion": [A]}, [U, A]),
    _case("a completion that repeats the prompt's turns", {"prompt": [S, U], "completion": [U, A]}, [S, U, A]),
    _case("Alpaca", {"instruction": "Add.", "input": "1 1", "output": "2"}, [{**U, "content": "Add.\n\n1 1"}, A]),
    _case("Alpaca with history and system", {"instruction": "1 + 1?", "input": "", "output": "2", "system": "Be brief.",
          "history": [["Hi", "Hello"]]}, [S, {**U, "content": "Hi"}, *_answer("Hello"), U, A]),
    _case("Dolly", {"instruction": "Add.", "context": "1 1", "response": "2", "category": "open"},
          [{**U, "content": "Add.\n\n1 1"}, A]),
    _case("question, context and answer", {"question": "1 + 1?", "context": "Numbers", "answer": "2"},
          refused="context is supported only with instruction, got it with question"),
    _case("OpenOrca", {"id": "1", "system_prompt": "Be brief.", "question": "1 + 1?", "response": "2"}, [S, U, A]),
    _case("problem, solution and a short answer", {"problem": "1 + 1?", "solution": "It is 2.", "answer": "2"},
          [U, *_answer("It is 2.")]),
    _case("two different answers", {"instruction": "1 + 1?", "output": "2", "response": "3"},
          refused="output and response are different completions"),
    _case("two different questions", {"instruction": "1 + 1?", "question": "2 + 2?", "output": "2"},
          refused="instruction and question are different prompts"),
    _case("turns as input, a text as output", {"input": [S, U], "output": "2"}, [S, U, A]),
    _case("text with ### Human", {"text": "### Human: 1 + 1?### Assistant: 2"}, [U, A]),
    _case("text with Human and Assistant", {"text": "\n\nHuman: 1 + 1?\n\nAssistant: 2"}, [U, A]),
    _case("text without speakers", {"text": "1 + 1 is 2"}, refused="expected the columns messages; .* got text"),
    _case("an answer of null", {"question": "1 + 1?", "answer": None}, refused=r"got .*answer \(null\)"),
)  # fmt: skip


def _sides(chosen: Any, rejected: Any, **columns: Any) -> dict[str, Any]:
    return {"chosen": chosen, "rejected": rejected, **columns}


PAIR = {"prompt": [U], "chosen": [A], "rejected": [B]}
HH = tuple(f"\n\nHuman: 1 + 1?\n\nAssistant: {answer}" for answer in (2, 3))

PREFERENCES = (
    _case("prompt, chosen, rejected of texts", _sides("2", "3", prompt="1 + 1?"), PAIR, ours=_dpo),
    _case("prompt, chosen, rejected of turns", _sides([A], [B], prompt=[U]), PAIR, ours=_dpo),
    _case("the prompt in both sides", _sides([U, A], [U, B]), _trl_pair, ours=_dpo),
    _case("the prompt in both sides after a system turn", _sides([S, U, A], [S, U, B]), _trl_pair, ours=_dpo),
    _case("UltraFeedback: prompt as text and again in both sides", _sides([U, A], [U, B], prompt="1 + 1?",
          messages=[U, A], score_chosen=2.0), PAIR, ours=_dpo),
    _case("the prompt's turns again in both sides", _sides([U, A], [U, B], prompt=[U]), PAIR, ours=_dpo),
    _case("the prompt again in both sides, with a system turn there", _sides([S, U, A], [S, U, B], prompt=[U]),
          PAIR | {"prompt": [S, U]}, ours=_dpo),
    _case("the prompt again in both sides, with a system turn before", _sides([U, A], [U, B], prompt=[S, U]),
          PAIR | {"prompt": [S, U]}, ours=_dpo),
    _case("the prompt again as text", _sides("What is 1 + 1?\n2", "What is 1 + 1?\n3", prompt="What is 1 + 1?"),
          PAIR | {"prompt": [{**U, "content": "What is 1 + 1?"}]}, ours=_dpo),
    _case("a short prompt that both answers begin with", _sides("Hi there", "Hi you", prompt="Hi"),
          {"prompt": [{**U, "content": "Hi"}], "chosen": _answer("Hi there"), "rejected": _answer("Hi you")},
          ours=_dpo),
    _case("another prompt in both sides", _sides([U, A], [U, B], prompt="2 + 2?"),
          refused="begin with other turns than the prompt", ours=_dpo),
    _case("HH-RLHF", _sides(*HH), PAIR, ours=_dpo),
    _case("HH-RLHF with its prompt in a column", _sides(*HH, prompt="\n\nHuman: 1 + 1?\n\nAssistant:"),
          PAIR, ours=_dpo),
    _case("Orca: system, question", _sides("2", "3", system="Be brief.", question="1 + 1?"),
          PAIR | {"prompt": [S, U]}, ours=_dpo),
    _case("LLaMA-Factory: turns and single answers", {"conversations": SHAREGPT[:1],
          "chosen": {"from": "gpt", "value": "2"}, "rejected": {"from": "gpt", "value": "3"}}, PAIR,
          ours=_dpo, write=_json),
    _case("OpenAI: input, preferred_output", {"input": {"messages": [U], "tools": [TOOL], "parallel_tool_calls": True},
          "preferred_output": [A], "non_preferred_output": [B]}, PAIR | {"tools": [TOOL]}, ours=_dpo, write=_json),
    _case("equal sides", _sides([A], [A], prompt=[U]), refused="chosen and rejected are equal", ours=_dpo),
)  # fmt: skip

PROMPTS = (
    _case("a prompt of turns", {"prompt": [S, U]}, [S, U], ours=_prompt_of),
    _case("a problem with its answer", {"problem": "1 + 1?", "answer": "2", "system": "Be brief."}, [S, U],
          ours=_prompt_of),
    _case("messages that end with an answer", {"messages": [U, A]}, [U], ours=_prompt_of),
    _case("a prompt with tools", {"prompt": [U], "tools": [TOOL]}, {"messages": [U], "tools": [TOOL]}, ours=_prompt_of),
    _case("a prompt of a system turn alone", {"prompt": [S]}, refused="the prompt is empty", ours=_prompt_of),
)  # fmt: skip

FORMS = (*TURNS, *TEXTS, *PREFERENCES, *PROMPTS)
