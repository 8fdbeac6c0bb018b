"""Code that changes its process for good, run in one of its own, as a jail's first process is started."""

from __future__ import annotations

import subprocess
import sys

from stages.sandbox import supervisor

BEGIN = supervisor.START.rpartition("from stages")[0]


def apart(code: str) -> str:
    """Runs code that may import the modules of the inside; what it printed. An error in it fails the test."""
    answer = subprocess.run(
        [sys.executable, "-s", "-S", "-c", BEGIN + code, supervisor.FOLDER],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()
