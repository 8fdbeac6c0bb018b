"""A write that fails names its file, here on a device that is always full."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from stages.run.answers import NAME
from stages.run.writing import writing
from tests.stages.run.test_answers import make, state
from tests.stages.test_score import ROLLOUTS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_told_with_the_file() -> None:
    with pytest.raises(OSError, match=r"cannot write a\.txt: No space left on device; make room there") as caught:
        _write(Path("a.txt"), Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


def test_a_file_that_may_not_grow_is_told_by_the_recorder(tmp_path: Path) -> None:
    made = make(tmp_path, [])
    made.score(ROLLOUTS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"cannot write .*{NAME}: File too large; make room there"):
            made.observe(state(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), writing(Path("a.txt")):
        raise KeyError("a")


def _write(named: Path, path: Path) -> None:
    with writing(named), path.open("w") as file:
        file.write("x")
