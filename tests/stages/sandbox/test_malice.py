"""Malicious programs do no harm outside their jail; candidates that forge their tests' verdict fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.sandbox import sandbox
from stages.sandbox.sandbox import Isolation, Outcome
from tests.stages.sandbox import malice
from tests.stages.sandbox.forging_candidates import CANDIDATES, TESTS
from tests.stages.sandbox.malicious_programs import PROGRAMS

ALL = os.environ.get("INTRO2LLM_ALL_MALICE") == "1"
"""Run all programs, as each user; otherwise every third."""

STATUSES = ("ok", "error", "timeout", "memory", "output", "crash", "killed")
EXPECTED = {
    "spin": "timeout",
    "sleep": "timeout",
    "ignore every signal, and spin": "timeout",
    "close everything, and sleep": "timeout",
    "fill memory by one demand": "memory",
    "say too much": "output",
    "complain too much": "output",
    "crash": "crash",
    "end at once": "ok",
    "end with another code": "error",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can read, with a copy of the sandbox."""
    with tempfile.TemporaryDirectory() as path:
        malice.copy_sources(Path(path))
        yield Path(path)


@pytest.mark.parametrize("user", ["root", "another user"])
def test_malicious_programs_do_no_harm(folder: Path, user: str) -> None:
    if user == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    names = tuple(PROGRAMS)
    if not ALL:
        every_third = names[::3]
        names = (*EXPECTED, *(name for name in every_third if name not in EXPECTED))
    found = malice.run_programs(folder, as_nobody=user != "root" and os.geteuid() == 0, names=names)
    if not found["complete"]:
        pytest.skip(found["isolation"])
    outcomes = found["outcomes"]
    assert list(outcomes) == list(names)
    assert len(PROGRAMS) >= 120
    assert len(names) >= 60
    assert found["effects"] == []
    for name, outcome in outcomes.items():
        assert "GOT" not in outcome.stdout, f"{name}: {outcome.stdout}"
        assert outcome.status in STATUSES, name
        assert outcome.seconds <= malice.TIMEOUT + 5, name
    assert {name: outcomes[name].status for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize("user", ["root", "another user"])
def test_threads_of_one_jail_do_not_limit_another(folder: Path, user: str) -> None:
    """Threads are counted in each jail, not over all jails."""
    if user == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    found = malice.run_greedy_and_honest(folder, as_nobody=user != "root" and os.geteuid() == 0)
    if not found["complete"]:
        pytest.skip(found["isolation"])
    greedy, honest = Outcome(*found["greedy"]), Outcome(*found["honest"])
    assert 200 < int(greedy.stdout) < 256
    assert (honest.status, honest.stdout) == ("ok", "fine\n")


def test_without_isolation_the_same_check_finds_harm(folder: Path) -> None:
    """Some of the milder programs: proof that the check would find a hole."""
    names = (
        "read a secret file",
        "write into a folder outside",
        "connect by TCP",
        "send by UDP",
        "environment",
        "connect to a local socket",
        "connect to an abstract socket",
    )
    found = malice.run_programs(folder, unsafe=True, names=names)
    effects = "\n".join(found["effects"])
    assert "folder: ['secret', 'secret_module.py', 'socket'] became" in effects
    assert "servers: [False, False, False, False] became [True, True, True, True]" in effects
    assert "read a secret file told a secret" in effects
    reached = [name for name, outcome in found["outcomes"].items() if "GOT" in outcome.stdout]
    assert set(names) - set(reached) == {"environment"}


def test_forged_verdicts_are_failures() -> None:
    isolation = sandbox.probe()
    if not isolation.complete:
        pytest.skip(isolation.line)

    def judge(name: str) -> Outcome:
        return sandbox.run_tests(
            CANDIDATES[name], TESTS, entry_point="square", timeout=0.7, memory=2**28, isolation=isolation
        )

    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(CANDIDATES, pool.map(judge, CANDIDATES), strict=True))
    assert len(outcomes) >= 12
    honest = {name: outcomes.pop(name).status for name in list(outcomes) if name.startswith("honest")}
    assert set(honest.values()) == {"ok"}
    assert [name for name, outcome in outcomes.items() if outcome.status == "ok"] == []
    assert [name for name, outcome in outcomes.items() if outcome.status == "broken"] == []


def test_without_isolation_nothing_is_run(tmp_path: Path) -> None:
    missing = Isolation(False, "sandbox: missing: unshare: Operation not permitted")
    mark = tmp_path / "mark"
    program = f"open({str(mark)!r}, 'w')"
    with pytest.raises(
        sandbox.SandboxMissingError, match="--run_untrusted_code_without_isolation"
    ) as refused:
        sandbox.run_program(program, isolation=missing)
    assert "unshare: Operation not permitted" in str(refused.value)
    with pytest.raises(sandbox.SandboxMissingError, match="--run_untrusted_code_without_isolation"):
        sandbox.run_tests(
            f"{program}\ndef square(x): return x * x", TESTS, entry_point="square", isolation=missing
        )
    assert not mark.exists()
