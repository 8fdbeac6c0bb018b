"""Run code that changes its process irrevocably in a child process, started like a jail's first process."""

from __future__ import annotations

import subprocess
import sys

from stages.sandbox import supervisor

BEGIN = supervisor.START.rpartition("from stages")[0]


def run_in_child(code: str) -> str:
    """Run code, which may import modules that run inside a jail; return its output.

    An error in the code fails the test.
    """
    answer = subprocess.run(
        [sys.executable, "-s", "-S", "-c", BEGIN + code, supervisor.FOLDER],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()
