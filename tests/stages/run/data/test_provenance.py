"""Provenance: prepared data is reused only for the same inputs; a moved folder is the same input."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_pipes import tokenizer as tokenizers
from stages.run.data import provenance
from stages.run.options.pretrain import PretrainOptions
from tests.stages.small import write_text


def options(**changes: Any) -> PretrainOptions:
    return PretrainOptions(**changes)


def refusal(was: PretrainOptions, now: PretrainOptions, sizes: tuple[int, int] = (300, 300)) -> str:
    """Message that refuses to use data made with `was` for `now`; "" if it is allowed."""
    inputs = [provenance.describe_inputs(*pair) for pair in zip((was, now), sizes, strict=True)]
    try:
        provenance.refuse_changed(Path("run"), *inputs)
    except ValueError as error:
        return str(error)
    return ""


def test_the_same_inputs_are_accepted(tmp_path: Path) -> None:
    text = str(write_text(tmp_path / "text"))
    assert refusal(options(data_path=text), options(data_path=text)) == ""
    assert refusal(options(), options()) == ""


def test_a_moved_or_copied_folder_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "text")
    monkeypatch.chdir(tmp_path)
    was = options(data_path=str(tmp_path / "text"))
    assert refusal(was, options(data_path="text")) == ""
    shutil.copytree(tmp_path / "text", tmp_path / "copy")
    assert refusal(was, options(data_path="copy")) == ""


def test_a_deleted_source_is_compared_by_its_path(tmp_path: Path) -> None:
    text = str(write_text(tmp_path / "text"))
    before = provenance.describe_inputs(options(data_path=text), 300)
    shutil.rmtree(text)
    provenance.refuse_changed(tmp_path, before, provenance.describe_inputs(options(data_path=text), 300))
    with pytest.raises(ValueError, match="--data_path was"):
        provenance.refuse_changed(
            tmp_path, before, provenance.describe_inputs(options(data_path="elsewhere"), 300)
        )


def test_changed_text_is_refused(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", documents=2)
    before = provenance.describe_inputs(options(data_path=str(text)), 300)
    (text / "2.txt").write_text("more")
    with pytest.raises(
        ValueError, match=r"--data_path was .*text \(2 files, .* bytes\), is .*text \(3 files"
    ):
        provenance.refuse_changed(
            tmp_path, before, provenance.describe_inputs(options(data_path=str(text)), 300)
        )
    (text / "2.txt").unlink()
    os.rename(text / "1.txt", text / "9.txt")
    with pytest.raises(ValueError, match="--data_path was"):
        provenance.refuse_changed(
            tmp_path, before, provenance.describe_inputs(options(data_path=str(text)), 300)
        )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"held_out": 0.2}, "--held_out was 0.05, is 0.2"),
        ({"filter": True}, "--filter was False, is True"),
        ({"field": "body"}, "--field was text, is body"),
        ({"encoding": "latin-1"}, "--encoding was utf-8, is latin-1"),
        ({"data_path": "owner/name"}, "--data_path was embedded, is owner/name"),
    ],
)
def test_changed_flags_are_named(changes: dict[str, Any], expected: str) -> None:
    message = refusal(options(), options(**changes))
    assert expected in message
    assert "Set these back, or choose another --output_dir" in message


def test_tokenizers_are_compared_by_their_contents(tmp_path: Path) -> None:
    one = tokenizers.save(tokenizers.train(["low lower"], 262), tmp_path / "one.json")
    two = tokenizers.save(tokenizers.train(["wide wider"], 262), tmp_path / "two.json")
    copy = shutil.copy(one, tmp_path / "copy.json")
    given = options(tokenizer_path=str(one))
    assert refusal(given, options(tokenizer_path=str(copy))) == ""
    assert "--tokenizer_path was" in refusal(given, options(tokenizer_path=str(two)))
    assert "is one trained here, of 300 ids" in refusal(given, options())
    assert "of 300 ids, is one trained here, of 400 ids" in refusal(options(), options(), (300, 400))


def test_the_tokenizer_of_a_model_is_the_file_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run" / "final_model").mkdir(parents=True)
    found = provenance.tokenizer_path(options(model_path=str(tmp_path / "run")))
    assert found == str(tmp_path / "run" / "final_model" / "tokenizer.json")
    assert provenance.tokenizer_path(options(model_path="m", tokenizer_path="t.json")) == "t.json"
    assert provenance.tokenizer_path(options()) is None
