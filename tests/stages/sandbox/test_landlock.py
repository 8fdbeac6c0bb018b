"""Landlock alone, without the other layers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from stages.sandbox import landlock
from tests.stages.sandbox.child_process import run_in_child

CODE = """
import os, sys
from stages.sandbox import landlock
from stages.sandbox.kernel import PR_SET_NO_NEW_PRIVS, prctl
prctl(PR_SET_NO_NEW_PRIVS, 1)
library, scratch, other = {folders!r}
print(landlock.restrict([library], ["/dev/null"], scratch))
def tells(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"
print(tells(open, library + "/file"), tells(os.listdir, library), tells(open, library + "/new", "w"))
print(tells(open, other + "/file"), tells(os.listdir, other), tells(open, other + "/new", "w"))
print(tells(open, scratch + "/new", "w"), tells(os.mkdir, scratch + "/d"), tells(os.symlink, "a", scratch + "/l"))
print(tells(os.mkfifo, scratch + "/p"), tells(os.execv, sys.executable, ["x"]), tells(open, "/dev/null", "w"))
print(tells(open, "/dev/zero"))
"""


def test_only_the_named_paths_are_allowed(tmp_path: Path) -> None:
    if not landlock.version():
        pytest.skip("the kernel has no Landlock")
    folders = [str(tmp_path / name) for name in ("library", "scratch", "other")]
    for folder in folders:
        Path(folder).mkdir()
        Path(folder, "file").write_text("text")
    lines = run_in_child(CODE.format(folders=folders)).splitlines()
    no = "PermissionError"
    assert lines[0] == str(landlock.version())
    assert lines[1:] == [f"done done {no}", f"{no} {no} {no}", "done done done", f"{no} {no} done", no]


def test_without_landlock_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert landlock.restrict(["/"], [], tempfile.gettempdir()) == 0


def test_rights_by_version() -> None:
    """The kernel's documentation: 13 at first, then refer, truncate, and ioctl on devices."""
    assert landlock.RIGHTS[1:6] == (13, 14, 15, 15, 16)
