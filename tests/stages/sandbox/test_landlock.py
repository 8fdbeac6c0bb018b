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
def try_to(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"
print(try_to(open, library + "/file"), try_to(os.listdir, library), try_to(open, library + "/new", "w"))
print(try_to(open, other + "/file"), try_to(os.listdir, other), try_to(open, other + "/new", "w"))
print(try_to(open, scratch + "/new", "w"), try_to(os.mkdir, scratch + "/d"),
      try_to(os.symlink, "a", scratch + "/l"))
print(try_to(os.mkfifo, scratch + "/p"), try_to(os.execv, sys.executable, ["x"]),
      try_to(open, "/dev/null", "w"))
print(try_to(open, "/dev/zero"))
"""


def test_only_the_named_paths_are_allowed(tmp_path: Path) -> None:
    if not landlock.version():
        pytest.skip("the kernel has no Landlock")
    folders = [str(tmp_path / name) for name in ("library", "scratch", "other")]
    for folder in folders:
        Path(folder).mkdir()
        Path(folder, "file").write_text("text")
    lines = run_in_child(CODE.format(folders=folders)).splitlines()
    denied = "PermissionError"
    assert lines[0] == str(landlock.version())
    assert lines[1:] == [
        f"done done {denied}",
        f"{denied} {denied} {denied}",
        "done done done",
        f"{denied} {denied} done",
        denied,
    ]


def test_without_landlock_restrict_returns_version_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert landlock.restrict(["/"], [], tempfile.gettempdir()) == 0


def test_the_number_of_rights_grows_with_the_version() -> None:
    """The kernel's documentation: 13 at first, then refer, truncate, and ioctl on devices."""
    assert landlock.RIGHTS[1:6] == (13, 14, 15, 15, 16)
