"""Tests of this folder leave out XLA's expensive passes, which take most of their time."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(quick_xla: None) -> None:
    """Applies `quick_xla` of the root's conftest to each file (a folder's scope is the session)."""
