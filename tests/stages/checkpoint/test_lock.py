"""`lock_folder`: two processes never use the folder of one run at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.checkpoint.lock import lock_folder

PROGRAM = """
import sys, time
from pathlib import Path
from stages.checkpoint.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_locked_folder_is_refused_until_its_process_has_ended(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with (
        pytest.raises(ValueError, match="in use by another process; wait for it, or choose another"),
        lock_folder(tmp_path),
    ):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for _ in range(2):
        with lock_folder(tmp_path):
            assert (tmp_path / ".lock").exists()


def test_lock_folder_makes_the_folder_or_reports_why_it_cannot(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(OSError, match=r"cannot write into .*file.*; choose another --output_dir"),
            lock_folder(path),
        ):
            pass


def fail(folder: Path, made: str, text: str | None = None) -> None:
    """Fails in a locked folder, after a folder or a file was made in it."""
    with lock_folder(folder):
        if text is None:
            (folder / made).mkdir(parents=True)
        else:
            (folder / made).write_text(text)
        raise KeyError


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyError):
        fail(tmp_path / "kept" / "a" / "b", "data/empty")
    assert list((tmp_path / "kept").iterdir()) == []
    with pytest.raises(KeyError):
        fail(tmp_path / "kept", "data")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [".lock", "data"]  # it was there


def test_a_folder_with_a_file_or_of_a_block_that_ended_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail(tmp_path / "a" / "b", "log", "1")
    with lock_folder(tmp_path / "a" / "c"):
        pass
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "c"]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [".lock", "log"]
