"""Write generated pages, only where they changed, so that a second build reads little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Make the files of a folder these pages; a page that is the same is not touched.

    Args:
        folder: is made if it does not exist; its other `.rst` and `.md` files are removed.
        pages: file name -> text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*"):
        if path.suffix in (".rst", ".md") and path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf8") != text:
            path.write_text(text, encoding="utf8")


def underline(title: str, character: str = "=") -> str:
    """Return a heading in reStructuredText."""
    return f"{title}\n{character * len(title)}\n"
