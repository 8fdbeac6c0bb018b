"""`tokenizer.files`: `save` and `load` of tokenizer.json, alone or in a folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import PreTrainedTokenizerFast

from data_pipes.tokenizer import Tokenizer, files, load, save


def test_a_tokenizer_is_saved_to_and_loaded_from_a_folder_or_a_file(
    trained_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert (
        save(trained_tokenizer, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "tokenizer.json"
    )
    assert save(trained_tokenizer, tmp_path / "mine.json") == tmp_path / "mine.json"
    assert load(tmp_path / "new" / "folder").spec == trained_tokenizer.spec
    assert load(str(tmp_path / "mine.json")).spec == trained_tokenizer.spec
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "mine.json",
        "tokenizer.json",
    ]


def test_hugging_face_loads_a_saved_tokenizer(trained_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = str(save(trained_tokenizer, tmp_path))
    text = "naïve  <|im_end|> text\n"
    assert HuggingFaceTokenizer.from_file(file).encode(text).ids == trained_tokenizer.encode(
        text, special="all"
    )
    assert PreTrainedTokenizerFast(tokenizer_file=file)(text)["input_ids"] == trained_tokenizer.encode(
        text, special="all"
    )


def test_a_save_that_fails_leaves_the_old_file(
    trained_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(trained_tokenizer, tmp_path)
    before = file.read_bytes()

    def fail_for_full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail_for_full_disk)
    with pytest.raises(
        OSError, match=r"save: cannot write the tokenizer .No space left on device.*tokenizer.json"
    ):
        save(trained_tokenizer, tmp_path)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_a_folder_that_cannot_be_made_is_refused(trained_tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write the tokenizer"):
        save(trained_tokenizer, tmp_path / "file" / "folder")


def test_load_refuses_missing_large_and_damaged_files(trained_tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no .*tokenizer.json; save\(tokenizer, path\) writes one"
    ):
        load(tmp_path)
    file = save(trained_tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"bytes, more than 100; if you trust it, pass"):
        load(file, max_bytes=100)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"tokenizer.json: .*damaged"):
        load(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"tokenizer.json is not UTF-8 text .* at byte 0"):
        load(tmp_path)
    assert files.MAX_BYTES > 1 << 25
