"""Build step beside pyproject.toml: a wheel brings the tests, with which `intro2llm exercises check` judges answers."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SUITE = Path("stages", "teach", "suite_files")
"""Folder of the tests in a wheel; `stages/teach/suite.py` finds them there."""


class BuildWithTests(build_py):
    """Copies the Python files of `tests/` into the package."""

    def run(self) -> None:
        """Builds the packages, then adds the tests."""
        super().run()
        if self.editable_mode:  # the clone's own tests are used
            return
        for path in sorted((ROOT / "tests").rglob("*.py")):
            target = Path(self.build_lib) / SUITE / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithTests})
