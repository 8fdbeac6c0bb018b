from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Peer
from transformers import PreTrainedTokenizerFast

from data_pipes.tokenizer import Tokenizer, files, load, save


def test_a_folder_or_a_file(trained: Tokenizer, tmp_path: Path) -> None:
    assert save(trained, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "tokenizer.json"
    assert save(trained, tmp_path / "mine.json") == tmp_path / "mine.json"
    assert load(tmp_path / "new" / "folder").spec == trained.spec
    assert load(str(tmp_path / "mine.json")).spec == trained.spec
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "mine.json",
        "tokenizer.json",
    ]


def test_hugging_face_loads_it(trained: Tokenizer, tmp_path: Path) -> None:
    file = str(save(trained, tmp_path))
    text = "naïve  <|im_end|> text\n"
    assert Peer.from_file(file).encode(text).ids == trained.encode(text, special="all")
    assert PreTrainedTokenizerFast(tokenizer_file=file)(text)["input_ids"] == trained.encode(
        text, special="all"
    )


def test_a_save_that_fails_leaves_the_old_file(
    trained: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(trained, tmp_path)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"save: cannot write the tokenizer .No space left on device.*tokenizer.json"
    ):
        save(trained, tmp_path)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_a_folder_that_cannot_be_made(trained: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write the tokenizer"):
        save(trained, tmp_path / "file" / "folder")


def test_load_refuses(trained: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no .*tokenizer.json; save\(tokenizer, path\) writes one"
    ):
        load(tmp_path)
    file = save(trained, tmp_path)
    with pytest.raises(ValueError, match=r"bytes, more than 100; if you trust it, pass"):
        load(file, max_bytes=100)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"tokenizer.json: .*damaged"):
        load(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"tokenizer.json is not UTF-8 text .* at byte 0"):
        load(tmp_path)
    assert files.MAX_BYTES > 1 << 25
