"""Run some of the project's tests in this process, until one fails."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stages.teach.suite import list_libraries


class SuiteOutcome(NamedTuple):
    """Outcome of some tests.

    Fields:
        passed: number of tests that passed.
        failed: id of the test that failed; "" if none did.
        error: its error in one line.
        seconds: test id -> seconds, of those that passed.
    """

    passed: int
    failed: str
    error: str
    seconds: dict[str, float]


def run_tests(
    suite: Path,
    tests: Sequence[str],
    should_stop: Callable[[], bool],
    announce: Callable[[str], None] = lambda name: None,
    *,
    stop: bool = True,
    report: Callable[[str, float], None] = lambda name, seconds: None,
) -> SuiteOutcome:
    """Runs tests one after another, until one fails or `should_stop()`.

    Args:
        suite: the folder that holds `tests/`.
        tests: their ids; a file that cannot be collected fails.
        should_stop: is asked after each test.
        announce: is told the id of each test before it runs.
        stop: False goes on after a failure.
        report: is told the id and the seconds of each test, infinity if it fails.

    Returns:
        What they gave; `failed` is the first.

    Raises:
        RuntimeError: if pytest cannot run.
    """
    for name in list_libraries(suite, tests):
        _set_profile(importlib.import_module(name))
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path.insert(0, str(suite))
    plugin = Hooks(should_stop, announce, report)
    options = [*OPTIONS, "-x"] if stop else [*OPTIONS, "--continue-on-collection-errors"]
    code = pytest.main(
        [*options, f"--rootdir={suite}", *(f"{suite}/{name}" for name in tests)], plugins=[plugin]
    )
    if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR) and not plugin.failed:
        raise RuntimeError(f"pytest ended with {code!r} for {', '.join(tests)[:300]}")
    return SuiteOutcome(len(plugin.seconds), plugin.failed, plugin.error, plugin.seconds)


OPTIONS = (
    "--noconftest", "-c", os.devnull, "--import-mode=importlib", "--capture=no",
    "-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:unraisableexception", "-p", "no:threadexception",
    "-p", "no:logging", "-p", "no:junitxml", "-p", "no:pastebin", "-p", "no:faulthandler", "-p", "no:doctest",
    "-W", "ignore",
)  # fmt: skip
"""pytest without our configuration, its cache and its printing."""


def _set_profile(library: Any) -> None:
    """Has hypothesis draw few examples, always the same ones, and keep nothing."""
    library.settings.register_profile(
        "check", derandomize=True, deadline=None, database=None, max_examples=20
    )
    library.settings.load_profile("check")


class Hooks:
    """Keeps what each test gave."""

    def __init__(
        self,
        should_stop: Callable[[], bool],
        announce: Callable[[str], None],
        report: Callable[[str, float], None],
    ) -> None:
        self.should_stop, self.announce, self.report = should_stop, announce, report
        self.seconds: dict[str, float] = {}
        self.failed, self.error = "", ""
        self.session: Any = None

    @pytest.fixture(scope="module")
    def quick_xla(self) -> None:
        """Stands for the fixture of the root's conftest.py, which makes JAX quick."""

    def pytest_sessionstart(self, session: Any) -> None:
        """Keeps the session, to stop it."""
        self.session = session

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        """Says which test begins."""
        self.announce(nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported."""
        if report.failed and not self.failed:
            self.failed, self.error = report.nodeid, _last_line(str(report.longrepr))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Counts what passed; keeps the first failure."""
        if report.failed:
            self.report(report.nodeid, math.inf)
        if report.failed and not self.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash is not None else str(report.longrepr)
            self.failed, self.error = report.nodeid, " ".join(text.split())[:300]
        elif report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration
            self.report(report.nodeid, report.duration)
        if self.should_stop() and self.session is not None:
            self.session.shouldstop = "a call differs"


def _last_line(text: str) -> str:
    """The last line of a text that is not blank."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
