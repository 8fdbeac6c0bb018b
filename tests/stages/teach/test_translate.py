"""Languages of the edition."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stages.teach import translate as module
from stages.teach.messages import Sentence
from stages.teach.translate import (
    LANGUAGES,
    find_language,
    read_catalogue,
    read_catalogues,
    say_error,
    translate,
)


@pytest.fixture
def locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two small catalogues in the place of ours."""
    monkeypatch.setattr(module, "LOCALE", tmp_path)
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "messages.po").write_text(
        'msgid "added {path}"\nmsgstr "已添加 {path}"\n', encoding="utf8"
    )
    text = 'msgid "Adds."\nmsgstr "相加。"\n\nmsgid "Empty."\nmsgstr ""\n'
    (tmp_path / "zh" / "01-tokenizer.po").write_text(text, encoding="utf8")
    for memo in (read_catalogue, read_catalogues):
        memo.cache_clear()
    yield
    for memo in (read_catalogue, read_catalogues):
        memo.cache_clear()


def test_english_is_the_text_itself_and_a_language_without_texts_is_refused() -> None:
    assert translate("added {path}", "en") == "added {path}"
    assert LANGUAGES == ("en", "zh")
    for read in (lambda: translate("added {path}", "de"), lambda: read_catalogues("de")):
        with pytest.raises(ValueError, match="not in 'de'"):
            read()


@pytest.mark.usefixtures("locale")
def test_a_message_is_translated_and_without_a_translation_stays_english() -> None:
    assert translate("added {path}", "zh").format(path="x.py") == "已添加 x.py"
    assert translate("Adds.", "zh") == "相加。"
    assert translate("no such sentence", "zh") == "no such sentence"


@pytest.mark.usefixtures("locale")
def test_an_error_with_a_sentence_is_translated() -> None:
    outer = Sentence("added {path}", {"path": Sentence("Adds.", {})})
    error = FileExistsError(outer)
    assert str(error) == "added Adds."
    assert say_error(error, "zh") == "已添加 相加。"
    assert say_error(ValueError("plain {x}"), "zh") == "plain {x}"
    assert say_error(ValueError(), "zh") == ""


@pytest.mark.parametrize(
    ("environment", "lang"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW", "LC_ALL": "en_GB.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANGUAGE": "zh:en", "LC_ALL": "C"}, "zh"),
    ],
)
def test_the_language_of_the_user_is_that_of_the_environment(environment: dict[str, str], lang: str) -> None:
    assert find_language(environment) == lang


@pytest.mark.usefixtures("locale")
def test_all_catalogues_are_read_as_one_without_empty_entries() -> None:
    assert read_catalogues("zh") == {"added {path}": "已添加 {path}", "Adds.": "相加。"}
    assert read_catalogues("en") == {}


@pytest.mark.usefixtures("locale")
def test_without_polib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any) -> ModuleType:
        if name == "polib":
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "polib", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ModuleNotFoundError, match=r'pip install "intro2llm\[exercises\]", or start with --lang en'
    ):
        translate("added {path}", "zh")
    assert translate("added {path}", "en") == "added {path}"
