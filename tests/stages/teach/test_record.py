"""The record of an edition."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.teach.course import find_exercise
from stages.teach.edition import start
from stages.teach.progress import list_progress
from stages.teach.record import (
    RECORD,
    Record,
    Written,
    describe_written,
    digest_answer,
    read_record,
    record_result,
    write_record,
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record("1", "en", "docstring", {"a/b.py": Written("12", {"f": "34"})}, {"f": "34"})
    write_record(tmp_path / "new", record)
    assert read_record(tmp_path / "new") == record


def test_a_written_file_is_described_by_its_bytes_and_functions() -> None:
    written = describe_written("def f(): 1\n")
    assert list(written.functions) == ["f"]
    assert written.sha256 != describe_written("def f(): 1").sha256
    assert describe_written("# A page\n\nText.").functions == {}


def test_a_result_holds_until_the_function_is_changed(tmp_path: Path) -> None:
    start(tmp_path)
    path = tmp_path / "pure/loss/dpo.py"
    left = path.read_text()
    path.write_text(left.replace('raise Unsolved("dpo_loss")', "return 1"))
    exercise = find_exercise("dpo_loss")
    record_result(tmp_path, "dpo_loss", digest_answer(tmp_path, exercise))
    assert sum(chapter.passed for chapter in list_progress(tmp_path).chapters) == 1
    path.write_text(left.replace('raise Unsolved("dpo_loss")', "return 2"))
    progress = list_progress(tmp_path).chapters
    assert (sum(c.solved for c in progress), sum(c.passed for c in progress)) == (1, 0)
    record_result(tmp_path, "dpo_loss", digest_answer(tmp_path, exercise))
    record_result(tmp_path, "dpo_loss", "")
    assert read_record(tmp_path).passed == {}


def test_a_result_holds_until_a_helper_is_changed(tmp_path: Path) -> None:
    start(tmp_path)
    path = tmp_path / "pure/loss/dpo.py"
    top = (
        "\nTABLE = {}\nTABLE[1] = 2\n\n\ndef helper(x):\n    return TABLE\n\n\ndef other(x):\n    return x\n"
    )
    text = path.read_text().replace('raise Unsolved("dpo_loss")', "return helper(1)") + top
    path.write_text(text)
    record_result(tmp_path, "dpo_loss", digest_answer(tmp_path, find_exercise("dpo_loss")))
    for old, new, passed in (
        ("", "", 1),
        ("return x", "return 1", 1),
        ("] = 2", "] = 3", 0),
        ("(x):", "(y):", 0),
    ):
        path.write_text(text.replace(old, new) if old else text)
        assert sum(chapter.passed for chapter in list_progress(tmp_path).chapters) == passed, old


def test_a_folder_without_a_record_is_no_edition(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a student edition"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"version": 1}', "\xff", '{"files": [], "passed": 1}'])
def test_a_damaged_record_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    start(tmp_path)
    (tmp_path / RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"edition\.json is damaged: ") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)
