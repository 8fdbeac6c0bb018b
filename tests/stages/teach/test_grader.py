"""`stages.teach.grader`: what a learner can do wrong, each with one clear message, and nothing is left of it.

The files that run in the other process are tested with it: server, worker, guard, suite_run, example, verdict
and text_check.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from stages.teach import grader, messages
from stages.teach.cheats import list_cheats, write_cheat
from stages.teach.course import find_exercise
from stages.teach.grader import Limits, Server, check, choose_environment, needs_compiler, open_server
from stages.teach.report import Result, describe_result
from stages.teach.text_check import judge_text
from stages.teach.translate import translate
from tests.stages.teach.edition import NORM, OURS, write_answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that was started where a package has the name of ours, as a learner's folder may have one.

    Its environment has settings of pytest for other tests.
    """
    folder = tmp_path_factory.mktemp("my")
    (folder / "stages").mkdir()
    (folder / "stages" / "__init__.py").touch()
    limits = Limits(stage_seconds=3.0, megabytes=1500)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTEST_ADDOPTS", "--no-such-flag")  # of the learner's own tests
        patch.setenv("PYTEST_PLUGINS", "no_such_plugin")
        with open_server(limits) as server:
            patch.undo()
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
    "device": (f"torch.set_default_device('meta')\n{OURS}", "purity", "default device"),
    "deterministic": (f"torch.backends.cudnn.benchmark = True\n{OURS}", "purity", "deterministic mode"),
    "mkldnn": (f"torch.backends.mkldnn.enabled = False\n{OURS}", "purity", "mkldnn settings"),
    "mkldnn's precision": (
        f"torch.backends.mkldnn.matmul.fp32_precision = 'bf16'\n{OURS}", "purity", "matmul precision"
    ),
    "precision": (f"torch.set_float32_matmul_precision('medium')\n{OURS}", "purity", "matmul precision"),
    "denormals": (f"torch.set_flush_denormal(True)\n{OURS}", "purity", "denormal numbers"),
    "autocast": (f"torch.autocast('cpu').__enter__()\n{OURS}", "purity", "autocast"),
    "recursion limit": (
        f"getattr(torch, 'sy' + 's').setrecursionlimit(2000)\n{OURS}", "purity", "recursion limit"
    ),
    "kernels": (f"torch.backends.cuda.enable_flash_sdp(False)\n{OURS}", "purity", "attention kernels"),
    "threads": (f"torch.set_num_threads(2)\n{OURS}", "purity", "torch's threads"),
    "Python's seed": (f"import random\nrandom.seed(0)\n{OURS}", "purity", "Python's random"),
    "NumPy's seed": (f"import numpy as np\nnp.random.seed(0)\n{OURS}", "purity", "NumPy's random"),
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
    "replaces": ("torch.isclose = lambda *rest, **more: True\nreturn x", "purity", "changed torch.isclose"),
    "subclass": ("class Same(torch.Tensor): pass\nreturn x.as_subclass(Same)", "dtype", "another type"),
    "frame": (
        "try: raise ValueError\nexcept ValueError as e: return getattr(e.__traceback__, 'tb_' + 'frame')",
        "forbidden",
        "variables of another function",
    ),
    "executes": (
        "return getattr(torch, 'sy' + 's').modules['built' + 'ins'].exec('1')", "forbidden", "execute text"
    ),
    "result": (
        "getattr(torch, 'sa' + 've')({}, '../result')\ngetattr(torch, 'o' + 's')._exit(0)", "exit", "exit code 0"
    ),
    "the check's own exit status": ("getattr(torch, 'o' + 's')._exit(75)", "exit", "exit code 75"),
    "terminal": ("raise ValueError('\\x1b[2J')", "raises", "ValueError: ?[2J"),
    "error": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd", "raises", "raised Odd"
    ),
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


def test_an_answer_for_which_torch_imports_its_compiler_is_checked_with_it(tmp_path: Path) -> None:
    """The import sets a seed, and makes a folder, which an answer may not."""
    exercise = write_answer(tmp_path, f"torch.empty(2, device='meta') + 1\n{OURS}")
    with open_server() as server:
        assert needs_compiler(tmp_path, exercise, server)
        result = check(tmp_path, exercise, server)
        assert result.passed, describe_result(result)
        assert not needs_compiler(tmp_path, exercise, server)


def test_what_an_answer_printed_before_the_check_s_own_exit_status_is_kept(
    server: Server, tmp_path: Path
) -> None:
    exercise = write_answer(tmp_path, "print('hello', flush=True)\ngetattr(torch, 'o' + 's')._exit(75)")
    assert check(tmp_path, exercise, server).output == "hello"


def test_the_step_of_an_error_is_known(server: Server, tmp_path: Path) -> None:
    exercise = write_answer(tmp_path, WRONG["steps"][0])
    assert check(tmp_path, exercise, server).step == 2


# name -> lines at the top of the file, kind, part of the message
AT_THE_TOP = {
    "raises": ("VALUE = 1 / 0", "raises", "ZeroDivisionError"),
    "imports": ("import os", "forbidden", "may not import os"),
    "exits": ("VALUE = quit()", "forbidden", "may not use quit"),
    "settings": ("VALUE = torch.set_default_dtype(torch.float64)", "purity", "the top of pure/nn/norm.py changed"),
    "memory": ("VALUE = [0] * 10**9", "memory", "more than 1500 MB"),
    "writes": ("VALUE = torch.save(1, '/tmp/never')", "forbidden", "torch.save"),
    "replaces": ("VALUE = setattr(torch, 'isclose', None)", "purity", "changed torch.isclose"),
    "all names": ("from math import *", "forbidden", "instead of *"),
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
    for data in (b"\xff\xfe\x00x", f"# coding: gbk\n# 中\n{text}".encode("gbk", "ignore")):
        path.write_bytes(data)
        result = judge_text(tmp_path, exercise)
        assert result is not None
        assert (result.kind, result.message) == ("syntax", messages.NOT_TEXT)
    path.unlink()
    path.mkdir()
    result = judge_text(tmp_path, exercise)
    assert result is not None
    assert describe_result(result, partial(translate, lang="zh")).endswith(
        translate(messages.IS_FOLDER, "zh")
    )


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


def test_a_decorated_function_is_compared_too(server: Server, tmp_path: Path) -> None:
    top = "class Call:\n    def __init__(self, f): self.f = f\n"
    top += "    def __call__(self, *rest, **more): return self.f(*rest, **more)\n"
    exercise = write_answer(tmp_path, OURS, top=top)
    path = tmp_path / "pure" / "nn" / "norm.py"
    path.write_text(path.read_text("utf8").replace("def rms_norm(", "@Call\ndef rms_norm("), "utf8")
    result = check(tmp_path, exercise, server)
    assert result.passed
    assert result.calls > 0


def test_a_function_that_is_changed_while_it_is_checked_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercise = write_answer(tmp_path, OURS)
    bodies = iter((OURS, "return x"))

    def save(*rest: object) -> Result:
        write_answer(tmp_path, next(bodies))
        return Result(NORM, True)

    monkeypatch.setattr(grader, "_run_worker", save)
    digests = [check(tmp_path, exercise, None).digest for _ in range(2)]  # type: ignore[arg-type]
    assert digests[0]
    assert not digests[1]


def test_the_server_and_its_worker_end_with_the_block(tmp_path: Path) -> None:
    exercise = write_answer(tmp_path, "while True: pass")

    def run_check() -> None:
        with suppress(OSError, ValueError):  # the pipes are closed
            check(tmp_path, exercise, server)

    with open_server() as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        Thread(target=run_check, daemon=True).start()
        while children.exists() and not children.read_text():
            time.sleep(0.01)
        workers = children.read_text().split() if children.exists() else []
    with pytest.raises(ProcessLookupError):
        os.kill(server.process.pid, 0)
    time.sleep(0.2)
    for worker in workers:
        status = Path(f"/proc/{worker}/status")
        assert not status.exists() or "zombie" in status.read_text()


def test_a_result_does_not_depend_on_the_variables_of_the_shell() -> None:
    shell = {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "INTRO2LLM_WITH": "my", "LANG": "C"}
    chosen = choose_environment(shell)
    assert shell.keys() & chosen.keys() == {"LANG"}
    assert choose_environment({"PYTHONPATH": "/a", "PYTHONHASHSEED": "7"}) == {
        **choose_environment({}),
        "PYTHONPATH": os.pathsep.join([chosen["PYTHONPATH"], "/a"]),
    }


def test_a_library_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader, "LIBRARIES", ("pytest", "absent"))
    with (
        pytest.raises(ModuleNotFoundError, match=r"not installed: absent; pip install 'intro2llm\[ex"),
        open_server(),
    ):
        pass
