"""The Chinese pages belong to the English ones, paragraph by paragraph."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType

import pytest

from stages.teach.faults import find_faults
from tests.rules.source import ROOT

FIX = "python docs/translate.py, and translate what is empty in docs/locale/zh"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        return import_module("translate")


def test_every_paragraph_is_translated_and_no_other(pages: ModuleType) -> None:
    for page in pages.PAGES:
        catalogue = pages.read_catalogue(page)
        assert list(catalogue) == [entry.text for entry in pages.list_entries(page)], FIX
        assert [text for text, translation in catalogue.items() if not translation] == [], FIX


def test_the_chinese_page_is_the_one_that_the_catalogue_gives(pages: ModuleType) -> None:
    for page, chinese in pages.PAGES.items():
        assert (ROOT / chinese).read_text(encoding="utf8") == pages.translate_page(page), FIX


def test_no_translation_has_a_fault(pages: ModuleType) -> None:
    for page in pages.PAGES:
        for text, translation in pages.read_catalogue(page).items():
            assert find_faults(text, translation) == [], text
            links = r"\]\(([^)]+)\)"
            ours, theirs = (re.findall(links, each) for each in (text, translation))
            assert sorted(pages.translate_link(page, link) for link in ours) == sorted(theirs), text


def test_blocks_of_code_are_the_same(pages: ModuleType) -> None:
    """So none of `docs/quickstart.zh.md` is run: the build runs those of the English page."""
    for page, chinese in pages.PAGES.items():
        ours, theirs = (
            pages.CODE.findall((ROOT / path).read_text(encoding="utf8")) for path in (page, chinese)
        )
        assert ours == theirs
        assert len(ours) > 3


def test_links_go_to_the_chinese_page_where_there_is_one(pages: ModuleType) -> None:
    assert pages.translate_link("README.md", "docs/quickstart.md") == "docs/quickstart.zh.md"
    assert pages.translate_link("README.md", "README.zh.md") == "README.md"
    assert pages.translate_link("docs/quickstart.md", "quickstart.zh.md") == "quickstart.md"
    assert pages.translate_link("docs/quickstart.md", "../README.md") == "../README.zh.md"
    assert pages.translate_link("docs/quickstart.md", "parallel.md") == "parallel.md"
