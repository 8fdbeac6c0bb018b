"""Units of all that a learner reads."""

from __future__ import annotations

from stages.teach.course import COURSE
from stages.teach.originals import CHAPTERS
from stages.teach.units import collect_units


def test_each_unit_is_an_entry_of_one_catalogue() -> None:
    units = collect_units()
    texts = [entry.text for entries in units.values() for entry in entries]
    assert len(texts) == len(set(texts)) > 1500
    chapters = [f"{chapter.number:02}-{chapter.name}" for chapter in COURSE if chapter.exercises]
    assert list(units) == ["messages", "chapters", *chapters]


def test_messages_pages_docstrings_and_steps_are_in_them() -> None:
    units = collect_units()
    places = {(entry.text, entry.file, entry.place) for entries in units.values() for entry in entries}
    assert ("added {path}", "stages/teach/edition.py", "ADDED") in places
    title = (CHAPTERS / "01-tokenizer.md").read_text(encoding="utf8").split("\n")[0].removeprefix("# ")
    assert (title, "chapters/01-tokenizer.md", title) in places
    assert ("Computes the loss of each pair.", "pure/loss/dpo.py", "dpo_loss") in places
    assert ("Log-ratios [B].", "pure/loss/dpo.py", "dpo_loss") in places
    assert ("-log σ(z), for labels that may be wrong.", "pure/loss/dpo.py", "_logistic") in places


def test_the_entries_of_a_catalogue_are_in_the_order_of_reading() -> None:
    entries = [entry for entry in collect_units()["08-losses"] if entry.file == "pure/loss/dpo.py"]
    order = [entry.place.partition(" ")[0] for entry in entries if entry.place]
    assert order.index("DPO") < order.index("dpo_loss") < order.index("_logistic")
