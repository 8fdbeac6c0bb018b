"""Text becomes tokens once; what cannot be read is named with its place and the way out."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_pipes import tokenizer as tokenizers
from stages.run.data import corpus
from stages.run.data.corpus import prepare, reopen
from stages.run.options.pretrain import PretrainOptions
from tests.stages.small import write_text


def options(tmp_path: Path, **changes: Any) -> PretrainOptions:
    chosen: dict[str, Any] = {"data_path": str(tmp_path / "text"), "output_dir": str(tmp_path / "run")}
    return PretrainOptions(**(chosen | changes))


def silent(text: str) -> None:
    """Says nothing."""


def test_every_character_is_in_one_part(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    made = prepare(options(tmp_path), 300, silent)
    parts = [
        made.tokenizer.decode(store.tokens.tolist(), skip_special=True)
        for store in (made.train, made.held_out)
    ]
    assert parts[1] == (tmp_path / "run" / "data" / "held_out.txt").read_text()
    assert made.held_out_bytes == len(parts[1].encode())
    whole = "".join(path.read_text() for path in sorted(text.iterdir()))
    assert sorted("".join(parts)) == sorted(whole)
    end = tokenizers.special_id(made.tokenizer, "<|endoftext|>")
    assert (made.train.tokens == end).sum() == 6


def test_done_before_it_is_only_opened(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    made = prepare(options(tmp_path), 300, silent)
    said: list[str] = []
    again = prepare(options(tmp_path), 300, said.append)
    assert said == []
    assert again.train.digest == made.train.digest == reopen(tmp_path / "run").train.digest
    assert again.held_out_bytes == made.held_out_bytes
    assert again.tokenizer.spec == made.tokenizer.spec


def test_unfinished_data_of_a_killed_run_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "text")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus.files, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(options(tmp_path), 270, silent)
    made = prepare(options(tmp_path), 300, silent)
    assert (
        made.train.digest
        == prepare(options(tmp_path, output_dir=str(tmp_path / "new")), 300, silent).train.digest
    )


def test_other_data_or_another_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    write_text(tmp_path / "other", documents=7)
    prepare(options(tmp_path), 300, silent)
    before = (tmp_path / "run" / "tokenizer.json").read_bytes()
    given = tokenizers.save(tokenizers.train(["low"], 262), tmp_path / "given.json")
    for changes in (
        {"data_path": str(tmp_path / "other")},
        {"tokenizer_path": str(given)},
        {"held_out": 0.2},
    ):
        with pytest.raises(ValueError, match=f"--{next(iter(changes))} was"):
            prepare(options(tmp_path, **changes), 300, silent)
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == before


def test_a_given_tokenizer_is_copied_and_used(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    given = tokenizers.save(tokenizers.train(["low lower lowest"], 264), tmp_path / "given.json")
    made = prepare(options(tmp_path, tokenizer_path=str(given)), 300, silent)
    assert made.tokenizer.spec == tokenizers.load(given).spec
    assert made.train.vocab_size == tokenizers.vocabulary_size(made.tokenizer)


def test_a_tokenizer_that_someone_put_there_is_not_overwritten(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    found = tokenizers.save(tokenizers.train(["low lower"], 262), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"tokenizer\.json is there already, and no run made it: use it with"
    ):
        prepare(options(tmp_path), 300, silent)
    made = prepare(options(tmp_path, tokenizer_path=str(found)), 300, silent)
    assert made.tokenizer.spec == tokenizers.load(found).spec


@pytest.mark.parametrize("inside", ["text", "text/run", "text/deep/run"])
def test_a_run_inside_its_text_is_refused(inside: str, tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    with pytest.raises(ValueError, match=r"lies inside --data_path .*; choose an --output_dir outside"):
        prepare(options(tmp_path, output_dir=str(tmp_path / inside)), 300, silent)
    assert not (tmp_path / inside / "data").exists()


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    given = tokenizers.save(tokenizers.train(["low"], 262, special_tokens=["<|x|>"]), tmp_path / "given.json")
    with pytest.raises(ValueError, match=r"the tokenizer has none of <\|endoftext\|>"):
        prepare(options(tmp_path, tokenizer_path=str(given)), 300, silent)


def test_rows_are_read_by_their_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"body": f"text number {i}\n" * 3}) + "\n" for i in range(200)))
    made = prepare(options(tmp_path, data_path=str(path), field="body"), 280, silent)
    assert len(made.train.ends) + len(made.held_out.ends) == 200
    with pytest.raises(
        ValueError, match=r"rows\.jsonl:1: expected a text in 'text'.*name by --field the.*--on_bad skip"
    ):
        prepare(options(tmp_path, data_path=str(path), output_dir=str(tmp_path / "new")), 280, silent)


def test_bad_rows_are_listed_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"text number {i}\n" * 3}) + "\n" for i in range(50)) + "{broken\n"
    )
    said: list[str] = []
    prepare(options(tmp_path, data_path=str(path), on_bad="skip"), 280, said.append)
    assert said[-1] == f"data: 1 rows or files skipped, see {tmp_path / 'run' / 'data' / 'bad_rows.jsonl'}"
    (noted,) = (tmp_path / "run" / "data" / "bad_rows.jsonl").read_text().splitlines()
    assert json.loads(noted)["name"] == f"{path}:51"


def test_filters_report_the_dropped_documents(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    words = [name for name in dir(builtins) if name.isalpha()]
    for i in range(8):
        (text / f"{i}.txt").write_text(" ".join(words[i * 7 : i * 7 + 60]) + "\n")
    (text / "short.txt").write_text("short")
    (text / "twice.txt").write_text((text / "0.txt").read_text())
    prepare(options(tmp_path, filter=True), 280, silent)
    report = (tmp_path / "run" / "data" / "dropped.txt").read_text()
    assert "length" in report
    assert "short.txt" in report
    assert "twice.txt" in report


@pytest.mark.parametrize(
    ("name", "data", "words"),
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
def test_bad_text_is_named(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=words):
        prepare(options(tmp_path, data_path=str(tmp_path / name)), 300, silent)
    (tmp_path / name).write_text("".join(f"better text {i}\n" for i in range(200)))
    if name.endswith(".txt"):  # what failed leaves nothing in the way
        assert len(prepare(options(tmp_path, data_path=str(tmp_path / name)), 300, silent).train.tokens)


def test_a_vocabulary_smaller_than_its_alphabet_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    with pytest.raises(
        ValueError, match=r"vocab_size is 100, but the alphabet \(256\) and the special tokens \(4\)"
    ):
        prepare(options(tmp_path), 100, silent)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        prepare(options(tmp_path, data_path=str(tmp_path / "nothing")), 300, silent)
    write_text(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        prepare(options(tmp_path, tokenizer_path=str(tmp_path / "nothing.json")), 300, silent)


def test_a_tokenizer_learns_from_so_much_text_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def train(texts: Any, size: int) -> tokenizers.Tokenizer:
        seen.extend(texts)
        return original(["low lower"], 262)

    original = tokenizers.train
    monkeypatch.setattr(corpus, "TOKENIZER_CHARACTERS", 2000)
    monkeypatch.setattr(corpus.tokenizers, "train", train)
    write_text(tmp_path / "text")
    prepare(options(tmp_path), 300, silent)
    assert len(seen) == 2


def test_progress_is_reported_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], []
    monkeypatch.setattr(corpus.time, "monotonic", lambda: now[0])
    report = corpus._report_progress(said.append)
    for second in range(25):
        now[0] = float(second)
        report(corpus.Progress(second, 1000 * second, second))
    assert said == ["data: 11,000 characters, 11 tokens so far", "data: 22,000 characters, 22 tokens so far"]


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(bytes(len(path.read_bytes()))), Path.unlink]
)
def test_tokens_that_were_changed_are_not_trained_on(damage: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    made = prepare(options(tmp_path), 300, silent)
    tokens = made.train.tokens.copy()
    damage(tmp_path / "run" / "data" / "train" / "tokens.bin")
    with pytest.raises(
        ValueError, match=r"tokens\.bin is .*: rm -r \S+/run/data \S+/run/tokenizer\.json and"
    ):
        prepare(options(tmp_path), 300, silent)
    shutil.rmtree(tmp_path / "run" / "data")
    (tmp_path / "run" / "tokenizer.json").unlink()
    assert (prepare(options(tmp_path), 300, silent).train.tokens == tokens).all()


def test_a_large_store_is_not_verified_which_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "text")
    prepare(options(tmp_path), 300, silent)
    monkeypatch.setattr(corpus, "VERIFIED", 1)
    said: list[str] = []
    prepare(options(tmp_path), 300, said.append)
    assert [line.split(" and ")[1] for line in said] == ["was not verified"] * 2


def test_an_empty_corpus_names_the_filter_that_dropped_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "short"}\n' * 3)
    with pytest.raises(
        ValueError, match=r"--filter dropped by length: 3 documents, see \S+dropped\.txt; give files"
    ):
        prepare(options(tmp_path, data_path=str(path), filter=True), 300, silent)
    assert (tmp_path / "run" / "data" / "dropped.txt").exists()
    path.write_text('{"body": "long enough"}\n' * 3)
    with pytest.raises(
        ValueError,
        match=r"3 rows or files could not be read, see \S+bad_rows\.jsonl: .* by --field .* \(3 times\); give",
    ):
        prepare(options(tmp_path, data_path=str(path), on_bad="skip"), 300, silent)
    assert len((tmp_path / "run" / "data" / "bad_rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "facts", [{}, {"made_from": 3, "held_out_bytes": 1}, {"made_from": {}, "held_out_bytes": "1"}]
)
def test_a_damaged_corpus_json_is_named(facts: dict, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"corpus.json: expected made_from .* and held_out_bytes .*rm -r"):
        corpus.reopen(tmp_path)
