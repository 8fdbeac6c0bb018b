"""`data_pipes.files`: a file or folder is written atomically: complete, or left as it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from data_pipes import files
from data_pipes.files import writing


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"x": [1, None, "é"]})
    assert files.read_json(tmp_path / "a.json") == {"x": [1, None, "é"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_json(tmp_path / "a.json", {"x": 1})

    def fail_for_full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail_for_full_disk)
    with pytest.raises(OSError, match=r"cannot write .*a\.json: No space left on device; make room there"):
        files.write_json(tmp_path / "a.json", {"x": 2})
    assert files.read_json(tmp_path / "a.json") == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_write_new_does_not_replace_a_file(tmp_path: Path) -> None:
    files.write_new(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "a", b"two")
    files.write_atomically(tmp_path / "a", b"three")
    assert b"".join(files.read_blocks(tmp_path / "a")) == b"three"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recording_fsync(descriptor: int) -> None:
        calls.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def recording_rename(old: Path, new: Path) -> None:
        calls.append(f"rename {old.name} {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    files.sync_contents(tmp_path / "new")
    with pytest.raises(OSError, match="not empty"):
        files.publish_folder(tmp_path / "new", tmp_path / "final")
    files.publish_folder(tmp_path / "new", tmp_path / "final", aside=tmp_path / "old")
    assert calls == [
        "fsync file",
        "fsync new",
        "rename new final",
        "rename final old",
        "rename new final",
        f"fsync {tmp_path.name}",
    ]
    assert [(tmp_path / name / "file").read_text() for name in ("final", "old")] == ["new", "final"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON, line 1"),
        (b"\xff{}", "not valid JSON"),
        (b"[1]", "expected a JSON object, got a list"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.json: {message}"):
        files.read_json(tmp_path / "a.json")


def test_a_full_disk_names_the_file() -> None:
    with pytest.raises(
        OSError, match=r"cannot write a\.txt: No space left on device; make room there"
    ) as caught:
        write_with_error_context(Path("a.txt"), Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


def test_other_errors_are_raised_unchanged() -> None:
    with pytest.raises(KeyError), writing(Path("a.txt")):
        raise KeyError("a")


def write_with_error_context(name_in_error: Path, path: Path) -> None:
    with writing(name_in_error), path.open("w") as file:
        file.write("x")
