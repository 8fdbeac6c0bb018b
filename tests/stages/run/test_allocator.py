"""`keep_freed_memory`, measured by the page faults of a child process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
import stages.run.loop  # as in a run; with few modules imported, glibc still returned such blocks
from stages.run.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(50_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
kept = keep_freed_memory()
faults()
print(first, kept, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_kept_memory_is_reused_without_page_faults() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout.split()
    faults_before, kept, faults_after = int(answer[0]), answer[1] == "True", int(answer[2])
    if not kept:
        pytest.skip("this C library does not keep freed memory")
    assert faults_after < faults_before / 20
