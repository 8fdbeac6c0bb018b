"""Handlers of the documentation's build."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

build: Any = pytest.importorskip("docs.extensions.build", reason="Sphinx is not installed")


def test_links_out_of_the_folder_become_paths() -> None:
    source = [
        "See [the figures](../benchmarks/README.md#a), [a page](jax.md) and [one](https://example.org)."
    ]
    build.unlink_outside(None, "page", source)
    assert source == ["See `benchmarks/README.md`, [a page](jax.md) and [one](https://example.org)."]


def test_a_colon_in_the_docstring_of_a_field_makes_no_type() -> None:
    from sphinx.ext.napoleon import Config
    from sphinx.ext.napoleon.docstring import GoogleDocstring

    lines = ["Run the stages as well: sft, dpo."]
    build.translate_docstring(None, "attribute", "x", None, None, lines)
    shown = GoogleDocstring(lines, Config(), None, "attribute", "x").lines()
    assert [line for line in shown if line] == ["..", "Run the stages as well: sft, dpo."]


def test_names_are_those_that_the_module_imports() -> None:
    names = build.imported_names("docs.extensions.build")
    assert names["translate"] == "docs.extensions.docstrings.translate"
    assert build.imported_names("no_such_module") == {}


def test_blocks_are_run_of_pages_that_changed_since_they_were_read(tmp_path: Path) -> None:
    for name in ("old", "new", "changed.zh"):
        (tmp_path / f"{name}.md").write_text("# Page")
    later = (tmp_path / "old.md").stat().st_mtime_ns // 1000 + 1
    env = SimpleNamespace(config_status=build.CONFIG_OK, all_docs={"old": later, "changed.zh": 1})
    app = SimpleNamespace(env=env, srcdir=tmp_path)
    assert [Path(page).stem for page in build.list_changed(app)] == ["changed.zh", "new"]
    env.config_status = build.CONFIG_OK + 1
    assert len(build.list_changed(app)) == 3
