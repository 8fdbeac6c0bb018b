"""The embedded corpus: source and documentation that ship with Python, so that nothing is downloaded.

About 12 MB of code and English: the standard library's modules, and the language reference that
`help("for")` shows. One tenth of the modules is held out, chosen by a hash of the name, so that a model is
evaluated on complete files that it was not trained on.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from data_pipes.digest import hash_fraction
from data_pipes.types import Document

TOPICS = "pydoc_data/topics.py"
HELD_OUT = 0.1
"""Share of the files held out: about 0.9 MB of text, enough for a stable estimate of bits per byte."""

MIN_SOURCE_BYTES = 4_000_000
"""Smallest size of a complete library, bytes of source; CPython 3.10 to 3.14 have 9 to 12 million."""

_EXCLUDED = frozenset(
    ["test", "encodings", "site-packages", "dist-packages", "__phello__", "lib2to3/tests/data"]
)


def documents(
    part: Literal["train", "held_out", "all"] = "all",
    *,
    held_out: float = HELD_OUT,
    library: Path | None = None,
) -> Iterator[Document]:
    """Streams the documents of the embedded corpus, sorted by name.

    Args:
        part: "train", "held_out", or "all" for both.
        held_out: share of the files (not of the bytes) that are held out, in [0, 1].
        library: folder of the standard library; None for that of the running Python.

    Returns:
        Documents named by their path in the library ("asyncio/tasks.py"), and one for each topic of the
        reference ("pydoc_data/topics.py#for"). A given version of Python gives the same documents in the same
        order on every machine.

    Steps:
        1. List the modules: all *.py except the folder `test` (17 MB of tests), `encodings` (tables that are
           near copies of each other, and would leak from one part to the other), installed packages, and
           files that describe the build of this Python.
        2. Refuse a library that has no source.
        3. Choose files by a hash of the name (`hash_fraction`): those below `held_out` are the held-out part.
           The topics quote each other, so all are in the training split.
        4. Decode each file as Python does; cut the topics file into one document per topic.

    Raises:
        ValueError: if part is unknown, or held_out is outside [0, 1].
        FileNotFoundError: if the library is stripped or zipped; the message says what is missing.
    """
    if part not in ("train", "held_out", "all") or not 0 <= held_out <= 1:
        raise ValueError(
            "embedded: part must be 'train', 'held_out' or 'all', and held_out in [0, 1]; got "
            f"{part!r}, {held_out}"
        )
    top = library or Path(sysconfig.get_path("stdlib"))
    # 1. Modules.
    modules = _list_modules(top)
    # 2. Refuse a stripped library.
    _refuse_incomplete(top, modules)
    # 3. Files of the part.
    names = sorted(modules)
    if part != "all":
        names = [name for name in names if is_held_out(name, held_out) == (part == "held_out")]
    # 4. Texts.
    return (document for name in names for document in _read_documents(name, modules[name]))


def is_held_out(name: str, share: float = HELD_OUT) -> bool:
    """Returns True if a file is held out; only its name matters, so the split is the same on every machine.

    Example:
        sha256("enum.py") begins with 0x101c2b94, which is 0.063 of 2**32:

        >>> is_held_out("enum.py", 0.1), is_held_out("enum.py", 0.05)
        (True, False)
    """
    return name != TOPICS and hash_fraction(name) < share


def _list_modules(top: Path) -> dict[str, Path]:
    """The *.py files of the corpus by name; excluded folders are not entered, as they may hold many files."""
    modules: dict[str, Path] = {}
    for folder, subfolders, files in os.walk(top):
        relative = Path(folder).relative_to(top)
        subfolders[:] = [name for name in subfolders if _is_included((relative / name / "_.py").as_posix())]
        for file in files:
            name = (relative / file).as_posix()
            if file.endswith(".py") and _is_included(name):
                modules[name] = Path(folder, file)
    return modules


def _is_included(name: str) -> bool:
    """True for a file of the corpus: not one that describes the build, nor one in an excluded folder."""
    *folders, file = name.split("/")
    if name.startswith("config-") or file.startswith("_sysconfigdata"):
        return False
    paths = {"/".join(folders[:depth]) for depth in range(1, len(folders) + 1)}
    return "site-packages" not in folders and not paths & _EXCLUDED


def _refuse_incomplete(top: Path, modules: Mapping[str, Path]) -> None:
    """Refuses a library without source or without topics."""
    size = sum(path.stat().st_size for path in modules.values())
    missing = []
    if size < MIN_SOURCE_BYTES:
        missing.append(f"the source of the modules (found {len(modules)} files with {size} bytes)")
    if TOPICS not in modules:
        missing.append(TOPICS)
    if missing:
        raise FileNotFoundError(
            f"embedded: {top} lacks {' and '.join(missing)}; this Python was stripped or zipped. Use a "
            "complete one, install the rest (Debian, Ubuntu: libpython3-stdlib), or train on your own text"
        )


def _read_documents(name: str, path: Path) -> Iterator[Document]:
    """Yields the document of a module, or those of all topics."""
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
    for topic, topic_text in sorted(_parse_topics(text).items()):
        yield Document(topic_text, f"{name}#{topic}")


def _parse_topics(text: str) -> dict[str, str]:
    """The texts in `topics = {...}`, without running the module."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {str(topic): str(entry) for topic, entry in ast.literal_eval(node.value).items()}
    raise ValueError(f"embedded: {TOPICS} has no dictionary of topics; is it damaged?")
