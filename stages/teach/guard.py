"""Watch a learner's code while it runs: what it may not open, start, execute, set or replace."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy import random as numpy_random
from torch import Tensor

from stages.teach import messages

REFUSED_EVENTS: Mapping[str, str] = {
    "os.system": messages.START_PROCESS,
    "os.exec": messages.START_PROCESS,
    "os.spawn": messages.START_PROCESS,
    "os.posix_spawn": messages.START_PROCESS,
    "subprocess.Popen": messages.START_PROCESS,
    "os.fork": messages.FORK,
    "os.forkpty": messages.FORK,
    "os.kill": messages.SIGNAL_PROCESS,
    "os.remove": messages.REMOVE_FILE,
    "os.rename": messages.RENAME_FILE,
    "os.rmdir": messages.REMOVE_FOLDER,
    "os.mkdir": messages.MAKE_FOLDER,
    "os.link": messages.LINK_FILE,
    "os.symlink": messages.LINK_FILE,
    "os.truncate": messages.WRITE_FILE,
    "shutil.rmtree": messages.REMOVE_FOLDER,
    "socket.connect": messages.USE_NETWORK,
    "socket.bind": messages.USE_NETWORK,
    "ctypes.dlopen": messages.LOAD_LIBRARY,
}
"""Event of Python's audit -> what it does. They are refused while a learner's code runs."""

OWN_EVENTS: Mapping[str, str] = {
    "compile": messages.EXECUTE_TEXT,
    "exec": messages.EXECUTE_TEXT,
    "object.__getattr__": messages.READ_FRAME,
}
"""Event -> what it does. They are refused in a line of the learner's file, not in a library that it calls."""

WATCHED = (
    "builtins",
    "torch",
    "torch.nn.functional",
    "torch.testing",
    "math",
    "numpy",
    *(
        f"stages.teach.{name}"
        for name in ("calls", "example", "guard", "pairs", "probes", "values", "verdict")
    ),
)
"""Modules whose functions an answer may not replace; nor those of `torch.Tensor`. The built-in are first."""


SET_BY_TORCH = ("Storage",)
"""Names that torch itself binds anew, here with its default dtype."""

SUBNORMAL = sys.float_info.min / 2
"""A number that the processor takes for 0 after `torch.set_flush_denormal(True)`."""


class Functions(NamedTuple):
    """The names of a module or class that the check relies on.

    Fields:
        name: of the module or class.
        owner: the module or class.
        values: its names with their values, functions and others.
    """

    name: str
    owner: Any
    values: Mapping[str, Any]


def install_audit(
    is_inside: Callable[[], bool],
    report: Callable[[str], None],
    hidden: tuple[str, ...],
    answer: Path,
    allowed: Path,
) -> None:
    """Refuses events of the learner's code from now on, for the life of this process.

    Args:
        is_inside: tells whether the learner's code is running.
        report: takes the action that was refused, one of `messages`; the code may catch the error.
        hidden: parts of the paths of files that hold our source of the exercise; they may not be opened.
        answer: the learner's file, which may be read although its path is like that of ours.
        allowed: the folder in which files may be written.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in REFUSED_EVENTS and event not in OWN_EVENTS and event != "open":
            return
        if not is_inside():
            return
        if event in OWN_EVENTS:
            if arguments[-1] == "f_code":  # read in the next line
                return
            action = OWN_EVENTS[event] if sys._getframe(1).f_code.co_filename == str(answer) else ""
        else:
            action = REFUSED_EVENTS.get(event) or _judge_open(arguments, hidden, answer, allowed)
        if action:
            report(action)
            raise PermissionError(f"an answer may not {action}")

    sys.addaudithook(hook)


def read_process_state() -> dict[str, Any]:
    """Reads settings and random states that belong to the process, each with its name for a message."""
    cudnn, numbers = torch.backends.cudnn, numpy_random.get_state(legacy=False)["state"]
    return {
        messages.DEFAULT_DTYPE: torch.get_default_dtype(),
        messages.GRAD_MODE: torch.is_grad_enabled(),
        messages.INFERENCE_MODE: torch.is_inference_mode_enabled(),
        messages.THREADS: torch.get_num_threads(),
        messages.DETERMINISTIC_MODE: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            cudnn.deterministic,
            cudnn.benchmark,
        ),
        messages.MATMUL_PRECISION: _read_precisions(),
        messages.MKLDNN_MODE: (torch.backends.mkldnn.enabled, torch.backends.mkldnn.deterministic),
        messages.DENORMAL_MODE: SUBNORMAL > 0.0,
        messages.AUTOCAST_MODE: (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        messages.ATTENTION_KERNELS: _read_kernels(),
        messages.DEFAULT_DEVICE: torch.get_default_device(),
        messages.ANOMALY_MODE: torch.is_anomaly_enabled(),
        messages.RANDOM_STATE: torch.get_rng_state().numpy().tobytes(),
        messages.PYTHON_RANDOM_STATE: random.getstate(),
        messages.NUMPY_RANDOM_STATE: (numbers["pos"], numbers["key"].tobytes()),
        messages.RECURSION_LIMIT: sys.getrecursionlimit(),
    }


def _read_precisions() -> tuple[str, ...]:
    """Precisions of float32 products; `torch.get_float32_matmul_precision` raises if they differ."""
    backends: Any = torch.backends
    settings = (backends, backends.mkldnn, backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul)
    return tuple(each.fp32_precision for each in settings)


def _read_kernels() -> tuple[bool, ...]:
    """The kernels from which `scaled_dot_product_attention` chooses, and the fast path of an encoder."""
    cuda = torch.backends.cuda
    kernels = (cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.math_sdp_enabled)
    return (*(each() for each in kernels), torch.backends.mha.get_fastpath_enabled())


def find_changed_setting(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Finds the first setting that changed; "" for none."""
    return next((name for name, value in before.items() if after[name] != value), "")


def read_functions() -> list[Functions]:
    """Reads the functions of the modules WATCHED and of `torch.Tensor`."""
    owners = [(name, sys.modules[name]) for name in WATCHED if name in sys.modules]
    return [Functions(name, owner, dict(vars(owner))) for name, owner in (*owners, ("torch.Tensor", Tensor))]


def restore_functions(before: Sequence[Functions]) -> str:
    """Puts back functions that were replaced or removed since they were read, and takes new methods away.

    Args:
        before: of `read_functions`.

    Returns:
        The name of the first function that was changed; "" for none.
    """
    first = ""
    for name, owner, values in before:
        now = owner.__dict__
        # the built-in functions that this calls are put back first
        if name != "builtins" and len(now) == len(values) and all(map(is_, now.values(), values.values())):
            continue
        changed = [key for key, value in values.items() if now.get(key) is not value]
        for key in changed:
            if owner is Tensor:
                setattr(owner, key, values[key])
            elif name == "builtins" or (callable(values[key]) and key not in SET_BY_TORCH):
                now[key] = values[key]
            else:
                continue
            first = first or f"{name}.{key}"
        if owner is Tensor:
            for key in now.keys() - values.keys():
                delattr(owner, key)
                first = first or f"{name}.{key}"
    return first


def _judge_open(arguments: tuple[Any, ...], hidden: tuple[str, ...], answer: Path, allowed: Path) -> str:
    """The action that opening a file would be, if it is refused; else ""."""
    path, _, flags = arguments
    if not isinstance(path, str | bytes):
        return ""
    name = os.path.abspath(os.fsdecode(path))
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    if writes and name != os.devnull and not Path(name).is_relative_to(allowed):
        return messages.WRITE_FILE
    if name != str(answer) and any(part in name.replace(os.sep, "/") for part in hidden):
        return messages.READ_SOURCE
    return ""
