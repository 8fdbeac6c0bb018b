"""Threads spin briefly unless the user says how long."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_spin_briefly_unless_the_user_says_how_long(variables: dict[str, str], expected: str) -> None:
    code = (
        "import os; from stages.cli.main import main; main(['help']); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    printed = subprocess.check_output([sys.executable, "-c", code], env={**kept, **variables}, text=True)
    assert printed.splitlines()[-1] == expected
