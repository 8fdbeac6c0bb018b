"""A wheel is enough for the student edition: it has pages, catalogues, the table of tests, and the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.teach.course import COURSE
from stages.teach.suite import read_table
from tests.rules.source import ROOT
from tests.stages.teach.edition import NORM, OURS

TEACH = ROOT / "stages" / "teach"
SUITE = "stages/teach/suite_files"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages that setuptools puts into a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["egg_info", "--egg-base", folder, "build_py", "--build-lib", folder / "lib"]
    command = [sys.executable, "setup.py", "-q", *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return folder / "lib"


def run(built: Path, folder: Path, *arguments: object) -> str:
    """Run `intro2llm exercises` with the packages of the wheel alone, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli.main", "exercises", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(built)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_has_every_file_of_the_student_edition(built: Path) -> None:
    texts = [path for pattern in ("*/*.md", "locale/*/*") for path in TEACH.glob(pattern)]
    assert len(texts) > len(COURSE)
    needed = {path.relative_to(ROOT).as_posix() for path in (*texts, TEACH / "tests.json")}
    tests = {name.partition("::")[0] for row in read_table().values() for name in row.ids}
    tests |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    needed |= {f"{SUITE}/{path}" for path in tests}
    assert sorted(path for path in needed if not (built / path).is_file()) == []


def test_an_edition_is_started_and_checked_without_the_clone(built: Path, tmp_path: Path) -> None:
    assert "请先读 my/README.md" in run(built, tmp_path, "start", "my", "--lang", "zh")
    answer = tmp_path / "my" / "pure" / "nn" / "norm.py"
    body = OURS.replace("\n", "\n    ").rstrip()
    answer.write_text(answer.read_text("utf8").replace(f'raise Unsolved("{NORM}")', body), "utf8")
    assert f"{NORM}：通过" in run(built, tmp_path, "check", "my", NORM)
    code = "from stages.teach.suite import find_suite; print(find_suite())"
    env = {**os.environ, "PYTHONPATH": str(built)}
    printed = subprocess.check_output([sys.executable, "-c", code], env=env, cwd=tmp_path, text=True)
    assert printed.strip() == str(built / SUITE)
