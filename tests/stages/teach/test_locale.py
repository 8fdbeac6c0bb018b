"""The catalogues: complete, not stale, and without faults that can be found without reading."""

from __future__ import annotations

import ast
from pathlib import Path

import polib
import pytest

from stages.teach.course import course_modules
from stages.teach.edition import start
from stages.teach.faults import find_faults
from stages.teach.originals import plan_files
from stages.teach.translate import LOCALE, MESSAGES, read_catalogues
from stages.teach.units import collect_units

PATHS = sorted((LOCALE / "zh").glob("*.po"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_translation_has_a_fault(path: Path) -> None:
    faults = [
        (entry.msgid, entry.msgstr, fault)
        for entry in polib.pofile(str(path))
        if entry.msgstr
        for fault in find_faults(entry.msgid, entry.msgstr, path.stem == MESSAGES)
    ]
    assert faults == []


@pytest.mark.parametrize("name", sorted(collect_units()))
def test_each_catalogue_has_all_units_and_no_others(name: str) -> None:
    entries = polib.pofile(str(LOCALE / "zh" / f"{name}.po"))
    fix = "python -m stages.teach.update_catalogues, and translate what is empty"
    assert [entry.msgid for entry in entries] == [entry.text for entry in collect_units()[name]], fix
    assert [entry.msgid for entry in entries if not entry.msgstr] == [], fix


def test_every_catalogue_is_of_the_course() -> None:
    assert {path.stem for path in PATHS} == set(collect_units())


@pytest.mark.parametrize("level", ["steps", "docstring"])
def test_a_translated_edition_has_the_same_code_and_doctests(level: str) -> None:
    english, chinese = (
        plan_files(lang, "steps" if level == "steps" else "docstring") for lang in ("en", "zh")
    )
    assert english.keys() == chinese.keys()
    for path, text in english.items():
        if path.endswith(".py"):
            assert _describe(text) == _describe(chinese[path]), path


def test_start_writes_a_chinese_edition(tmp_path: Path) -> None:
    start(tmp_path / "my", "zh")
    assert len(course_modules()) == len(list((tmp_path / "my").rglob("*.py")))
    assert read_catalogues("zh")["Args:"] in (tmp_path / "my/pure/loss/dpo.py").read_text("utf8")


def _describe(text: str) -> tuple[str, list[str]]:
    """The tree without docstrings, and the lines of the doctests."""
    tree = ast.parse(text)
    lines: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines += [
                line.strip() for line in str(node.value.value).split("\n") if line.strip().startswith(">>>")
            ]
            node.value.value = ""
    return ast.dump(tree), lines
