"""`examples.read`: rows from a file or generated ones, split so that no row is in both parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipes import record_encoding
from data_pipes.chat.chat import ChatTemplate, chat_template
from stages.run.data import examples
from tests.data_pipes.chats import tokenizer

TOKENIZER, TEMPLATE = tokenizer(), chat_template()


def read(tmp_path: Path, rows: list[dict], kind: str = "CONVERSATIONS", **options: object) -> examples.Data:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"held_out": 128, "examples": 0} | options
    source = examples.Source(str(tmp_path / "rows.jsonl"), str(tmp_path / "run"), **given)
    return examples.read(getattr(examples, kind), source, TOKENIZER, TEMPLATE, say=lambda text: None)


def test_held_out_rows_are_at_most_a_fifth_and_not_in_train(tmp_path: Path) -> None:
    rows = [{"prompt": f"a {i}", "completion": f"b {i}"} for i in range(50)]
    for requested, count in ((4, 4), (100, 10), (0, 0)):
        data = read(tmp_path, rows, held_out=requested)
        assert (len(data.train), len(data.held_out)) == (50 - count, count)
        parts = [{TOKENIZER.decode(x.tokens) for x in part} for part in data]
        assert not parts[0] & parts[1]
        assert len(parts[0] | parts[1]) == 50


def test_an_encoded_prompt_keeps_its_text_and_row(tmp_path: Path) -> None:
    data = read(
        tmp_path, [{"question": f"q {i}", "answer": str(i)} for i in range(10)], "PROMPTS", held_out=0
    )
    assert data.train[3].text == "q 3"
    assert data.train[3].row["answer"] == "3"
    assert TOKENIZER.decode(data.train[3].tokens).endswith("<|im_start|>assistant\n")


def test_bad_rows_are_refused_or_skipped_and_listed(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(ValueError, match=r"rows.jsonl:1: chosen.*--on_bad skip"):
        read(tmp_path, rows, "PREFERENCES")
    assert len(read(tmp_path, rows, "PREFERENCES", on_bad="skip").train) == 1
    assert "rows.jsonl:1" in (tmp_path / "run" / examples.BAD).read_text()
    read(tmp_path, rows, "PREFERENCES", on_bad="skip")
    assert len((tmp_path / "run" / examples.BAD).read_text().splitlines()) == 1
    with pytest.raises(ValueError, match="no row is left to train on; 1 row skipped, see"):
        read(tmp_path, rows[:1], "PREFERENCES", on_bad="skip")


# A chat template that marks the trained text by {% generation %}, and one without marks.
MARKED = chat_template(
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
    "{% endif %}{{ '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
)
PLAIN = chat_template(
    MARKED.source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [MARKED, PLAIN], ids=["marked", "plain"])
@pytest.mark.parametrize("kind", ["CONVERSATIONS", "PREFERENCES"])
def test_weights_tools_and_calls_reach_the_template_and_the_loss_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: ChatTemplate, kind: str
) -> None:
    monkeypatch.setattr("tests.stages.run.data.test_examples.TEMPLATE", template)
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "no"},
        {"role": "assistant", "content": "", "tool_calls": [call], "weight": 1},
    ]
    other = [*turns[:3], {"role": "assistant", "content": "bad"}]
    row = {"messages": turns, "chosen": turns, "rejected": other, "tools": [{"name": "add"}]}
    (example,) = read(tmp_path, [row], kind, held_out=0).train
    encoded = example.chosen if kind == "PREFERENCES" else example
    text = TOKENIZER.decode(encoded.tokens)
    assert text.startswith('[{"name": "add"}]<|im_start|>user')
    assert "wrong<|im_end|>" in text
    learned = TOKENIZER.decode(encoded.tokens[encoded.trained])
    assert learned == '[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]<|im_end|>'


# A chat template that raises an error for some rows.
REFUSING = chat_template(
    "{% for m in messages %}"
    "{% if 'refuse' in m.content %}{{ raise_exception('no such words,\nplease') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("kind", ["CONVERSATIONS", "PREFERENCES", "PROMPTS"])
def test_a_row_that_the_template_refuses_is_a_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(record_encoding, "BATCH", 2)
    rows = [
        {
            "prompt": f"refuse {i}" if i in (1, 4) else f"a {i}",
            "chosen": "b",
            "rejected": "c",
            "completion": "d",
        }
        for i in range(7)
    ]
    monkeypatch.setattr("tests.stages.run.data.test_examples.TEMPLATE", REFUSING)
    with pytest.raises(
        ValueError, match=r"rows.jsonl:2: the chat template failed: no such words, please; or .*skip"
    ):
        read(tmp_path, rows, kind)
    data = read(tmp_path, rows, kind, on_bad="skip", held_out=0)
    assert len(data.train) == 5
    skipped = [json.loads(line) for line in (tmp_path / "run" / examples.BAD).read_text().splitlines()]
    assert [row["name"] for row in skipped] == [f"{tmp_path / 'rows.jsonl'}:{line}" for line in (2, 5)]
    if kind == "PROMPTS":
        assert [prompt.text for prompt in data.train] == [f"a {i}" for i in (0, 2, 3, 5, 6)]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row is left"):
        read(tmp_path, [])


@pytest.mark.parametrize(
    "kind", [examples.CONVERSATIONS, examples.PREFERENCES, examples.UNPAIRED, examples.PROMPTS]
)
def test_embedded_rows_need_no_file(tmp_path: Path, kind: examples.Kind) -> None:
    source = examples.Source("embedded", str(tmp_path), held_out=10, examples=30)
    data = examples.read(kind, source, TOKENIZER, TEMPLATE, say=lambda text: None)
    assert (len(data.train), len(data.held_out)) == (30, 10)


def test_a_completion_continues_an_unfinished_assistant_turn(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "It is"}]
    data = read(
        tmp_path, [{"prompt": turns, "completion": [{"role": "assistant", "content": " 2."}]}], held_out=0
    )
    example = data.train[0]
    assert TOKENIZER.decode(example.tokens).endswith("<|im_start|>assistant\nIt is 2.<|im_end|>\n")
    assert TOKENIZER.decode(example.tokens[example.trained]) == " 2.<|im_end|>"
    prompt = read(tmp_path, [{"prompt": turns}], "PROMPTS", held_out=0).train[0].tokens
    assert example.tokens[: len(prompt)].tolist() == prompt.tolist()


@pytest.mark.parametrize("kind", ["CONVERSATIONS", "PREFERENCES", "UNPAIRED", "PROMPTS"])
def test_the_number_of_workers_changes_no_example_and_no_list_of_bad_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(record_encoding, "BATCH", 3)
    monkeypatch.setattr("tests.stages.run.data.test_examples.TEMPLATE", REFUSING)
    rows: list[dict] = []
    for i in range(40):
        answers: dict = {"chosen": f"b {i}", "rejected": "c", "completion": f"d {i}", "label": i % 2 == 0}
        if kind == "UNPAIRED":
            del answers["chosen"], answers["rejected"]
        rows.append({"prompt": f"refuse {i}" if i % 9 == 1 else f"a {i}", **answers})
    rows[30] = {"nothing": 1}
    found = []
    for workers in (1, 2):
        data = read(tmp_path, rows, kind, on_bad="skip", held_out=4, workers=workers)
        found.append((repr(data), (tmp_path / "run" / examples.BAD).read_text().splitlines()))
    with pytest.raises(ValueError, match=r"rows.jsonl:2: the chat template failed: no such words"):
        read(tmp_path, rows, kind, workers=1 + (kind == "PROMPTS"))
    assert found[0] == found[1]
    names = [json.loads(line)["name"].rpartition(":")[2] for line in found[0][1]]
    assert names == ["31", "2", "11", "20", "29", "38"]
    assert found[0][0].count("tokens=") == 34 * (2 if kind == "PREFERENCES" else 1)
