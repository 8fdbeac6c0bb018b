"""`normalize`: Unicode normal forms equal to Python's, in linear time where Python's take quadratic."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.tokenizer import normal_form as normal_form_module
from data_pipes.tokenizer.normal_form import Form, normalize

FORMS: tuple[Form, ...] = ("NFC", "NFD", "NFKC", "NFKD")
SPECIAL = list(
    "\u0f73\u0f75\u0f81\u0f77\u0344\u0340\ufe0f\u093f\u0301\u0316\u0345\uff9e\uff9fea가\u1100\u1161\u11a8"
)


def list_characters() -> list[str]:
    """All characters but the surrogates."""
    return [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def list_marks() -> list[str]:
    """Characters with a combining class."""
    return [c for c in list_characters() if unicodedata.combining(c)]


def list_changed() -> list[str]:
    """Characters that decompose, but for the syllables of Hangul."""
    kept = (c for c in list_characters() if not 0xAC00 <= ord(c) < 0xD7A4)
    return [c for c in kept if unicodedata.normalize("NFKD", c) != c]


CHARACTERS = (  # made when they are first drawn, not at import
    st.sampled_from(SPECIAL)
    | st.deferred(lambda: st.sampled_from(list_marks()))
    | st.deferred(lambda: st.sampled_from(list_changed()))
    | st.characters(codec="utf8")
)
TEXTS = st.lists(CHARACTERS, max_size=60).map("".join)


@settings(max_examples=500)
@given(st.sampled_from(FORMS), TEXTS, st.sampled_from([1, 2, normal_form_module.LONG_RUN]))
def test_normal_forms_equal_pythons(form: Form, text: str, long_run: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            normal_form_module,
            "RUN",
            regex.compile(
                normal_form_module.RUN.pattern.replace(f"{normal_form_module.LONG_RUN},", f"{long_run},")
            ),
        )
        assert normalize(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize(
    "marks", ["\u0301\u0316", "\u0f73", "\u0f75", "\u0345\u0301\u0316", "\u0344\u0316", "\uff9e\u0301"]
)
@pytest.mark.parametrize("letter", ["", "e", "\u1e69", "\u0958"])
def test_normal_forms_of_long_runs_of_marks_equal_pythons(marks: str, letter: str) -> None:
    text = letter + 40 * marks + letter
    for form in FORMS:
        assert normalize(form, text) == unicodedata.normalize(form, text)


def test_every_character_that_decomposes_to_marks_alone_counts_as_a_mark() -> None:
    """Every other character contains a starter (class 0), where Python's reordering stops."""
    only_marks = [
        c for c in list_characters() if all(map(unicodedata.combining, unicodedata.normalize("NFKD", c)))
    ]
    assert [
        c for c in only_marks if not normal_form_module.RUN.fullmatch(c * normal_form_module.LONG_RUN)
    ] == []


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73", "\u0f75\u0301"])
def test_a_long_run_of_marks_takes_linear_time(marks: str) -> None:
    """Quadratic time would take ten minutes."""
    start = time.perf_counter()
    found = normalize("NFC", "e" + 200_000 * marks)
    assert time.perf_counter() - start < 10
    assert len(found) >= 200_000
