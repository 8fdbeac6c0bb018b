"""`stages.teach.overlay`: a learner's functions in a process that imports ours, and in its children."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages.teach import overlay
from stages.teach.files import ROOT
from tests.stages.teach.edition import NORM, OURS, write_answer


def run(code: str, folder: Path, **variables: str) -> str:
    """Run code in a new process, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_learners_function_is_served_with_its_own_source_and_lines(tmp_path: Path) -> None:
    write_answer(tmp_path, "marker = 1\n" + OURS)
    code = """
from stages.teach import overlay
served = overlay.install(".")
import inspect, pure.nn.norm as norm
from pure.nn.norm import rms_norm, norm_spec
print("rms_norm" in served.exercises, inspect.getsourcefile(rms_norm), "marker = 1" in inspect.getsource(rms_norm))
print(inspect.getsourcefile(norm_spec) == norm.__file__, overlay.find_installed() is served)
try:
    rms_norm(None, None, eps=1.0)
except AttributeError as error:
    import traceback
    print(traceback.extract_tb(error.__traceback__)[-1].line)
"""
    lines = run(code, tmp_path).splitlines()
    answer = tmp_path / "pure" / "nn" / "norm.py"
    assert lines[0] == f"True {answer} True"
    assert lines[1] == "True True"
    assert lines[2] == OURS.splitlines()[0]


def test_a_function_that_is_not_solved_and_a_file_that_does_not_parse_fall_back_to_ours(
    tmp_path: Path,
) -> None:
    write_answer(tmp_path, f'raise Unsolved("{NORM}")')
    assert overlay.find_served(tmp_path).functions == {}
    assert overlay.find_served(tmp_path, [NORM]).functions == {"pure.nn.norm": (NORM,)}
    write_answer(tmp_path, "return (")
    served = overlay.find_served(tmp_path)
    assert (served.functions, served.exercises) == ({}, ())
    (told,) = [str(each) for each in served.left_out if "norm.py" in str(each)]
    assert re.fullmatch(r"pure/nn/norm.py, line \d+: '\(' was never closed; ours is used for this file", told)


def test_a_function_with_other_parameters_is_left_out_and_told(tmp_path: Path) -> None:
    write_answer(tmp_path, OURS)
    path = tmp_path / "pure" / "nn" / "norm.py"
    path.write_text(path.read_text("utf8").replace("scale: Tensor, *, eps: float", "scale, epsilon"), "utf8")
    before = path.read_bytes()
    served = overlay.find_served(tmp_path)
    assert (served.functions, path.read_bytes()) == ({}, before)
    (told,) = [str(each) for each in served.left_out if "norm.py" in str(each)]
    assert re.fullmatch(
        r"pure/nn/norm.py, line \d+: the parameters of rms_norm differ from ours; expected "
        r"def rms_norm\(x, scale, \*, eps\), got def rms_norm\(x, scale, epsilon\); ours is used for this function",
        told,
    )


def test_it_comes_before_the_modules_that_it_serves(tmp_path: Path) -> None:
    import pure.nn.norm  # noqa: F401

    write_answer(tmp_path, OURS)
    with pytest.raises(ImportError, match="install the overlay first"):
        overlay.install(tmp_path)


def test_data_workers_use_the_learners_functions(tmp_path: Path) -> None:
    write_answer(tmp_path, OURS)
    code = """
import importlib, inspect, sys
from stages.teach import overlay
overlay.install(".")
from data_pipes.workers import map_in_order
from tests.stages.teach.worker_item import find_file
for _, path in map_in_order(find_file, ["pure.nn.norm:rms_norm"] * 3, workers=2):
    print(path)
"""
    assert set(run(code, tmp_path).split()) == {str(tmp_path / "pure" / "nn" / "norm.py")}


def test_the_modules_before_ours_import_no_torch() -> None:
    code = "import sys, stages.teach.overlay, stages.teach.grader; print('torch' in sys.modules)"
    assert run(code, ROOT).strip() == "False"
