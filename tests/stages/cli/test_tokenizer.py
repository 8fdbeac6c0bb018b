"""`intro2llm tokenizer` trains and saves a tokenizer that Hugging Face's library loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers as huggingface

from data_pipes import tokenizer as tokenizers
from stages.cli.main import main
from tests.stages.small import write_text


def test_a_trained_tokenizer_encodes_as_hugging_face_s_library_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text")
    arguments = ["--data_path", str(text), "--output_dir", str(tmp_path / "out"), "--vocab_size", "280"]
    assert main(["tokenizer", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "280 token ids" in shown
    assert "bytes per token: " in shown
    ours = tokenizers.load(tmp_path / "out")
    theirs = huggingface.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    sample = "def add_3_1(left, right): 4711"
    assert ours.encode(sample) == theirs.encode(sample).ids
    assert len(ours.encode("4711")) == 4  # each digit is a token
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(tokenizers.special_tokens(ours))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", "100"], "vocab_size is 100, but the alphabet"),
        (["--min_frequency", "0"], "--min_frequency: expected at least 1, got 0"),
        (["--workers", "0"], "--workers: expected at least 1, got 0; leave it out for one a core"),
        (["--data_path", "none.txt"], "there is no file or folder none.txt"),
        (["--data_path", ""], "--data_path: expected text, got an empty one"),
        (["--data_path", "/dev/null"], "/dev/null must be a regular file or a folder"),
        (["--data_path", "/proc/self/mem"], "/proc/self/mem: Input/output error"),
        (["--output_dir", __file__], f"{__file__} is a file; name a folder"),
        (["--encoding", "none"], "unknown encoding: none"),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text")
    assert main(
        ["tokenizer", "--data_path", str(text), "--output_dir", str(tmp_path / "out"), *arguments]
    ) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out" / "tokenizer.json").exists()
