"""Bring the Chinese pages in line with the English ones, paragraph by paragraph.

    python docs/translate.py

adds new paragraphs to the catalogues `docs/locale/zh/*.po` with an empty translation, drops those that are gone
(it prints both texts), and writes the pages; a paragraph without a translation stays in English. The terms are
those of `stages/teach/locale/zh/glossary.md`. A block of code with a language is the same in both, and stands in no
catalogue; a link goes to the Chinese page where there is one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import polib

from stages.teach.markdown import split_markdown, translate_markdown
from stages.teach.units import Entry
from stages.teach.update_catalogues import render_catalogue

ROOT = Path(__file__).resolve().parents[1]
PAGES: Mapping[str, str] = MappingProxyType(
    {"README.md": "README.zh.md", "docs/quickstart.md": "docs/quickstart.zh.md"}
)
"""English page -> Chinese page."""

CODE = re.compile(r"^```\w+\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
"""A block of code with a language."""


def catalogue_path(page: str) -> Path:
    """Return the path of an English page's catalogue."""
    return ROOT / "docs" / "locale" / "zh" / f"{Path(page).stem.lower()}.po"


def read_catalogue(page: str) -> dict[str, str]:
    """Read paragraph -> translation of an English page, those without a translation included."""
    path = catalogue_path(page)
    if not path.exists():
        return {}
    return {entry.msgid: entry.msgstr for entry in polib.pofile(str(path), encoding="utf8")}


def list_entries(page: str) -> list[Entry]:
    """List the paragraphs of an English page, each once, with the heading above it."""
    text = (ROOT / page).read_text(encoding="utf8")
    code = set(CODE.findall(text))
    units = [unit for unit in split_markdown(text) if unit.text not in code]
    return list({unit.text: Entry(unit.text, page, unit.place) for unit in units}.values())


def translate_page(page: str) -> str:
    """Return the Chinese page that belongs to an English one."""
    return translate_markdown((ROOT / page).read_text(encoding="utf8"), read_catalogue(page))


def translate_link(page: str, link: str) -> str:
    """Return the link of the Chinese page that belongs to a link of the English one: to the page's own counterpart
    in English, and to the Chinese page of any other that has one."""
    folder = posixpath.dirname(page)
    target = posixpath.normpath(posixpath.join(folder, link))
    counterparts = {**PAGES, PAGES[page]: page}
    return posixpath.relpath(counterparts[target], folder or ".") if target in counterparts else link


def main() -> None:
    """Write the catalogues and the pages."""
    for page, chinese in PAGES.items():
        entries, known = list_entries(page), read_catalogue(page)
        for text in known.keys() - {entry.text for entry in entries}:
            print(f"{page}: dropped\n  {text}\n  {known[text]}")
        catalogue_path(page).parent.mkdir(parents=True, exist_ok=True)
        catalogue_path(page).write_text(render_catalogue("zh", entries, known), encoding="utf8")
        (ROOT / chinese).write_text(translate_page(page), encoding="utf8")
        missing = sum(not known.get(entry.text) for entry in entries)
        print(f"{chinese}: {len(entries)} paragraphs, {missing} without a translation")


if __name__ == "__main__":
    main()
