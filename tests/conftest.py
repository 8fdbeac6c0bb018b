"""Crews that the test modules share: one of two processes and one of four, for a whole session of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crew import Crew, lasting_crew


@pytest.fixture(scope="session")
def two() -> Iterator[Crew]:
    with lasting_crew(2) as members:
        yield members


@pytest.fixture(scope="session")
def four() -> Iterator[Crew]:
    with lasting_crew(4) as members:
        yield members
