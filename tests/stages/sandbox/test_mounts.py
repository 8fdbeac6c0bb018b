"""The file system of a jail."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from stages.sandbox import mounts, sandbox
from stages.sandbox.sandbox import Isolation
from tests.stages.sandbox.child_process import run_in_child


def test_library_folders_exist_and_include_pythons() -> None:
    folders = mounts.find_library_folders()
    assert str(Path(os.__file__).parent) in [os.path.normpath(path) for path in folders]
    assert all(os.path.exists(path) for path in folders)


def test_modules_that_need_libraries_can_be_imported(isolation: Isolation) -> None:
    names = ("ssl", "sqlite3", "zlib", "bz2", "lzma", "hashlib", "decimal", "ctypes", "unicodedata")
    present = [name for name in names if importlib.util.find_spec(name)]
    program = f"for name in {present}: __import__(name)\nprint('all')"
    assert sandbox.run_program(program, timeout=20).stdout == "all\n"


def test_a_jail_sees_no_other_files_of_the_host(isolation: Isolation) -> None:
    program = """
import json, os, sys
paths = ["/etc", "/proc/self", "/sys/kernel", "/usr/bin/env", "/bin/sh", "/var", "/boot", "/dev/shm",
         "/dev/tty"]
library = os.path.dirname(os.__file__)
packages = [os.path.join(library, name) for name in ("site-packages", "dist-packages")]
outside = [path for path in paths if os.path.exists(path)]
packages = [os.listdir(path) for path in packages if os.path.isdir(path)]
print(json.dumps([outside, packages, os.getcwd(), os.listdir(), sorted(os.listdir("/tmp"))]))
"""
    outside, packages, current, inside, scratch = json.loads(sandbox.run_program(program, timeout=20).stdout)
    assert outside == []
    assert all(folder == [] for folder in packages)
    assert (current, inside, scratch) == ("/tmp", [], [])


def test_the_disk_of_a_jail_is_bounded(isolation: Isolation) -> None:
    program = """
import errno, os
try:
    for i in range(8):
        with open(str(i), "wb") as file: file.write(bytes(2**18))
except OSError as error:
    print(errno.errorcode[error.errno], sum(os.path.getsize(name) for name in os.listdir()) <= 2**20)
"""
    assert sandbox.run_program(program, disk=2**20, timeout=20).stdout == "ENOSPC True\n"


def test_a_jail_has_the_devices_null_zero_and_urandom(isolation: Isolation) -> None:
    program = """
print(open("/dev/zero", "rb").read(3), len(open("/dev/urandom", "rb").read(5)),
      open("/dev/null", "w").write("x"))
import os
print(os.path.exists("/dev/random"), os.stat("/dev/null").st_rdev == os.makedev(1, 3))
"""
    assert sandbox.run_program(program, timeout=20).stdout == "b'\\x00\\x00\\x00' 5 1\nFalse True\n"


def test_libraries_may_lie_below_the_scratch_folder_and_be_linked(isolation: Isolation) -> None:
    """As those of an interpreter that was unpacked in /tmp."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        (folder / "real" / "site-packages").mkdir(parents=True)
        (folder / "real" / "found.py").write_text("print('found')")
        (folder / "real" / "site-packages" / "hidden.py").write_text("")
        (folder / "link").symlink_to("real")
        output = run_in_child(f"""
import os, sys
sys.path.append({str(folder / "link")!r})
from stages.sandbox import mounts, namespaces
namespaces.enter_namespaces()
mounts.build_root(2**20)
import found
print(os.listdir({str(folder / "real" / "site-packages")!r}), os.path.islink({str(folder / "link")!r}))
open("/tmp/mine", "w").close()
try: open({str(folder / "real" / "mine")!r}, "w")
except OSError as error: print(error.strerror)
""")
    finally:
        shutil.rmtree(folder)
    assert output.splitlines() == ["found", "[] True", "Read-only file system"]
    assert not os.path.exists("/tmp/mine")


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_the_host_keeps_its_mounts(isolation: Isolation) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert sandbox.run_program("print(1)", timeout=20).status == "ok"
    assert Path("/proc/self/mountinfo").read_text() == before
