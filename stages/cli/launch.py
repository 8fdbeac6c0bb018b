"""`intro2llm launch`: a subcommand in several processes on this machine, by the launcher of torchrun."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from stages.cli.notice import say_waiting
from stages.run.options.ranges import AtLeast, ShownAs
from stages.run.world import LAUNCHER

SECONDS_TO_SAVE = 600
"""Time that the processes have to save their state after a signal, before they are killed."""


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Run a subcommand in several processes on this machine, such as launch 2 pretrain --max_steps 9."""

    processes: Annotated[
        int, AtLeast(1), ShownAs("PROCESSES"), tyro.conf.Positional, tyro.conf.arg(metavar="PROCESSES")
    ]
    """Number of processes, which divide the rows of each batch (--batch_size) among them; with --device cuda
    each takes a GPU."""
    subcommand: Annotated[
        str, ShownAs("SUBCOMMAND"), tyro.conf.Positional, tyro.conf.arg(metavar="SUBCOMMAND")
    ]
    """pretrain, sft, reward, dpo, kto, grpo, ppo or evaluate, followed by its flags."""


def run(options: LaunchOptions, arguments: Sequence[str] = ()) -> int:
    """Starts the processes, and waits for them.

    Args:
        options: number of processes, and the subcommand.
        arguments: flags of the subcommand.

    Returns:
        The exit code that the processes agreed on.

    Raises:
        ValueError: for a subcommand that runs in one process, or wrong flags; before any process is started.
    """
    _check(options.subcommand, arguments)
    say_waiting(f"starting {options.processes} processes of {options.subcommand}")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, launch_agent

    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // options.processes, 1)))
    settings: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": options.processes,
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "127.0.0.1:0",
        "local_addr": "127.0.0.1",
        "max_restarts": 0,
    }
    if "shutdown_timeout" in {field.name for field in dataclasses.fields(LaunchConfig)}:
        settings["shutdown_timeout"] = SECONDS_TO_SAVE
    os.environ[LAUNCHER] = str(os.getpid())
    command = ["-m", "stages.cli.main", options.subcommand, *arguments]
    logging.disable(logging.CRITICAL)  # the processes say what happened
    try:
        with tempfile.TemporaryDirectory(prefix="intro2llm-", ignore_cleanup_errors=True) as logs:
            config = LaunchConfig(**settings, logs_specs=DefaultLogsSpecs(log_dir=logs))
            launch_agent(config, sys.executable, command)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return max(*codes, 1)  # negative: killed
    except SignalException as error:
        return 128 + int(error.sigval)
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[LAUNCHER]
    return 0


def _check(name: str, arguments: Sequence[str]) -> None:
    """Refuses what every process would refuse."""
    from stages.cli.flags import parse
    from stages.cli.subcommands import SUBCOMMANDS, resolve

    joining = [name for name, subcommand in SUBCOMMANDS.items() if subcommand.joins]
    if name not in joining:
        raise ValueError(f"{name!r} does not run in several processes; choose one of {', '.join(joining)}")
    parse(resolve(SUBCOMMANDS[name].options), name, arguments)
