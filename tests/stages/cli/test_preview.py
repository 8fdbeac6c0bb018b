"""`intro2llm preview` shows rows of each stage, and for SFT the share of trained positions."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.cli.main import main
from stages.run.options.tuning import STAGES
from tests.stages.small_stages import write_model, write_rows


@pytest.mark.parametrize("stage", STAGES)
def test_rows_of_each_stage_are_shown_as_the_model_reads_them(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, files = write_model(tmp_path), write_rows(tmp_path)
    flags = ["--model_path", str(model), "--data_path", str(files[stage]), "--stage", stage, "--rows", "2"]
    assert main(["preview", *flags, "--max_length", "64"]) == 0
    out = capsys.readouterr().out
    assert "--- row 1" in out
    assert "<|im_start|>user\nAdd" in out
    assert ("of the positions are trained" in out) == (stage in ("sft", "kto"))
    assert main(["preview", *flags, "--max_length", "24"]) == 0
    assert "rows too long and truncated" in capsys.readouterr().out
    assert main(["preview", *flags, "--batch", "999"]) == 2
    assert "--batch 999" in capsys.readouterr().err
    assert main(["preview", *flags, "--no_packing"]) == (0 if stage == "sft" else 2)
    assert ("only sft packs rows" in capsys.readouterr().err) == (stage != "sft")
