"""--dry_run: what a run would do is told, and its folder stays as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.cli.main import main
from stages.run import dry_run
from tests.stages.small import flags


def list_files(folder: Path) -> dict[str, bytes]:
    """Path -> contents of every file of a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_described_before_it_starts_and_when_it_would_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["pretrain", *flags(tmp_path, max_steps=None, num_epochs=2)]
    before = list_files(tmp_path)
    assert main([*words, "--dry_run"]) == 0
    assert list_files(tmp_path) == before
    printed = capsys.readouterr().out
    assert re.search("^flags: .* --num_epochs 2 .* --no_compile .*--eval_every 4$", printed, re.MULTILINE), (
        printed
    )
    assert "a batch: tokens [4, 16], labels [4, 16], row [4]" in printed
    assert f"would train 76 steps of 4 rows, and write {tmp_path / 'run'}" in printed
    # Longer text is not tokenized.
    monkeypatch.setattr(dry_run, "CHARACTERS", 1000)
    assert main([*words, "--dry_run"]) == 0
    assert "would train 2 x the rows of the text, 4 a step" in capsys.readouterr().out
    assert main([*words, "--max_steps", "6", "--dry_run"]) == 0
    assert "would train 6 steps of 4 rows" in capsys.readouterr().out
    # A run with checkpoints.
    assert main([*words, "--max_steps", "6", "--save_every", "3"]) == 0
    capsys.readouterr()
    before = list_files(tmp_path)
    assert main([*words, "--max_steps", "6", "--dry_run"]) == 0
    assert f"would resume at step 6 of 6 steps of 4 rows, in {tmp_path / 'run'}" in capsys.readouterr().out
    assert main([*words, "--max_steps", "7", "--dry_run"]) == 2
    assert "--max_steps was 6, is 7" in capsys.readouterr().err
    # A stage after it, with bad rows.
    rows = tmp_path / "rows.jsonl"
    good = '{"prompt": "a", "completion": "b"}\n'
    rows.write_text(good * 30 + '{"prompt": 3}\n')
    words = ["sft", "--model_path", str(tmp_path / "run"), "--data_path", str(rows), "--no_compile"]
    words += ["--output_dir", str(tmp_path / "sft"), "--max_length", "32", "--no_packing", "--dry_run"]
    assert main([*words, "--on_bad", "skip"]) == 0
    printed = capsys.readouterr().out
    assert "data: 24 rows to train on, 6 held out; 1 row skipped\n" in printed
    assert "would train 2 steps of 16 rows" in printed
    assert main(words) == 2
    assert "rows.jsonl:31" in capsys.readouterr().err
    rows.unlink()
    assert list_files(tmp_path) == before
