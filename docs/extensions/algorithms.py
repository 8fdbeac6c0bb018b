"""The pages on every algorithm and on laws, generated from docstrings and the tables of `tests/laws`."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from docs.extensions.docstrings import mark_inline, split_paragraphs, split_sections
from docs.extensions.pages import underline, write_pages

FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "data_pipes": "Text and data",
        "pure/random": "Random numbers",
        "pure/nn": "Models",
        "pure/loss": "Losses",
        "pure/adapt": "Adapters",
        "pure/optim": "Optimizers",
        "pure/transform": "Gradients and transforms",
        "pure/generation": "Sampling",
        "stages": "Stages and studies",
        "stages/evaluate": "Evaluation",
    }
)
"""Folder -> heading of its algorithms."""

PEERS: Mapping[str, str] = MappingProxyType(
    {
        "optax": "optax",
        "trl": "TRL",
        "transformers": "transformers",
        "tokenizers": "tokenizers",
        "tiktoken": "tiktoken",
        "peft": "PEFT",
        "opacus": "Opacus",
        "pytorch_optimizer": "pytorch-optimizer",
        "lm_eval": "lm-evaluation-harness",
        "bitsandbytes": "bitsandbytes",
        "jax": "JAX",
        "scipy": "SciPy",
        "datasets": "datasets",
        "gguf": "gguf",
        "evaluate": "evaluate",
    }
)
"""Package that a test imports -> the name of the library that it compares with."""

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "tests/laws/test_optimizers.py": "optimizers",
        "tests/laws/test_losses.py": "losses",
        "tests/laws/test_stages.py": "stages",
        "tests/laws/test_pipes.py": "pipes",
        "tests/laws/test_transforms.py": "transforms",
    }
)
"""File of laws whose rows are run -> its name in the column of laws."""

TESTED: Mapping[str, str] = MappingProxyType(
    {
        "pure/nn/dropout.py": "tests/pure/nn/test_transformer.py",
        "stages/population.py": "tests/laws/test_stages.py",
        "stages/sft.py": "tests/laws/test_stages.py",
        "stages/sharded.py": "tests/laws/test_sharded.py",
    }
)
"""File that has no test at its own path -> the test that holds it."""

MANY = 200
"""Rows of a table of laws that are listed one by one; more are counted."""

SHOWN = 6
"""Rows of a table of laws that an entry names; if it is in more, it has their number."""


class Function(NamedTuple):
    """A public function with a source.

    Fields:
        name: of the function.
        formula: lines of the first indented block of its docstring; may be empty.
        source: the section Source; "" for a function that is listed for its formula.
        steps: lines of the section Steps, shown where it has no formula; may be empty.
        summary: the first paragraph of its docstring.
    """

    name: str
    formula: list[str]
    source: str
    steps: list[str]
    summary: str


class Algorithm(NamedTuple):
    """A source file with at least one function that has a source.

    Fields:
        path: of the file.
        title: the first line of its docstring.
        functions: in the order of the file.
        paper: the papers that the docstring of the module names.
    """

    path: str
    title: str
    functions: list[Function]
    paper: str


def write_algorithms(root: Path, folder: Path, scratch: Path) -> None:
    """Write both pages.

    Args:
        root: of the repository.
        folder: of the pages.
        scratch: folder for the facts about laws, which are computed again where a source file has changed.
    """
    families = load_facts(root, scratch)
    algorithms = [found for path in source_files(root) if (found := read_algorithm(root, path))]
    pages = {
        "algorithms.rst": algorithms_page(root, algorithms, families),
        "laws.rst": laws_page(families),
    }
    write_pages(folder, pages)


def load_facts(root: Path, scratch: Path) -> list[dict[str, Any]]:
    """Compute the facts about laws in another process, or read those of the last build."""
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "laws.json"
    folders = ("pure", "data_pipes", "stages", "tests", "docs/extensions")
    newest = max(file.stat().st_mtime for name in folders for file in (root / name).rglob("*.py"))
    if not path.exists() or path.stat().st_mtime < newest:
        command = [sys.executable, "-W", "ignore", "-m", "docs.extensions.law_facts", str(path)]
        done = subprocess.run(command, cwd=root, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the facts about laws could not be computed:\n{done.stderr}")
    return json.loads(path.read_text(encoding="utf8"))


def source_files(root: Path) -> Iterator[Path]:
    """Yield the files of FOLDERS, in their order; a folder of its own is no part of the one around it."""
    for name in FOLDERS:
        pattern = "**/*.py" if name == "data_pipes" else "*.py"
        for path in sorted((root / name).glob(pattern)):
            if not path.name.startswith("_"):
                yield path


def read_algorithm(root: Path, path: Path) -> Algorithm | None:
    """Read a file; None if no public function of it has a source."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = [read_function(node) for node in nodes if not node.name.startswith("_")]
    functions = [function for function in public if function.source]
    if not functions:
        return None
    if not any(function.formula for function in functions):
        functions += [function for function in public if function.formula]
    title, _, rest = inspect.cleandoc(ast.get_docstring(tree) or "").partition("\n\n")
    papers = [" ".join(text) for text in split_paragraphs(rest.split("\n"))]
    cited = [text for text in papers if re.search(r"\b(1[89]|20)\d\d\b", text)]
    return Algorithm(path.relative_to(root).as_posix(), " ".join(title.split()), functions, " ".join(cited))


def read_function(node: ast.FunctionDef) -> Function:
    """Read a function's docstring."""
    sections = dict(split_sections((ast.get_docstring(node) or "").split("\n")))
    paragraphs = list(split_paragraphs(sections[""]))
    formulas = [text for text in paragraphs if all(line[0] == " " for line in text)]
    source = " ".join(sections.get("Source", [])).strip()
    summary = " ".join(paragraphs[0]) if paragraphs else ""
    steps = [line for line in sections.get("Steps", []) if line.strip()]
    return Function(node.name, formulas[0] if formulas else [], source, steps, summary)


def algorithms_page(root: Path, algorithms: list[Algorithm], families: list[dict[str, Any]]) -> str:
    """Return the page of every algorithm: a table for each folder, then an entry for each file."""
    sourced = sum(bool(function.source) for a in algorithms for function in a.functions)
    lines = [
        underline("Formulas, sources, tests and laws"),
        "Each file is one algorithm; :doc:`/algorithms` has their names and papers in one table. This page is "
        "generated: formulas and sources are those of the docstrings (of a function without a formula its "
        "steps or first sentence), "
        "tests those at the same path below ``tests``, peers the libraries that these tests compare "
        "with. An algorithm obeys the :doc:`laws <laws>` of each row whose run enters its file.",
        "",
        f"{len(algorithms)} files, {sourced} functions with a source.",
        "",
    ]
    for folder, heading in FOLDERS.items():
        members = [a for a in algorithms if belongs(a.path, folder)]
        if members:
            lines += [underline(heading, "-"), *table(root, members, families)]
            for algorithm in members:
                lines += entry(root, algorithm, families)
    return "\n".join(lines)


def belongs(path: str, folder: str) -> bool:
    """Return True if a file is listed below this folder's heading."""
    parent = path.rpartition("/")[0]
    return parent.startswith(folder) if folder == "data_pipes" else parent == folder


def table(root: Path, members: list[Algorithm], families: list[dict[str, Any]]) -> list[str]:
    """Return a table of algorithms: name, file, laws, peers."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 40 30 10 20", ""]
    rows = [["algorithm", "file", "rows of laws", "compared with"]]
    for algorithm in members:
        test = test_of(root, algorithm.path)
        rows.append(
            [
                f":ref:`{plain_title(algorithm.title)} <{label(algorithm.path)}>`",
                module_role(algorithm.path),
                str(sum(len(rows) for rows in laws_of(algorithm.path, families).values()) or ""),
                ", ".join(peers_of(root, test)),
            ]
        )
    for row in rows:
        lines += [f"   {'*' if not i else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return [*lines, ""]


def entry(root: Path, algorithm: Algorithm, families: list[dict[str, Any]]) -> list[str]:
    """Return the entry of a file: of each function the formula, else steps, else a sentence; its tests, its laws."""
    title = short_title(algorithm.title)
    lines = [f".. _{label(algorithm.path)}:", "", underline(mark_inline(title), "~")]
    lines += [mark_inline(algorithm.title), ""]
    module = algorithm.path.removesuffix(".py").replace("/", ".")
    for function in algorithm.functions:
        lines += [f":py:func:`{function.name} <{module}.{function.name}>`", ""]
        if shown := function.formula or function.steps:
            lines += ["::", "", *(f"    {line.strip() and line}".rstrip() for line in shown), ""]
        else:
            lines += [mark_inline(function.summary), ""]
        source, differs, difference = function.source.partition("Differs from")
        if source:
            lines += [f"Source: {mark_inline(source.strip())}", ""]
        if differs:
            lines += [f"**{differs}** {mark_inline(difference.strip())}", ""]
    if algorithm.paper:
        lines += [mark_inline(algorithm.paper), ""]
    test = test_of(root, algorithm.path)
    shown = test or TESTED.get(algorithm.path)
    facts = [f"Test: ``{shown}``."] if shown else []
    if peers := peers_of(root, test):
        facts.append(f"Compared with {', '.join(peers)}.")
    for family, rows in laws_of(algorithm.path, families).items():
        named = ", ".join(f"``{row}``" for row in rows) if len(rows) <= SHOWN else f"{len(rows)} rows"
        facts.append(f"Laws of {FAMILIES[family]}: {named}.")
    return [*lines, " ".join(facts), ""]


def short_title(title: str) -> str:
    """Return the part of a title before its first colon or full stop."""
    return re.split(r"[:.] |\.$", title, maxsplit=1)[0]


def plain_title(title: str) -> str:
    """Return a short title without marks of code, as the text of a reference has none."""
    return short_title(title).replace("`", "")


def label(path: str) -> str:
    """Return the label of an entry."""
    return "algorithm-" + path.removesuffix(".py").replace("/", "-").replace("_", "-")


def module_role(path: str) -> str:
    """Return a link to the page of a file."""
    return f":py:mod:`{path} <{path.removesuffix('.py').replace('/', '.')}>`"


def test_of(root: Path, path: str) -> str:
    """Return the path of a file's test; "" if there is none."""
    folder, _, name = path.rpartition("/")
    mirrored = f"tests/{folder}/test_{name}"
    return mirrored if (root / mirrored).exists() else ""


def peers_of(root: Path, test: str) -> list[str]:
    """Return the libraries that a test imports to compare with."""
    if not test:
        return []
    tree = ast.parse((root / test).read_text(encoding="utf8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(
                "torch.optim" if node.module.startswith("torch.optim") else node.module.split(".")[0]
            )
    return [name for package, name in PEERS.items() if package in imported]


def laws_of(path: str, families: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the rows whose run enters a file, by file of laws."""
    found = {
        family["file"]: [row["name"] for row in family["rows"] if path in row["files"]]
        for family in families
        if family["file"] in FAMILIES
    }
    return {file: rows for file, rows in found.items() if rows}


def laws_page(families: list[dict[str, Any]]) -> str:
    """Return the page "Laws": each family with its laws and the rows of its table."""
    laws, rows = (sum(len(family[name]) for family in families) for name in ("laws", "rows"))
    lines = [
        underline("Laws"),
        "A law is a test that every member of a family must pass. Each family is a file of ``tests/laws`` with a "
        "table, one row a member: write a row for a new optimizer, loss, stage or pipe, and it inherits every law. "
        "This page is generated from these files.",
        "",
        f"{laws} laws, {rows} rows.",
        "",
    ]
    for family in families:
        lines += [underline(mark_inline(short_title(family["title"])), "-")]
        lines += [f"``{family['file']}``. {mark_inline(family['title'])}", ""]
        for paragraph in split_paragraphs(family["about"].split("\n")):
            lines += [*(mark_inline(line) for line in paragraph), ""]
        lines += [f"#. {mark_inline(law['text'])} (``{law['name']}``)" for law in family["laws"]]
        lines += ["", *row_table(family["rows"])]
    return "\n".join(lines)


def row_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows of a table of laws; very many are counted by their kind."""
    if not rows:
        return []
    lines = [f"{len(rows)} rows:", ""]
    if len(rows) > MANY:
        writers: dict[str, list[str]] = {}
        for row in rows:
            writers.setdefault(row["name"].split(":")[0], []).append(row["note"])
        for kind, names in writers.items():
            lines.append(f"- {len(names)} of the kind *{kind}*, by {', '.join(sorted(set(names)))}")
        return [*lines, ""]
    noted = any(row["note"] for row in rows)
    if not noted:
        return [*lines, ", ".join(f"``{row['name']}``" for row in rows) + ".", ""]
    lines += [".. list-table::", "   :header-rows: 1", "", "   * - row", "     - compared with"]
    for row in rows:
        lines += [f"   * - ``{row['name']}``", f"     - {mark_inline(row['note'])}"]
    return [*lines, ""]
