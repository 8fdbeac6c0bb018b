"""Watch a learner's code while it runs: what it may not open, start or set."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

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
        messages.DEFAULT_DTYPE: torch.get_default_dtype(),
        messages.GRAD_MODE: torch.is_grad_enabled(),
        messages.INFERENCE_MODE: torch.is_inference_mode_enabled(),
        messages.THREADS: torch.get_num_threads(),
        messages.DETERMINISTIC_MODE: torch.are_deterministic_algorithms_enabled(),
        messages.MATMUL_PRECISION: torch.get_float32_matmul_precision(),
        messages.RANDOM_STATE: torch.get_rng_state().numpy().tobytes(),
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
        return messages.WRITE_FILE
    if name != str(answer) and any(part in name.replace(os.sep, "/") for part in hidden):
        return messages.READ_SOURCE
    return ""
