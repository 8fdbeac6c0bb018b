"""`intro2llm demo --with my/`: our own bodies pasted in give the bits of `demo`, and the count is right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from stages.cli.main import main
from stages.teach import edition, files, overlay
from stages.teach.cheats import replace_body
from stages.teach.course import COURSE, Exercise
from stages.teach.show import cut_body
from tests.stages.cli.test_demo import flags

EXERCISES = [exercise for chapter in COURSE for exercise in chapter.exercises]
TEN = (
    "merge_word", "rms_norm", "attention", "block", "sample_tokens", "quantize", "sft_take", "dpo_loss",
    "step", "mean",
)  # fmt: skip
"""Ten of ten chapters."""


def run_demo(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the small demo in a process of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "stages.cli.main", "demo", *flags(folder), *more],
        env={**os.environ, "PYTHONPATH": str(files.ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def paste(folder: Path, exercises: Sequence[Exercise]) -> None:
    """Start an edition, and paste our bodies of these exercises into it."""
    edition.start(folder)
    for exercise in exercises:
        path = files.find_answer(folder, exercise.module)
        body = "\n".join(cut_body(files.read_original(exercise.module), exercise.function)) + "\n"
        path.write_text(replace_body(path.read_text("utf8"), exercise.function, body), "utf8")


def read_weights(folder: Path) -> dict[str, bytes]:
    """Read the weights of every stage."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
    assert found
    return found


@pytest.mark.slow
def test_our_own_bodies_give_the_same_bits_and_are_counted(tmp_path: Path) -> None:
    plain = run_demo(tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    assert "are yours" not in plain.stdout
    expected = read_weights(tmp_path / "plain" / "run")
    ten = [exercise for exercise in EXERCISES if exercise.name in TEN]
    for name, chosen, more in (("all", EXERCISES, ()), ("ten", ten, ("--no-ladder",))):
        paste(tmp_path / f"my-{name}", chosen)
        done = run_demo(tmp_path / name, "--with", str(tmp_path / f"my-{name}"), *more)
        assert done.returncode == 0, done.stderr
        names = ", ".join(exercise.name for exercise in chosen)
        line = f"{len(chosen)} of {len(EXERCISES)} exercises are yours: {names}\n"
        assert done.stdout.count(line) == 2
        found = read_weights(tmp_path / name / "run")
        assert found == {path: data for path, data in expected.items() if path in found or not more}


def test_a_function_of_the_learner_is_the_one_that_runs(tmp_path: Path) -> None:
    paste(tmp_path / "my", [exercise for exercise in EXERCISES if exercise.name == "cross_entropy"])
    path = tmp_path / "my" / "pure" / "loss" / "cross_entropy.py"
    text = path.read_text("utf8")
    start = text.index("def cross_entropy")
    body = text.index("    # 1. ", start)
    path.write_text(f"{text[:body]}    raise RuntimeError('mine')\n{text[body:]}", "utf8")
    other = tmp_path / "my" / "pure" / "nn" / "norm.py"
    shutil.copyfile(files.find_original("pure.nn.norm"), other)
    other.write_text(other.read_text("utf8").replace("def rms_norm(x:", "def rms_norm(rows, x:"), "utf8")
    done = run_demo(tmp_path / "run", "--with", str(tmp_path / "my"), "--no-ladder")
    assert done.returncode != 0
    assert "mine" in done.stderr
    told = [line for line in done.stderr.splitlines() if "norm.py" in line]
    assert len(told) == 1
    assert "expected def rms_norm(x, scale, *, eps), got def rms_norm(rows, x, scale, *, eps)" in told[0]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(overlay.VARIABLE, "")
        assert main(["demo", "--with", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["demo", "--with"]) == 2
    assert "--with needs a value" in capsys.readouterr().err
