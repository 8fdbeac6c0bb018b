"""Pages of the API: one for each module, in the order of folders."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.extensions.docstrings import mark_inline
from docs.extensions.pages import underline, write_pages

PACKAGES = ("pure", "data_pipes", "stages")


def write_api(root: Path, folder: Path) -> None:
    """Write a page for each public module and package below the root, and an index."""
    pages = {"index.rst": index()}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name == "__init__.py":
                name = ".".join(path.parent.relative_to(root).parts)
                pages[f"{name}.rst"] = package_page(path.parent, name)
            elif not path.name.startswith("_"):
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                pages[f"{name}.rst"] = module_page(name)
    write_pages(folder, pages)


def index() -> str:
    """Return the page that lists the packages."""
    return "\n".join(
        [
            underline("API"),
            "Every public name, one page a file. Imports run one way: ``stages -> data_pipes -> pure``.",
            "",
            ".. toctree::",
            "   :maxdepth: 2",
            "",
            *(f"   {package}" for package in PACKAGES),
            "",
        ]
    )


def module_page(name: str) -> str:
    """Return the page of a module.

    It is no part of the sidebar, which every page repeats: hundreds of entries would take most of the build.
    """
    package = name.rpartition(".")[0]
    lines = [":orphan:", "", underline(name), f"In :py:mod:`{package}`.", ""]
    return "\n".join([*lines, f".. automodule:: {name}", "   :members:", "   :member-order: bysource", ""])


def package_page(folder: Path, name: str) -> str:
    """Return the page of a package: its docstring, the names that it exports, its files and folders."""
    children = [path for path in sorted(folder.iterdir()) if not path.name.startswith("_")]
    packages = [path.name for path in children if (path / "__init__.py").exists()]
    lines = [underline(name), f".. automodule:: {name}", "   :no-members:", ""]
    if packages:
        lines += [".. toctree::", "   :maxdepth: 1", ""]
        lines += [*(f"   {child} <{name}.{child}>" for child in packages), ""]
    lines += [underline("Files", "-")]
    for path in children:
        if path.suffix == ".py":
            title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or "").split("\n\n")[0]
            lines.append(f"- :doc:`{path.stem} <{name}.{path.stem}>`: {mark_inline(' '.join(title.split()))}")
    if exported := exports((folder / "__init__.py").read_text(encoding="utf8")):
        lines += ["", underline("Exported names", "-")]
        lines += [
            f"- :py:obj:`{export} <{module}.{export}>`, of :py:mod:`{module}`" for export, module in exported
        ]
    return "\n".join([*lines, ""])


def exports(text: str) -> list[tuple[str, str]]:
    """Return (name, module) of what a package exports by importing it from its own files."""
    found = [
        (alias.asname or alias.name, node.module)
        for node in ast.parse(text).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]
    return [(name, module) for name, module in found if not module.startswith("__")]
