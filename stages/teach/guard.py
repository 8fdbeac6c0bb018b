"""Watch a learner's code while it runs: what it may not open, start or set."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

REFUSED_EVENTS: Mapping[str, str] = {
    "os.system": "start a process",
    "os.exec": "start a process",
    "os.spawn": "start a process",
    "os.posix_spawn": "start a process",
    "subprocess.Popen": "start a process",
    "os.fork": "fork",
    "os.forkpty": "fork",
    "os.kill": "signal a process",
    "os.remove": "remove a file",
    "os.rename": "rename a file",
    "os.rmdir": "remove a folder",
    "os.mkdir": "make a folder",
    "os.link": "link a file",
    "os.symlink": "link a file",
    "os.truncate": "write a file",
    "shutil.rmtree": "remove a folder",
    "socket.connect": "use the network",
    "socket.bind": "use the network",
    "ctypes.dlopen": "load a library",
}
"""Event of Python's audit -> what it does. They are refused while a learner's code runs."""


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
        report: takes the action that was refused, such as "start a process"; the code may catch the error.
        hidden: parts of the paths of files that hold our source of the exercise; they may not be opened.
        answer: the learner's file, which may be read although its path is like that of ours.
        allowed: the folder in which files may be written.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in REFUSED_EVENTS and event != "open":
            return
        if not is_inside():
            return
        action = REFUSED_EVENTS.get(event) or _judge_open(arguments, hidden, answer, allowed)
        if action:
            report(action)
            raise PermissionError(f"an answer may not {action}")

    sys.addaudithook(hook)


def read_torch_state() -> dict[str, Any]:
    """Reads the settings of torch that belong to the process, each with its name for a message."""
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's inference mode": torch.is_inference_mode_enabled(),
        "the number of torch's threads": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "the state of torch's random generator": torch.get_rng_state().numpy().tobytes(),
    }


def find_changed_setting(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Finds the first setting that changed; "" for none."""
    return next((name for name, value in before.items() if after[name] != value), "")


def _judge_open(arguments: tuple[Any, ...], hidden: tuple[str, ...], answer: Path, allowed: Path) -> str:
    """The action that opening a file would be, if it is refused; else ""."""
    path, _, flags = arguments
    if not isinstance(path, str | bytes):
        return ""
    name = os.path.abspath(os.fsdecode(path))
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    if writes and name != os.devnull and not Path(name).is_relative_to(allowed):
        return "write a file"
    if name != str(answer) and any(part in name.replace(os.sep, "/") for part in hidden):
        return "read our source"
    return ""
