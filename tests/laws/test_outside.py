"""Input of other libraries is read as they mean it, or refused: a test for each form in `tests/outside`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.outside.form import Form, difference, judge
from tests.outside.table import all_forms

FORMS = all_forms()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}: {form.name}")
def test_a_form_is_read_right_or_refused(form: Form, tmp_path: Path) -> None:
    verdict = judge(form, tmp_path)
    assert verdict.outcome == ("refused" if form.refused else "right"), verdict.detail


def test_names_of_forms_are_unique() -> None:
    names = [(form.kind, form.name) for form in FORMS]
    assert len(names) == len(set(names))


def test_the_judge_reports_differences_and_errors() -> None:
    assert not difference({"a": [1.0, "x"]}, {"a": [1.0, "x"]})
    for ours in ({"a": [1.1, "x"]}, {"a": [1.0, "y"]}, {"a": [1.0]}, {"b": [1.0, "x"]}, [1.0, "x"], None):
        assert difference(ours, {"a": [1.0, "x"]}), ours
    raises = Form("row", "n", "w", lambda _: 1, lambda _: [].pop())
    assert judge(raises, Path()).outcome == "error"
    assert judge(raises._replace(ours=lambda _: 2), Path()).outcome == "different"
    assert judge(raises._replace(ours=lambda _: 1, refused="x"), Path()).outcome == "different"
