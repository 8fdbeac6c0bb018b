"""Small text, a small config, and the flags of a small pretraining run, shared by tests of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.run.log import CLOCK, read_lines

SHAPE = {
    "vocab_size": 280, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip


def write_text(folder: Path, documents: int = 6) -> Path:
    """A folder of short documents, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(documents):
        lines = [f"def add_{i}_{k}(left, right): return left + {k * i} * right" for k in range(20)]
        (folder / f"{i}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_config(path: Path, **changes: Any) -> Path:
    """A JSON file for --config."""
    path.write_text(json.dumps(SHAPE | changes))
    return path


def flags(tmp_path: Path, **changes: Any) -> list[str]:
    """Flags of `intro2llm pretrain`: 12 steps, a save every 3, a validation every 4; eager, float32."""
    if not (tmp_path / "text").exists():
        write_text(tmp_path / "text")
        write_config(tmp_path / "small.json")
    chosen: dict[str, Any] = {
        "config": tmp_path / "small.json",
        "data_path": tmp_path / "text",
        "output_dir": tmp_path / "run",
        "batch_size": 4,
        "max_length": 16,
        "max_steps": 12,
        "save_every": 3,
        "eval_every": 4,
        "dtype": "float32",
        "learning_rate": 0.01,
        "compile": False,
        "device": "cpu",
    } | changes
    return [word for name, value in chosen.items() for word in to_words(name, value)]


def to_words(name: str, value: Any) -> list[str]:
    """One flag as words of the command line; None leaves it out."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [] if value is None else [f"--{name}", str(value)]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without times and speeds."""
    found = read_lines(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in found]


def last_state(folder: Path) -> bytes:
    """The bytes of the newest checkpoint's state."""
    return (max((folder / "checkpoints").iterdir()) / "state.msgpack").read_bytes()


def final_weights(folder: Path) -> bytes:
    """The bytes of the final model's weights."""
    return (folder / "final_model" / "model.safetensors").read_bytes()


def same_run(one: Path, other: Path) -> bool:
    """True if two runs have the same bits: last state, final weights, every line of the log."""
    parts: tuple[Callable[[Path], Any], ...] = (last_state, final_weights, rows)
    return all(part(one) == part(other) for part in parts)
