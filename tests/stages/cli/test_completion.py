"""Completion in a shell: the printed script runs, and completes subcommands, flags, choices and file names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stages.cli.main import main

TRY = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
$(complete -p intro2llm | sed -E 's/.*-F ([^ ]+) .*/\\1/') && echo ${{COMPREPLY[@]}}
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("intro2llm pre", "pretrain preview"),
        ("intro2llm sft --config", "--config_file"),
        ("intro2llm grpo --variant d", "dr_grpo dapo"),
    ],
)
def test_bash_completes(
    words: str, completed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "intro2llm.bash"
    script.write_text(capsys.readouterr().out)
    program = TRY.format(script=script, words=words)
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == completed.split(), done.stderr
    assert "complete -o default -F" in script.read_text()


def test_zsh_has_a_script_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef intro2llm")
    assert re.search(r"; else compdef \S+ intro2llm; fi$", script)  # for eval, outside a file of $fpath


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "SHELL: expected one of bash, zsh, got 'fish'" in capsys.readouterr().err
