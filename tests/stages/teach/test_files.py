"""Files of the course are read whatever their form; what cannot be read is one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.teach.files import (
    ROOT,
    find_answer,
    find_original,
    read_answer,
    read_original,
    read_parsed,
)
from stages.teach.messages import Sentence

MODULE = "pure.loss.dpo"
TEXT = "x = 1\n\n\ndef f():\n    return x\n"


def test_our_source_is_read_without_an_import() -> None:
    assert find_original(MODULE) == ROOT / "pure/loss/dpo.py"
    assert read_original(MODULE) == (ROOT / "pure/loss/dpo.py").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("data", "bom", "ending"),
    [
        (TEXT.encode(), False, "\n"),
        (b"\xef\xbb\xbf" + TEXT.encode(), True, "\n"),
        (TEXT.replace("\n", "\r\n").encode(), False, "\r\n"),
        (TEXT.replace("\n", "\r").encode(), False, "\n"),
    ],
)
def test_an_answer_is_read_whatever_its_form(tmp_path: Path, data: bytes, bom: bool, ending: str) -> None:
    path = find_answer(tmp_path, MODULE)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert read_answer(tmp_path, MODULE) == (path, TEXT, bom, ending)
    assert read_parsed(tmp_path, MODULE).text == TEXT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: None,
            "pure/loss/dpo.py is missing; `intro2llm exercises start {folder}` writes it again",
        ),
        (lambda path: path.mkdir(), "pure/loss/dpo.py cannot be read: it is a folder"),
        (
            lambda path: path.write_bytes("# 中\n".encode("gbk")),
            "pure/loss/dpo.py cannot be read: not UTF-8, byte 2; save it as UTF-8",
        ),
        (lambda path: path.write_text("x = (\n"), "pure/loss/dpo.py, line 1: '(' was never closed"),
        (
            lambda path: path.write_text("\0"),
            "pure/loss/dpo.py, line 1: source code string cannot contain null",
        ),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = find_answer(tmp_path, MODULE)
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(ValueError, match=r"pure/loss/dpo\.py") as caught:
        read_parsed(tmp_path, MODULE)
    assert isinstance(caught.value.args[0], Sentence)
    assert str(caught.value).startswith(message.format(folder=tmp_path))


def test_the_checks_process_imports_no_catalogues() -> None:
    """It starts in less time without them."""
    code = (
        "import sys, stages.teach.files, stages.teach.overlay, stages.teach.text_check; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "stages.teach.overlay" in loaded
    assert not loaded & {
        "stages.teach.translate",
        "stages.teach.originals",
        "polib",
        "data_pipes.files",
        "torch",
    }
