"""Languages of the edition."""

from __future__ import annotations

import pytest

from stages.teach.translate import LANGUAGES, translate


def test_english_is_the_text_itself_and_a_language_without_texts_is_refused() -> None:
    assert translate("added {path}", "en") == "added {path}"
    assert "en" in LANGUAGES
    with pytest.raises(ValueError, match="not in 'de'"):
        translate("added {path}", "de")
