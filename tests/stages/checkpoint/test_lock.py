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
