"""Fixtures: a corpus, and a tokenizer trained on it."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from data_pipes.tokenizer import Tokenizer, train
from tests.data_pipes.tokenizer.samples import SAMPLES


@pytest.fixture(scope="session")
def library() -> list[str]:
    """Some hundred kilobytes of Python's own source."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("argparse", "ast", "difflib", "typing", "this", "heapq")
    return [(folder / f"{name}.py").read_text(encoding="utf-8") for name in names]


@pytest.fixture(scope="session")
def trained_tokenizer(library: list[str]) -> Tokenizer:
    """A byte-level tokenizer of 1,500 tokens, with the default settings."""
    return train([*library, *SAMPLES], 1500)
