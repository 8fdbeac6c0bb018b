"""Runs of many processes (`stages.run.processes`, `stages.run.parallel`): the numbers of one, one message.

All end with the same exit code, and no wait is without an end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.cli.main import main
from tests.stages.children import join_all, start_joined
from tests.stages.small import flags, rows


def printed(folder: Path, ending: str) -> list[list[str]]:
    """The lines that each process printed."""
    paths = sorted(folder.glob(f"*.{ending}"))
    return [[line for line in path.read_text().splitlines() if line] for path in paths]


def assert_refused(folder: Path, arguments: list, message: str, code: int = 2, **options: object) -> None:
    """Asserts that two processes exit with `code`, and that process 0 alone prints one line with `message`."""
    assert join_all(start_joined(2, folder / "out", arguments, **options)) == [code, code]
    first, second = printed(folder / "out", "err")
    assert second == []
    assert len(first) == 1, first
    assert message in first[0], first[0]
    assert first[0].startswith("intro2llm ")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, and its text."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["pretrain", *flags(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def two(alone: Path) -> Path:
    """The same run on two processes."""
    assert join_all(start_joined(2, alone / "out", flags(alone, output_dir=alone / "two"))) == [0, 0]
    return alone


def test_two_processes_have_the_numbers_of_one(two: Path) -> None:
    expected, got = rows(two / "run"), rows(two / "two")
    assert [row["step"] for row in got] == list(range(1, 13))
    for one, other in zip(expected, got, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-4), name
    assert json.loads((two / "two" / "metrics.jsonl").read_text().splitlines()[3])["tok_per_sec"] > 0


def test_only_the_first_process_prints(two: Path) -> None:
    first, second = printed(two / "out", "out")
    assert first[-1] == f"final model: {two / 'two' / 'final_model'} (step 12)"
    assert sum(line.startswith("step 4: val_loss") for line in first) == 1
    assert second == []
    assert printed(two / "out", "err") == [[], []]


def test_a_complete_run_is_left_as_it_is_by_another_number_of_processes(two: Path) -> None:
    before = (two / "two" / "metrics.jsonl").read_bytes()
    assert main(["pretrain", *flags(two, output_dir=two / "two")]) == 0
    assert (two / "two" / "metrics.jsonl").read_bytes() == before


def test_flags_that_cannot_work_are_refused_once(alone: Path, tmp_path: Path) -> None:
    own = {"output_dir": tmp_path / "run"}
    assert_refused(
        tmp_path, flags(alone, batch_size=1, **own), "--batch_size 1: 1 rows for 2 processes; give at least"
    )
    assert_refused(
        tmp_path,
        flags(alone, gradient_accumulation=4, **own),
        "--batch_size 4 in 4 micro-batches (--gradient_accumulation 4) leaves 1 rows for 2 processes",
    )
    assert_refused(tmp_path, [*flags(alone, **own), "--lerning", "1"], "--lerning: unknown flag")
    assert not (tmp_path / "run").exists()


def test_other_flags_on_one_process_are_refused_by_name(alone: Path, tmp_path: Path) -> None:
    own = {"output_dir": tmp_path / "run"}
    assert_refused(
        tmp_path,
        [flags(alone, **own), flags(alone, seed=1, **own)],
        "process 1 differs from process 0 in flags and code: --seed is 1, not 0; start all processes",
    )
    assert_refused(tmp_path, [flags(alone, **own), ["--lerning", "1"]], "--lerning: unknown flag")


def test_a_folder_in_use_is_refused_once(alone: Path, tmp_path: Path) -> None:
    from stages.checkpoint.lock import lock_folder

    with lock_folder(tmp_path / "run"):
        assert_refused(tmp_path, flags(alone, output_dir=tmp_path / "run"), "is in use by another process")


@pytest.mark.parametrize("subcommand", ["replay", "generate", "demo", "chat"])
def test_subcommands_of_one_process_are_refused_by_name(subcommand: str, tmp_path: Path) -> None:
    message = (
        f"intro2llm {subcommand}: it runs in one process, and WORLD_SIZE is 2; start it without torchrun"
    )
    assert_refused(tmp_path, ["--help"], message, subcommand=subcommand)
