"""Normal forms: equal to Python's, and linear where Python's are quadratic."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.tokenizer import normal_form as module
from data_pipes.tokenizer.normal_form import Form, normalize

FORMS: tuple[Form, ...] = ("NFC", "NFD", "NFKC", "NFKD")
EVERY = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
MARKS = [c for c in EVERY if unicodedata.combining(c)]
CHANGED = [c for c in EVERY if unicodedata.normalize("NFKD", c) != c and not 0xAC00 <= ord(c) < 0xD7A4]
SPECIAL = list(
    "\u0f73\u0f75\u0f81\u0f77\u0344\u0340\ufe0f\u093f\u0301\u0316\u0345\uff9e\uff9fea가\u1100\u1161\u11a8"
)
CHARACTERS = (
    st.sampled_from(SPECIAL) | st.sampled_from(MARKS) | st.sampled_from(CHANGED) | st.characters(codec="utf8")
)
TEXTS = st.lists(CHARACTERS, max_size=60).map("".join)


@settings(max_examples=500)
@given(st.sampled_from(FORMS), TEXTS, st.sampled_from([1, 2, module.LONG_RUN]))
def test_equal_to_pythons(form: Form, text: str, long: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "RUN", regex.compile(module.RUN.pattern.replace(f"{module.LONG_RUN},", f"{long},"))
        )
        assert normalize(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize(
    "marks", ["\u0301\u0316", "\u0f73", "\u0f75", "\u0345\u0301\u0316", "\u0344\u0316", "\uff9e\u0301"]
)
@pytest.mark.parametrize("letter", ["", "e", "\u1e69", "\u0958"])
def test_equal_on_runs_of_marks(marks: str, letter: str) -> None:
    text = letter + 40 * marks + letter
    for form in FORMS:
        assert normalize(form, text) == unicodedata.normalize(form, text)


def test_whatever_becomes_marks_alone_belongs_to_a_run() -> None:
    """All others have a character of class 0, before which Python's insertion ends."""
    alone = [c for c in EVERY if all(map(unicodedata.combining, unicodedata.normalize("NFKD", c)))]
    assert [c for c in alone if not module.RUN.fullmatch(c * module.LONG_RUN)] == []


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73", "\u0f75\u0301"])
def test_a_long_run_of_marks_takes_no_longer_than_its_length(marks: str) -> None:
    """Quadratic time would be ten minutes."""
    began = time.perf_counter()
    found = normalize("NFC", "e" + 200_000 * marks)
    assert time.perf_counter() - began < 10
    assert len(found) >= 200_000
