"""Extension of Sphinx: docstrings of this project, and a process that runs the blocks of code of the pages."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.environment import CONFIG_OK
from sphinx.util import logging

from docs.extensions.docstrings import SOURCE_FILE, translate

LOGGER = logging.getLogger(__name__)
OUTSIDE = re.compile(r"\[[^\]]+\]\(\.\./([^)#\s]+)[^)\s]*\)")
"""A link of Markdown to a file above `docs`."""

EARLY = 400
"""Priority of a handler that is called before those of other extensions, which have 500."""

LONGEST = 4
"""Pages whose seconds are shown."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the handlers."""
    app.connect("autodoc-process-docstring", translate_docstring, EARLY)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("doctree-read", link_files)
    app.connect("doctree-read", qualify_names)
    app.connect("source-read", unlink_outside)
    blocks = Blocks()
    app.connect("builder-inited", blocks.start, EARLY)
    app.connect("build-finished", blocks.finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def translate_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Translate a docstring to reStructuredText, in place.

    napoleon takes the text before a colon in the first line of a constant's or a field's docstring for its type:
    an empty comment, which has no colon, is put before it.
    """
    lines[:] = [*(["..", ""] if what in ("attribute", "data", "property") else []), *translate(lines)]


def skip_member(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which the section Fields describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Link each path of a source file, such as `pure/loss/dpo.py`, to its page of the API."""
    for node in list(doctree.findall(nodes.literal)):
        found = SOURCE_FILE.match(node.astext())
        if found and not isinstance(node.parent, (nodes.reference, addnodes.pending_xref)):
            target = found[1].replace("/", ".")
            link = addnodes.pending_xref("", refdomain="py", reftype="mod", reftarget=target, refwarn=False)
            link["refdoc"] = app.env.current_document.docname
            node.replace_self(link)
            link += node


def unlink_outside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make a path of each link out of `docs`, which the repository shows and the site does not have."""
    source[0] = OUTSIDE.sub(r"`\1`", source[0])


def qualify_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make the names in signatures and docstrings full ones, as their module imports them."""
    for node in doctree.findall(addnodes.pending_xref):
        module, target = node.get("py:module"), node.get("reftarget", "")
        if node.get("refdomain") == "py" and module:
            first, dot, rest = target.partition(".")
            node["reftarget"] = imported_names(module).get(first, first) + dot + rest
            node.attributes.pop(
                "refspecific", None
            )  # else unknown names are looked for at the end of all others


@functools.cache
def imported_names(module: str) -> MappingProxyType[str, str]:
    """Return name -> full name, of what a module imports from another."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None:
        return MappingProxyType({})
    names = {}
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return MappingProxyType(names)


def list_changed(app: Sphinx) -> list[str]:
    """List the pages in Markdown that were changed since the last build read them; all, if the configuration was."""
    read = app.env.all_docs if app.env.config_status == CONFIG_OK else {}
    pages = sorted(Path(app.srcdir).glob("*.md"))
    return [str(page) for page in pages if page.stat().st_mtime_ns // 1000 > read.get(page.stem, -1)]


class Blocks:
    """The process that runs the blocks of code of changed pages, beside the build: beside the examples too."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.process: subprocess.Popen | None = None

    def start(self, app: Sphinx) -> None:
        """Start the process, if any page has changed."""
        if pages := list_changed(app):
            command = [sys.executable, "-m", "docs.extensions.code_blocks", "--json", self.results]
            with open(self.log, "w") as log:
                self.process = subprocess.Popen([*command, *pages], stderr=log)

    @property
    def results(self) -> str:
        """Path of the failures."""
        return str(Path(self.folder.name, "failures.json"))

    @property
    def log(self) -> str:
        """Path of what the process writes to its standard error, such as progress bars."""
        return str(Path(self.folder.name, "errors.txt"))

    def finish(self, app: Sphinx, exception: Exception | None) -> None:
        """Wait for the process, and warn of each block that failed; the next build then reads all pages again."""
        if self.process is None:
            return
        if exception is not None:
            self.process.kill()
        if self.process.wait() not in (0, 1) and exception is None:
            LOGGER.warning("the blocks of code could not be run:\n%s", Path(self.log).read_text())
        results = Path(self.results)
        failures, seconds = json.loads(results.read_text()) if results.exists() else ([], {})
        for path, line, message in failures:
            LOGGER.warning(message, location=f"{path}:{line}")
        if failures:
            Path(app.doctreedir, ENV_PICKLE_FILENAME).unlink(missing_ok=True)
        longest = sorted(seconds.items(), key=lambda item: -item[1])[:LONGEST]
        shown = ", ".join(f"{Path(page).stem} {each:.0f} s" for page, each in longest)
        LOGGER.info("blocks of code: %.0f s beside the build, longest %s", sum(seconds.values()), shown)
