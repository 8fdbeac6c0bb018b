"""A small run of `intro2llm pretrain` that is killed and resumed: its flags, its child process, its results.

Shared by kill_pretraining.py and processes.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

STEPS = 24
SHAPE: Mapping[str, int] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TIMINGS = ("tok_per_sec", "tflops", "mfu", "compile_seconds")
"""Metrics that depend on the clock; they are not compared."""


def list_flags(run: Path, **flags: Any) -> list[str]:
    """Return the words of the command line of a run that saves every other step."""
    both = {"batch_size": 4, "max_length": 32, "max_steps": STEPS, "save_every": 2, "device": "cpu"}
    return [
        word
        for name, value in {"output_dir": run, **both, **flags}.items()
        for word in (f"--{name}", str(value))
    ]


def pretrain(words: Sequence[str], stdout: str = os.devnull, stderr: str | None = None) -> NoReturn:
    """Body of a child process: the command, on one thread; what it prints goes to files."""
    import torch

    from stages.cli.main import main as run_command

    torch.set_num_threads(1)
    for stream, path in ((1, stdout), (2, stderr)):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    raise SystemExit(run_command(["pretrain", *words]))


def is_saving(run: Path) -> bool:
    """Check if a checkpoint has begun that is not complete."""
    return any((run / "checkpoints").glob("*.tmp"))


def read_results(run: Path) -> tuple[list[dict], bytes]:
    """Return what is compared: the log without timings, and the bytes of the final weights."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == list(range(1, STEPS + 1)), f"metrics.jsonl: expected steps 1 to {STEPS}, got {steps}"
    log = [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]
    return log, (run / "final_model" / "model.safetensors").read_bytes()
