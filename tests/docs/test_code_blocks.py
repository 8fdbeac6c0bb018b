"""Blocks of code in the documentation: the build runs each of them, and a false output is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.extensions.code_blocks import (
    ELSEWHERE,
    LANGUAGES,
    commands_agree,
    find_blocks,
    find_mistakes,
    run_page,
)
from tests.rules.source import ROOT

PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.stem not in ELSEWHERE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_language_that_the_build_runs(page: Path) -> None:
    blocks = find_blocks(page.read_text(encoding="utf8"))
    assert [block for block in blocks if block.language not in LANGUAGES] == []


def test_every_page_is_named_in_the_index() -> None:
    named = (ROOT / "docs" / "index.md").read_text(encoding="utf8").split("\n")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(pages - set(named)) == []


def test_every_test_that_runs_a_page_in_place_of_the_build_names_it() -> None:
    for page, test in ELSEWHERE.items():
        assert (ROOT / "docs" / f"{page}.md").exists()
        assert f"{page}.md" in (ROOT / test).read_text(encoding="utf8")


def page_of(language: str, text: str) -> str:
    return f"# Page\n\n```{language}\n{text}```\n"


@pytest.mark.parametrize(
    ("language", "text", "got"),
    [
        ("python", ">>> 1 + 1\n3\n", "2"),
        ("python", ">>> [][0]\n1\n", "IndexError"),
        ("python", "import nothing_of_this_name\n", "nothing_of_this_name"),
        ("console", "$ echo one\ntwo\n", "one"),
        ("bash", "intro2llm sft --bata 1\n", "--bata"),
        ("bash", "intro2llm sfd\n", "sfd"),
        ("bash", "python benchmarks/no_such_file.py\n", "no_such_file.py"),
        ("yaml", "a: 1\n", "yaml"),
    ],
)
def test_a_block_that_fails_is_reported_with_its_line(language: str, text: str, got: str) -> None:
    (failure,), _ = run_page("page", page_of(language, text))
    assert failure.line == 4
    assert got in failure.message


def test_blocks_of_a_page_share_names_and_a_folder() -> None:
    text = (
        page_of("python", "# my_file.py\nX = 2\n")
        + page_of("python", ">>> x = 1\n")
        + page_of("console", "$ cat my_file.py | tail -n 1\nX = 2\n")
        + page_of("python", ">>> x\n1\n\n>>> import os\n>>> os.path.exists('my_file.py')\nTrue\n")
    )
    assert run_page("page", text) == ([], text)


def test_the_output_that_was_printed_is_written_into_the_page() -> None:
    text = page_of("python", ">>> 1 + 1\n>>> for i in range(2):\n...     i\n\n>>> 'x'\n'y'\n")
    written = page_of("python", ">>> 1 + 1\n2\n>>> for i in range(2):\n...     i\n0\n1\n\n>>> 'x'\n'x'\n")
    assert run_page("page", text)[1] == written


def test_speeds_are_not_compared_and_decimal_numbers_nearly() -> None:
    assert commands_agree("loss 2.50 · 1,200 tok/s", "loss 2.51 · 90 tok/s")
    assert not commands_agree("loss 2.50 · 1,200 tok/s", "loss 3.51 · 1,200 tok/s")
    assert not commands_agree("rows 12", "rows 13")
    assert commands_agree("a ... z", "a 1.5 z")
    assert commands_agree("a ... loss 2.50 (best)", "a 1.5 loss 2.51 (best)")
    assert not commands_agree("a ... loss 2.50", "a 1.5 loss 3.51")
    assert commands_agree("step 1/9 · a\nstep 9/9 · b\n", "step 1/9 · a\nstep 4/9 · c\nstep 9/9 · b\n")
    assert not commands_agree("step 1/9 · a\nstep 9/9 · b\n", "step 1/9 · a\n")


def test_commands_that_are_not_run_have_right_flags() -> None:
    assert list(find_mistakes("intro2llm launch 2 sft --model_path x --learning_rate 1e-3")) == []
    assert list(find_mistakes("pip install -e '.[docs]'")) == []
