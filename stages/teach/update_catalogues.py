"""`python -m stages.teach.update_catalogues`: bring the catalogues in line with the source.

New units are added with an empty translation, in the order of reading; those that are no longer in the source
are dropped, with the English and the translation printed, so that a changed paragraph is easily translated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from stages.teach.punctuation import widen_punctuation
from stages.teach.translate import LANGUAGES, LOCALE
from stages.teach.units import Entry, collect_units


def update_catalogues(lang: str, names: Iterable[str] = ()) -> list[str]:
    """Writes the catalogues of a language.

    Args:
        lang: one of `LANGUAGES` but English.
        names: of the catalogues to write; () for all.

    Returns:
        What to print: dropped units, and for each catalogue the number of units without a translation.

    Raises:
        ValueError: for a name that is no catalogue's.
    """
    units = collect_units()
    chosen = tuple(names) or tuple(units)
    for name in chosen:
        if name not in units:
            raise ValueError(f"expected one of {', '.join(units)}, got {name!r}")
    old = {path.stem: _read(path.read_text(encoding="utf-8")) for path in (LOCALE / lang).glob("*.po")}
    known = {text: translation for entries in old.values() for text, translation in entries.items()}
    wanted = {entry.text for entries in units.values() for entry in entries}
    lines: list[str] = []
    for name in chosen:
        for text, translation in old.get(name, {}).items():
            if text not in wanted and translation:
                lines.append(f"{name}: dropped\n  {text}\n  {translation}")
    for name in chosen:
        text = render_catalogue(lang, units[name], known)
        path = LOCALE / lang / f"{name}.po"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        missing = sum(not known.get(entry.text) for entry in units[name])
        lines.append(f"{name}: {len(units[name])} units, {missing} without a translation")
    return lines


def render_catalogue(lang: str, entries: Sequence[Entry], known: Mapping[str, str]) -> str:
    """Returns the text of a catalogue.

    Args:
        lang: its language.
        entries: its units, in order.
        known: unit -> translation, where there is one.
    """
    import polib

    file = polib.POFile(wrapwidth=0)
    file.metadata = {
        "Language": lang,
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=UTF-8",
        "Content-Transfer-Encoding": "8bit",
    }
    for entry in entries:
        translation = widen_punctuation(known.get(entry.text, ""))
        file.append(
            polib.POEntry(
                msgid=entry.text, msgstr=translation, comment=f"{entry.file}: {entry.place}".strip(": ")
            )
        )
    return str(file).rstrip("\n") + "\n"


def _read(text: str) -> dict[str, str]:
    """Unit -> translation of a catalogue."""
    import polib

    return {entry.msgid: entry.msgstr for entry in polib.pofile(text) if not entry.obsolete}


if __name__ == "__main__":
    for language in LANGUAGES[1:]:
        print("\n".join(update_catalogues(language, sys.argv[1:])))
