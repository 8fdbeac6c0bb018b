"""A small model, small rows, and the flags of small runs of the tuning stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.cli.main import main
from stages.models import language_model
from stages.run.build import RECIPES
from stages.run.data import examples
from stages.run.options.tuning import STAGES
from tests.stages.models.test_language_model import make_model
from tests.stages.small import to_words

NAMES = tuple(STAGES)


def write_model(folder: Path, **changes: Any) -> Path:
    """A freshly initialised model, in Hugging Face's layout."""
    return language_model.save(folder / "model", make_model(**({"max_position_embeddings": 128} | changes)))


def write_rows(folder: Path, count: int = 24) -> dict[str, Path]:
    """Write the rows of each stage to a file, in the form that its builder reads; return the files."""
    numbers = range(count)
    alpaca = [{"instruction": f"Add {i}", "input": "", "output": f"is {i + 1}"} for i in numbers]
    pairs = [{"prompt": f"Add {i}", "chosen": f"is {i + 1}", "rejected": f"{i}"} for i in numbers]
    single = [{"prompt": f"Add {i}", "completion": f"is {i + i % 2}", "label": i % 2 == 1} for i in numbers]
    prompts = [{"prompt": f"Add {i}", "answer": "is"} for i in numbers]
    forms = (
        (examples.CONVERSATIONS, alpaca),
        (examples.PREFERENCES, pairs),
        (examples.UNPAIRED, single),
        (examples.PROMPTS, prompts),
    )
    paths = {}
    for name, options in STAGES.items():
        (rows,) = (rows for form, rows in forms if form is RECIPES[options].rows)
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def flags(folder: Path, name: str, **changes: Any) -> list[str]:
    """Flags of a run of six steps of one stage, a save every two; eager, float32."""
    if not (folder / "model").exists():
        write_model(folder)
        write_rows(folder)
    online = {"max_new_tokens": 5, "max_length": 32, "reward": folder / "short.py", "table_every": 2}
    chosen: dict[str, Any] = (
        {
            "model_path": folder / "model",
            "data_path": folder / f"{name}.jsonl",
            "output_dir": folder / name,
            "batch_size": 4,
            "max_length": 64,
            "max_steps": 6,
            "save_every": 2,
            "eval_every": 3,
            "dtype": "float32",
            "learning_rate": 0.003,
            "compile": False,
            "device": "cpu",
            "held_out": 4,
        }
        | (online if name in ("grpo", "ppo") else {})
        | changes
    )
    if name in ("grpo", "ppo") and "reward" not in changes:
        (folder / "short.py").write_text(
            "def short(prompt, completion, row):\n    return -len(completion) / 10\n"
        )
        chosen["reward"] = f"{folder / 'short.py'}:short"
    if name == "grpo" and "samples" not in changes:
        chosen["samples"] = 3
    return [word for key, value in chosen.items() for word in to_words(key, value)]


def run(folder: Path, name: str, **changes: Any) -> int:
    """Run one stage by its command line; return the exit code."""
    return main([name, *flags(folder, name, **changes)])
