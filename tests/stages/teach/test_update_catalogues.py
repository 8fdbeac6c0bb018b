"""Updating the catalogues."""

from __future__ import annotations

from pathlib import Path

import polib
import pytest

from stages.teach import update_catalogues as module
from stages.teach.units import Entry
from stages.teach.update_catalogues import render_catalogue, update_catalogues

OLD = (Entry("Adds.", "a.py", "f"), Entry("Changed.", "a.py", "f"), Entry("Moved.", "a.py", "g"))
NEW = (Entry("New.", "a.py", "e"), Entry("Adds.", "a.py", "f"))
KNOWN = {"Adds.": "相加,", "Changed.": "改变。", "Moved.": "移动。"}


@pytest.fixture
def locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "LOCALE", tmp_path)
    monkeypatch.setattr(
        module, "collect_units", lambda: {"01-a": NEW, "02-b": (Entry("Moved.", "b.py", "g"),)}
    )
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "01-a.po").write_text(render_catalogue("zh", OLD, KNOWN), encoding="utf8")
    return tmp_path / "zh"


def _read(path: Path) -> list[tuple[str, str]]:
    return [(entry.msgid, entry.msgstr) for entry in polib.pofile(str(path))]


def test_units_are_added_dropped_and_moved(locale: Path) -> None:
    assert update_catalogues("zh") == [
        "01-a: dropped\n  Changed.\n  改变。",
        "01-a: 2 units, 1 without a translation",
        "02-b: 1 units, 0 without a translation",
    ]
    assert _read(locale / "01-a.po") == [("New.", ""), ("Adds.", "相加，")]
    assert _read(locale / "02-b.po") == [("Moved.", "移动。")]


def test_a_second_update_changes_nothing(locale: Path) -> None:
    update_catalogues("zh")
    texts = [path.read_bytes() for path in sorted(locale.glob("*.po"))]
    update_catalogues("zh")
    assert [path.read_bytes() for path in sorted(locale.glob("*.po"))] == texts


def test_an_unknown_catalogue_is_refused(locale: Path) -> None:
    with pytest.raises(ValueError, match="expected one of 01-a, 02-b, got '3'"):
        update_catalogues("zh", ["3"])
