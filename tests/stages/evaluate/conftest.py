"""What the tests of the sandbox share."""

from __future__ import annotations

import pytest

from stages.sandbox import sandbox
from stages.sandbox.sandbox import Isolation


@pytest.fixture(scope="session")
def isolation() -> Isolation:
    """That jails can be made here; the test is skipped if they cannot."""
    found = sandbox.probe()
    if not found.complete:
        pytest.skip(found.line)
    return found
