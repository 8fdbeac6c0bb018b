"""`stages.teach.grader`: what a learner can do wrong, each with one clear message, and nothing is left of it.

The files that run in the other process are tested with it: server, worker, guard, suite_run, example, verdict
and text_check.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.teach import messages
from stages.teach.cheats import list_cheats, write_cheat
from stages.teach.course import find_exercise
from stages.teach.grader import Limits, Server, check, open_server
from stages.teach.report import describe_result
from stages.teach.text_check import judge_text
from tests.stages.teach.edition import NORM, OURS, write_answer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = Limits(stage_seconds=3.0, megabytes=1500)
    with open_server(limits) as server:
        yield server


@pytest.mark.parametrize("cheat", list_cheats())
def test_our_body_passes_and_an_answer_that_is_none_fails(server: Server, tmp_path: Path, cheat: str) -> None:
    exercise = find_exercise(NORM)
    if not write_cheat(tmp_path, exercise, cheat):
        return
    result = check(tmp_path, exercise, server)
    assert result.passed == (cheat == "reference"), describe_result(result)
    assert result.calls > 0 or not result.passed


# name -> body, kind, part of the message
WRONG = {
    "raises": ("y = x @ torch.ones(7, 3)\nreturn y", "raises", "RuntimeError"),
    "steps": ("# 1. Fine.\ny = x\n# 2. Bad.\nreturn y @ torch.ones(7, 3)", "raises", "ones(7, 3)"),
    "shape": ("return x.sum(-1)", "shape", "another shape"),
    "dtype": ("return x.double()", "dtype", "another dtype"),
    "value": ("return x * scale", "value", "is wrong"),
    "eps outside the root": (
        "u = x.to(torch.promote_types(x.dtype, torch.float32))\n"
        "return (u / (u.square().mean(-1, keepdim=True).sqrt() + eps)).to(x.dtype) * scale",
        "value",
        "is wrong",
    ),
    "detached": (OURS.replace("return ", "return (") .rstrip() + ").detach()", "gradient", "carry a gradient"),
    "gradient": (OURS.replace(".square()", ".square().detach()"), "gradient", "with respect to x"),
    "argument": ("x.mul_(2)\nreturn x * 0.5", "purity", "changed its argument x"),
    "random": (f"torch.manual_seed(0)\n{OURS}", "purity", "random generator"),
    "grad mode": (f"torch.set_grad_enabled(False)\n{OURS}", "purity", "grad mode"),
    "default dtype": (f"torch.set_default_dtype(torch.float64)\n{OURS}", "purity", "default dtype"),
    "prints": ("while True: print('x' * 10_000)", "purity", "printed more than"),
    "loops": ("while True: pass", "slow", "no result after"),
    "memory": ("return x.new_ones(1_000_000_000)", "memory", "more than 1500 MB"),
    "exit": ("raise SystemExit(3)", "exit", "exit(3)"),
    "recursion": ("return rms_norm(x, scale, eps=eps)", "raises", "RecursionError"),
    "writes": (f"torch.save(x, '/tmp/never')\n{OURS}", "forbidden", "torch.save"),
    "writes from C++": (f"getattr(torch, 'sa' + 've')(x, '/tmp/never')\n{OURS}", "raises", "/tmp/never"),
    "forks": (
        f"getattr(torch, 'multi' + 'processing').get_context('fork').Process().start()\n{OURS}",
        "forbidden",
        "fork",
    ),
    "starts": (
        f"torch.multiprocessing.get_context('spawn').Process().start()\n{OURS}",
        "forbidden",
        "torch.multiprocessing",
    ),
    "package": ("import pure.nn\nreturn pure.nn.norm.rms_norm(x, scale, eps=eps)", "raises", "RecursionError"),
    "own module": ("from pure.nn import norm\nreturn norm.rms_norm(x, scale, eps=eps)", "forbidden", "pure.nn.norm"),
    "importlib": ("return __import__('importlib')", "forbidden", "__import__"),
    "closure": ("return rms_norm.__closure__", "forbidden", "__closure__"),
    "global": ("global torch\nreturn x", "forbidden", "global torch"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_has_one_clear_message(server: Server, tmp_path: Path, name: str) -> None:
    body, kind, part = WRONG[name]
    exercise = write_answer(tmp_path, body)
    start = time.monotonic()
    result = check(tmp_path, exercise, server)
    text = describe_result(result)
    assert (result.passed, result.kind) == (False, kind), text
    assert part in text
    assert len(text) < 3000
    assert time.monotonic() - start < 30
    assert not Path("/tmp/never").exists()


def test_the_step_of_an_error_is_known(server: Server, tmp_path: Path) -> None:
    exercise = write_answer(tmp_path, WRONG["steps"][0])
    assert check(tmp_path, exercise, server).step == 2


# name -> lines at the top of the file, kind, part of the message
AT_THE_TOP = {
    "raises": ("VALUE = 1 / 0", "raises", "ZeroDivisionError"),
    "imports": ("import os", "forbidden", "may not import os"),
    "exits": ("VALUE = quit()", "forbidden", "may not use quit"),
    "writes": ("VALUE = torch.save(1, '/tmp/never')", "forbidden", "torch.save"),
}  # fmt: skip


@pytest.mark.parametrize("name", AT_THE_TOP)
def test_what_stands_at_the_top_of_a_file_is_judged_too(server: Server, tmp_path: Path, name: str) -> None:
    top, kind, part = AT_THE_TOP[name]
    exercise = write_answer(tmp_path, OURS, top=top)
    result = check(tmp_path, exercise, server)
    assert (result.passed, result.kind) == (False, kind)
    assert part in describe_result(result)


def test_helpers_constants_imports_and_prints_of_a_learner_are_no_mistake(
    server: Server, tmp_path: Path
) -> None:
    top = "import math\nONE = math.cos(0.0)\ndef helper(x):\n    return x * ONE\n"
    exercise = write_answer(tmp_path, f"print('here', x.shape)\nx = helper(x)\n{OURS}", top=top)
    result = check(tmp_path, exercise, server)
    assert result.passed, describe_result(result)
    assert "here torch.Size" in result.output


def test_other_functions_of_the_learner_do_not_count(server: Server, tmp_path: Path) -> None:
    exercise = write_answer(tmp_path, OURS)
    path = tmp_path / "pure" / "nn" / "norm.py"
    path.write_text(path.read_text("utf8").replace("def layer_norm", "def layer_norm_of_mine"), "utf8")
    (tmp_path / "pure" / "loss").mkdir()
    (tmp_path / "pure" / "loss" / "dpo.py").write_text("raise SystemExit\n", "utf8")
    assert check(tmp_path, exercise, server).passed


def test_a_file_that_is_gone_and_a_function_that_was_renamed_are_found_without_a_worker(
    tmp_path: Path,
) -> None:
    exercise = find_exercise(NORM)
    gone = judge_text(tmp_path, exercise)
    assert gone is not None
    assert (gone.kind, gone.message) == ("missing", messages.NO_FILE)
    write_answer(tmp_path, OURS)
    path = tmp_path / "pure" / "nn" / "norm.py"
    text = path.read_text("utf8")
    for old, new, kind in (
        ("def rms_norm(", "def my_norm(", "missing"),
        ("x: Tensor, scale: Tensor, *, eps: float", "x, scale, eps", "signature"),
        ("def rms_norm(", "def rms_norm((", "syntax"),
    ):
        path.write_text(text.replace(old, new, 1), "utf8")
        result = judge_text(tmp_path, exercise)
        assert result is not None
        assert result.kind == kind
        assert "pure/nn/norm.py" in describe_result(result)
    path.write_bytes(b"\xff\xfe\x00x")
    result = judge_text(tmp_path, exercise)
    assert result is not None
    assert result.kind == "syntax"


def test_nothing_is_left_after_a_check(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert check(tmp_path, write_answer(tmp_path, "while True: pass"), server).kind == "slow"
    assert list(scratch.iterdir()) == []
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    assert not children.exists() or children.read_text() == ""


def test_the_server_ends_with_its_block() -> None:
    with open_server() as server:
        pid = server.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
