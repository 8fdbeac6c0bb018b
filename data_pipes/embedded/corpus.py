"""The embedded corpus: the source and the documentation that ship with Python itself, so that nothing is
downloaded.

About 12 MB of code and English: the standard library's modules, and the language reference behind
`help("for")`. One tenth of the modules is held out, chosen by their names, so that a model is tested on whole
files that it never saw.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_pipes.digest import hash_fraction
from data_pipes.types import Document

TOPICS = "pydoc_data/topics.py"
HELD_OUT = 0.1
"""Share of the files held out: enough text (about 0.9 MB) for a figure in bits per byte that does not
wobble."""

SMALLEST = 4_000_000
"""Bytes of source below which the library is taken for stripped; CPython 3.10 to 3.14 have 9 to 12
million."""

_LEFT_OUT = frozenset(
    ["test", "encodings", "site-packages", "dist-packages", "__phello__", "lib2to3/tests/data"]
)


def embedded(
    part: Literal["train", "held_out", "all"] = "all",
    *,
    held_out: float = HELD_OUT,
    library: Path | None = None,
) -> Iterator[Document]:
    """Streams the documents of the embedded corpus, sorted by name.

    Args:
        part: "train", "held_out", or "all" of it.
        held_out: share of the files (not of the bytes) that are held out, in [0, 1].
        library: folder of the standard library; None takes that of the running Python.

    Returns:
        Documents named by their path in the library ("asyncio/tasks.py"), and one for each topic of the
        reference ("pydoc_data/topics.py#for"). A given Python gives the same documents in the same order on
        every machine.

    Steps:
        1. List the modules: all *.py but the folder `test` (17 MB of tests), `encodings` (tables, near copies
           of each other, which would leak from one part to the other), packages installed later, and files
           about the build of this very Python.
        2. Refuse a library that has no source.
        3. Keep a file by the hash of its name: sha256's first four bytes as a fraction of 2**32, below
           `held_out` for the held-out part. The topics quote each other, so they stay together, and always in
           the training part.
        4. Read it as Python reads source; the topics as a dictionary of texts.

    Raises:
        ValueError: if part is unknown, or held_out is outside [0, 1].
        FileNotFoundError: if the library is stripped or zipped; the message says what is missing.
    """
    if part not in ("train", "held_out", "all") or not 0 <= held_out <= 1:
        raise ValueError(
            f"embedded: part must be 'train', 'held_out' or 'all', and held_out in [0, 1]; got {part!r}, {held_out}"
        )
    # 1. and 2. The files, all there.
    top = library or Path(sysconfig.get_path("stdlib"))
    found = _complete(top, _modules(top))
    # 3. The part.
    chosen = {
        name: found[name]
        for name in sorted(found)
        if part == "all" or (part == "held_out") == (is_held_out(name, held_out))
    }
    # 4. Texts.
    return (document for name, path in chosen.items() for document in _read(name, path))


def is_held_out(name: str, share: float = HELD_OUT) -> bool:
    """Decides by its name whether a file is held out: the same on every machine, whatever other files there
    are.

    Example:
        sha256("enum.py") begins with 0x101c2b94, which is 0.063 of 2**32:

        >>> is_held_out("enum.py", 0.1), is_held_out("enum.py", 0.05)
        (True, False)
    """
    return name != TOPICS and hash_fraction(name) < share


def _belongs(name: str) -> bool:
    """Which of the library's files are in the corpus."""
    parts = name.split("/")
    folders = {"/".join(parts[:depth]) for depth in range(1, len(parts))} | set(parts[:-1]) & {
        "site-packages"
    }
    built = parts[0].startswith("config-") or parts[-1].startswith("_sysconfigdata")
    return not built and not folders & _LEFT_OUT


def _modules(top: Path) -> dict[str, Path]:
    """All *.py by their names; folders that are left out are not even looked into: installed packages are
    many."""
    found: dict[str, Path] = {}
    for folder, below, files in os.walk(top):
        place = Path(folder).relative_to(top)
        below[:] = [name for name in below if _belongs(f"{(place / name).as_posix()}/_.py")]
        found |= {(place / name).as_posix(): Path(folder, name) for name in files if name.endswith(".py")}
    return found


def _complete(top: Path, found: dict[str, Path]) -> dict[str, Path]:
    """The files that belong, if they are enough of them."""
    kept = {name: path for name, path in found.items() if _belongs(name)}
    size = sum(path.stat().st_size for path in kept.values())
    missing = [
        *(
            []
            if size >= SMALLEST
            else [f"the source of the modules (found {len(kept)} files with {size} bytes)"]
        ),
        *([] if TOPICS in kept else [TOPICS]),
    ]
    if missing:
        raise FileNotFoundError(
            f"embedded: {top} lacks {' and '.join(missing)}; this Python was stripped or zipped. Use a complete one, "
            f"install the rest (Debian, Ubuntu: libpython3-stdlib), or train on text of your own"
        )
    return kept


def _read(name: str, path: Path) -> Iterator[Document]:
    """One document of a module, many of the topics."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(
            f"embedded: {path} is not in the encoding that it declares ({error}); is it damaged?"
        ) from error
    if name != TOPICS:
        yield Document(text, name)
        return
    for topic, words in sorted(_topics(text).items()):
        yield Document(words, f"{name}#{topic}")


def _topics(text: str) -> dict[str, str]:
    """The texts in `topics = {...}`, without running the module."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {str(topic): str(words) for topic, words in ast.literal_eval(node.value).items()}
    raise ValueError(f"embedded: {TOPICS} has no dictionary of topics; is it damaged?")
