"""`stages.checkpoint.directories`: names of checkpoint folders, and the renames that publish them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.checkpoint.directories import delete, folder_of, list_complete, make_temporary, publish


def make_folders(run: Path, *names: str) -> None:
    for name in names:
        (run / "checkpoints" / name).mkdir(parents=True)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_list_complete_gives_the_newest_first_without_unfinished_ones(tmp_path: Path) -> None:
    assert list_complete(tmp_path) == []
    make_folders(
        tmp_path,
        "step-00000002",
        "step-00000010",
        "step-00000010.old0",
        "step-00000003.tmp",
        "step-00000004.del",
    )
    make_folders(tmp_path, "step-123456789", "step-1", "other", "step-00000005.old", "step-0000000x")
    found = ["step-123456789", "step-00000010", "step-00000010.old0", "step-00000002"]
    assert names(list_complete(tmp_path)) == found
    assert names(list_complete(tmp_path, 10)) == found[1:3]
    assert list_complete(tmp_path / "checkpoints" / "step-00000002") == [
        tmp_path / "checkpoints" / "step-00000002"
    ]


def test_make_temporary_makes_parents_and_removes_leftovers(tmp_path: Path) -> None:
    run = tmp_path / "a" / "b"
    final = folder_of(run, 7)
    assert make_temporary(final) == run / "checkpoints" / "step-00000007.tmp"
    make_folders(
        run, "step-00000001", "step-00000006.tmp", "step-00000002.del", "step-00000005.old0", "mine.tmp"
    )
    (run / "checkpoints" / "step-00000007.tmp" / "state.msgpack").write_text("half")
    temporary = make_temporary(final)
    assert list(temporary.iterdir()) == []
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {"step-00000007.tmp", "step-00000001", "step-00000005.old0", "mine.tmp"}


def test_a_checkpoint_of_the_same_step_is_renamed_with_a_number(tmp_path: Path) -> None:
    final = folder_of(tmp_path, 7)
    for number in range(3):
        temporary = make_temporary(final)
        (temporary / "n").write_text(str(number))
        publish(temporary, final)
    found = list_complete(tmp_path)
    assert names(found) == ["step-00000007", "step-00000007.old0", "step-00000007.old1"]
    assert [(path / "n").read_text() for path in found] == ["2", "0", "1"]
    delete(found[1])
    assert names(list_complete(tmp_path)) == ["step-00000007", "step-00000007.old1"]


def test_a_file_where_the_run_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        make_temporary(folder_of(tmp_path / "file", 1))
