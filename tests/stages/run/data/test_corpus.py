"""`corpus.prepare`: text is tokenized once and reused; unreadable data is named with its place and a fix."""

from __future__ import annotations

import builtins
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_pipes import filter as filter_module
from data_pipes import tokenizer as tokenizers
from data_pipes.tokenizer import trainer
from stages.run.data import corpus
from stages.run.data.corpus import prepare, reopen
from stages.run.options.pretrain import PretrainOptions
from tests.stages.small import write_text


def make_options(tmp_path: Path, **changes: Any) -> PretrainOptions:
    chosen: dict[str, Any] = {"data_path": str(tmp_path / "text"), "output_dir": str(tmp_path / "run")}
    return PretrainOptions(**(chosen | changes))


def say_nothing(text: str) -> None:
    """Ignore a message."""


def test_every_character_is_in_exactly_one_split(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    prepared = prepare(make_options(tmp_path), 300, say_nothing)
    parts = [
        prepared.tokenizer.decode(store.tokens.tolist(), skip_special=True)
        for store in (prepared.train, prepared.held_out)
    ]
    assert parts[1] == (tmp_path / "run" / "data" / "held_out.txt").read_text()
    assert prepared.held_out_bytes == len(parts[1].encode())
    whole = "".join(path.read_text() for path in sorted(text.iterdir()))
    assert sorted("".join(parts)) == sorted(whole)
    end = tokenizers.special_id(prepared.tokenizer, "<|endoftext|>")
    assert (prepared.train.tokens == end).sum() == 6  # one for each document


def test_prepared_data_is_reopened_without_tokenizing_again(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    prepared = prepare(make_options(tmp_path), 300, say_nothing)
    messages: list[str] = []
    reopened = prepare(make_options(tmp_path), 300, messages.append)
    assert messages == []
    assert reopened.train.digest == prepared.train.digest == reopen(tmp_path / "run").train.digest
    assert reopened.held_out_bytes == prepared.held_out_bytes
    assert reopened.tokenizer.spec == prepared.tokenizer.spec


def test_unfinished_data_of_a_killed_run_is_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "text")

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus.files, "write_json", kill)
        with pytest.raises(KeyboardInterrupt):
            prepare(make_options(tmp_path), 270, say_nothing)
    prepared = prepare(make_options(tmp_path), 300, say_nothing)
    uninterrupted = prepare(make_options(tmp_path, output_dir=str(tmp_path / "new")), 300, say_nothing)
    assert prepared.train.digest == uninterrupted.train.digest


def test_changed_data_or_tokenizer_is_refused_and_its_flag_named(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    write_text(tmp_path / "other", documents=7)
    prepare(make_options(tmp_path), 300, say_nothing)
    before = (tmp_path / "run" / "tokenizer.json").read_bytes()
    given = tokenizers.save(tokenizers.train(["low"], 262), tmp_path / "given.json")
    for changes in (
        {"data_path": str(tmp_path / "other")},
        {"tokenizer_path": str(given)},
        {"held_out": 0.2},
    ):
        (flag,) = changes
        with pytest.raises(ValueError, match=f"--{flag} was"):
            prepare(make_options(tmp_path, **changes), 300, say_nothing)
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == before


def test_a_given_tokenizer_is_copied_and_used(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    given = tokenizers.save(tokenizers.train(["low lower lowest"], 264), tmp_path / "given.json")
    prepared = prepare(make_options(tmp_path, tokenizer_path=str(given)), 300, say_nothing)
    assert prepared.tokenizer.spec == tokenizers.load(given).spec
    assert prepared.train.vocab_size == tokenizers.vocabulary_size(prepared.tokenizer)


def test_a_tokenizer_that_no_run_made_is_not_overwritten(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    existing = tokenizers.save(tokenizers.train(["low lower"], 262), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"tokenizer\.json is there already, and no run made it: use it with"
    ):
        prepare(make_options(tmp_path), 300, say_nothing)
    prepared = prepare(make_options(tmp_path, tokenizer_path=str(existing)), 300, say_nothing)
    assert prepared.tokenizer.spec == tokenizers.load(existing).spec


@pytest.mark.parametrize("output_dir", ["text", "text/run", "text/deep/run"])
def test_an_output_folder_inside_the_text_is_refused(output_dir: str, tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    with pytest.raises(ValueError, match=r"lies inside --data_path .*; choose an --output_dir outside"):
        prepare(make_options(tmp_path, output_dir=str(tmp_path / output_dir)), 300, say_nothing)
    assert not (tmp_path / output_dir / "data").exists()


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    given = tokenizers.save(tokenizers.train(["low"], 262, special_tokens=["<|x|>"]), tmp_path / "given.json")
    with pytest.raises(ValueError, match=r"the tokenizer has none of <\|endoftext\|>"):
        prepare(make_options(tmp_path, tokenizer_path=str(given)), 300, say_nothing)


def test_text_is_read_from_the_column_that_field_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"body": f"text number {i}\n" * 3}) + "\n" for i in range(200)))
    prepared = prepare(make_options(tmp_path, data_path=str(path), field="body"), 280, say_nothing)
    assert len(prepared.train.ends) + len(prepared.held_out.ends) == 200
    with pytest.raises(
        ValueError, match=r"rows\.jsonl:1: expected a text in 'text'.*name by --field the.*--on_bad skip"
    ):
        prepare(
            make_options(tmp_path, data_path=str(path), output_dir=str(tmp_path / "new")), 280, say_nothing
        )


def test_bad_rows_are_listed_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"text number {i}\n" * 3}) + "\n" for i in range(50)) + "{broken\n"
    )
    messages: list[str] = []
    prepare(make_options(tmp_path, data_path=str(path), on_bad="skip"), 280, messages.append)
    assert messages[-1] == f"data: 1 row or file skipped, see {tmp_path / 'run' / 'data' / 'bad_rows.jsonl'}"
    (bad_row,) = (tmp_path / "run" / "data" / "bad_rows.jsonl").read_text().splitlines()
    assert json.loads(bad_row)["name"] == f"{path}:51"


def test_the_filter_reports_the_dropped_documents(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    names = [name for name in dir(builtins) if name.isalpha()]
    for i in range(8):
        (text / f"{i}.txt").write_text(" ".join(names[i * 7 : i * 7 + 60]) + "\n")
    (text / "short.txt").write_text("short")
    (text / "twice.txt").write_text((text / "0.txt").read_text())
    prepare(make_options(tmp_path, filter=True), 280, say_nothing)
    report = (tmp_path / "run" / "data" / "dropped.txt").read_text()
    assert "length" in report
    assert "short.txt" in report
    assert "twice.txt" in report


def test_the_number_of_workers_changes_no_file_and_is_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    names = [name for name in dir(builtins) if name.isalpha()]
    texts = [" ".join(names[i % 60 : i % 60 + 60 - i % 9]) + f"\n{i}\n" for i in range(400)]
    lines = [json.dumps({"text": text}) for text in [*texts, "short", texts[0]]]
    path.write_text("\n".join([*lines[:50], "{broken", *lines[50:]]) + "\n")
    for module in (filter_module, trainer):
        monkeypatch.setattr(module, "BATCH_CHARACTERS", 1 << 13)
    contents = []
    for workers in (1, 2):
        flags: dict[str, Any] = {"workers": workers, "on_bad": "skip", "filter": True}
        run = tmp_path / str(workers)
        options = make_options(tmp_path, data_path=str(path), output_dir=str(run), **flags)
        prepare(options, 300, say_nothing)
        messages: list[str] = []
        prepare(dataclasses.replace(options, workers=3), 300, messages.append)  # opens what is there
        assert messages == []
        contents.append({p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]
    assert {"dropped.txt", "bad_rows.jsonl", "tokens.bin"} <= {file.name for file in contents[0]}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.txt", b"", "there is no text in it"),
        ("blank.txt", b" \n\n", "there is no text in it"),
        ("zero.txt", b"abc\0def" * 100, "a binary file, with a zero byte"),
        (
            "latin.txt",
            "café\n".encode("latin-1") * 100,
            "is not utf-8; convert it first: iconv.* or name its --encoding; or",
        ),
        (
            "no_text.jsonl",
            b'{"body": "x"}\n' * 9,
            r"no_text\.jsonl:1: expected a text in 'text', got the columns body",
        ),
        ("broken.jsonl", b'{"text": "x"}\n{"text\n', r"broken\.jsonl:2: expected one JSON object"),
    ],
)
def test_unreadable_text_is_refused_with_its_reason(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        prepare(make_options(tmp_path, data_path=str(tmp_path / name)), 300, say_nothing)
    (tmp_path / name).write_text("".join(f"better text {i}\n" for i in range(200)))
    if name.endswith(".txt"):  # the failed attempt does not block the next one
        assert len(
            prepare(make_options(tmp_path, data_path=str(tmp_path / name)), 300, say_nothing).train.tokens
        )


def test_a_vocabulary_smaller_than_its_alphabet_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    with pytest.raises(
        ValueError, match=r"vocab_size is 100, but the alphabet \(256\) and the special tokens \(4\)"
    ):
        prepare(make_options(tmp_path), 100, say_nothing)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        prepare(make_options(tmp_path, data_path=str(tmp_path / "nothing")), 300, say_nothing)
    write_text(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        prepare(make_options(tmp_path, tokenizer_path=str(tmp_path / "nothing.json")), 300, say_nothing)


def test_the_tokenizer_is_trained_on_a_bounded_number_of_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_texts: list[str] = []

    def train(texts: Any, size: int, workers: int | None) -> tokenizers.Tokenizer:
        training_texts.extend(texts)
        return original(["low lower"], 262)

    original = tokenizers.train
    monkeypatch.setattr(corpus, "TOKENIZER_CHARACTERS", 2000)
    monkeypatch.setattr(corpus.tokenizers, "train", train)
    write_text(tmp_path / "text")
    prepare(make_options(tmp_path), 300, say_nothing)
    assert len(training_texts) == 2


def test_progress_is_reported_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now, messages = [0.0], []
    monkeypatch.setattr(corpus.time, "monotonic", lambda: now[0])
    report = corpus._report_progress(messages.append)
    for second in range(25):
        now[0] = float(second)
        report(corpus.Progress(second, 1000 * second, second))
    assert messages == [
        "data: 11,000 characters, 11 tokens so far",
        "data: 22,000 characters, 22 tokens so far",
    ]


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(bytes(len(path.read_bytes()))), Path.unlink],
    ids=["zeroed", "deleted"],
)
def test_damaged_or_deleted_tokens_are_refused(damage: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    prepared = prepare(make_options(tmp_path), 300, say_nothing)
    tokens = prepared.train.tokens.copy()
    damage(tmp_path / "run" / "data" / "train" / "tokens.bin")
    with pytest.raises(
        ValueError, match=r"tokens\.bin is .*: rm -r \S+/run/data \S+/run/tokenizer\.json and"
    ):
        prepare(make_options(tmp_path), 300, say_nothing)
    shutil.rmtree(tmp_path / "run" / "data")
    (tmp_path / "run" / "tokenizer.json").unlink()
    assert (prepare(make_options(tmp_path), 300, say_nothing).train.tokens == tokens).all()


def test_a_large_store_is_reported_as_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "text")
    prepare(make_options(tmp_path), 300, say_nothing)
    monkeypatch.setattr(corpus, "MAX_VERIFIED_BYTES", 1)
    messages: list[str] = []
    prepare(make_options(tmp_path), 300, messages.append)
    assert [line.split(" and ")[1] for line in messages] == ["was not verified"] * 2


def test_an_empty_corpus_names_the_filter_or_the_unreadable_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "short"}\n' * 3)
    with pytest.raises(
        ValueError, match=r"--filter dropped by length: 3 documents, see \S+dropped\.txt; give files"
    ):
        prepare(make_options(tmp_path, data_path=str(path), filter=True), 300, say_nothing)
    assert (tmp_path / "run" / "data" / "dropped.txt").exists()
    path.write_text('{"body": "long enough"}\n' * 3)
    with pytest.raises(
        ValueError,
        match=r"3 rows or files could not be read, see \S+bad_rows\.jsonl: "
        r".* by --field .* \(3 times\); give",
    ):
        prepare(make_options(tmp_path, data_path=str(path), on_bad="skip"), 300, say_nothing)
    assert len((tmp_path / "run" / "data" / "bad_rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "facts", [{}, {"made_from": 3, "held_out_bytes": 1}, {"made_from": {}, "held_out_bytes": "1"}]
)
def test_a_damaged_corpus_json_is_named(facts: dict, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"corpus.json: expected made_from .* and held_out_bytes .*rm -r"):
        corpus.reopen(tmp_path)
