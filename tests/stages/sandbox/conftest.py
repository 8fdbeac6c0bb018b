"""Fixtures of the sandbox's tests."""

from __future__ import annotations

import pytest

from stages.sandbox import sandbox
from stages.sandbox.sandbox import Isolation


@pytest.fixture(scope="session")
def isolation() -> Isolation:
    """Result of the probe; the test is skipped if no jail can be made here."""
    found = sandbox.probe()
    if not found.complete:
        pytest.skip(found.line)
    return found
