"""A run writes its page at its end, also one that diverged; the environment turns that off."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.cli import train
from stages.cli.main import main
from stages.report.record import read_run
from tests.stages.small import flags


def test_a_run_writes_its_page_and_what_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "run" / "report.html"
    assert main(["pretrain", *flags(tmp_path, max_steps=2)]) == 0
    assert not page.exists()
    monkeypatch.setenv(train.PAGE, "1")
    assert main(["pretrain", *flags(tmp_path, max_steps=2)]) == 0  # it was complete
    assert "report.html" not in capsys.readouterr().out
    text = page.read_text()
    assert "complete after 2 steps" in text
    assert "in 2 sessions" in text
    assert list(read_run(tmp_path / "run").curves)[:2] == ["loss", "grad_norm"]


def test_a_run_that_diverged_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": "nan"}\n')
    written: list[Path | str] = []

    def fail(*_: object, **__: object) -> None:
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr("stages.run.train.train", fail)
    monkeypatch.setattr(train, "write_page", lambda folder, say: written.append(folder))
    assert main(["pretrain", *flags(tmp_path, output_dir=tmp_path)]) == 1
    assert written == [str(tmp_path)]
