"""TRL's trainers, a step at a time: a thread trains, and waits before each step until it is asked for it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_pipes.tokenizer import train as train_tokenizer
from pure import random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.types import Tree
from stages.models import language_model
from stages.models.language_model import Pretrained

STEPS = 10_000


def config() -> ModelConfig:
    """The model of the comparisons: 5.8M parameters."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        eos_token_id=0,
        pad_token_id=3,
    )


def start() -> tuple[Any, Tree, Any]:
    """(model, params, tokenizer): new params, the same for both sides."""
    model = transformer(config())
    return (
        model,
        model.init(random.key(0)),
        train_tokenizer(["the words of a benchmark 0 1 2 3 4 5 6 7 8 9"], 300),
    )


def folder() -> str:
    """The same model on disk, as TRL wants it."""
    place = Path(tempfile.mkdtemp()) / "model"
    model, params, tokenizer = start()
    return str(language_model.save(place, Pretrained(model, params, tokenizer)))


def stepping(make: Callable[[Any], Any]) -> Callable[[], None]:
    """Turns a trainer into a function that takes one step.

    Args:
        make: (callback) -> a trainer with that callback, of many steps.

    Returns:
        A function that has the trainer take its next step, and waits for it.
    """
    from transformers import TrainerCallback

    go, done = threading.Semaphore(0), threading.Semaphore(0)
    failed: list[BaseException] = []

    class Gate(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Waits for the next call."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()
            go.acquire()

    def work() -> None:
        try:
            make(Gate()).train()
        except BaseException as error:
            failed.append(error)
            done.release()

    threading.Thread(target=work, daemon=True).start()

    def step() -> None:
        go.release()
        done.acquire()
        if failed:
            raise RuntimeError("TRL's trainer failed") from failed[0]

    return step


def common(**changes: Any) -> dict[str, Any]:
    """Arguments of every trainer: bfloat16 by autocast, fused AdamW, nothing logged or saved."""
    cpu = not torch.cuda.is_available()
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": cpu,
        "bf16": True,
        "max_steps": STEPS,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    } | changes


def count() -> int:
    """Parameters of the model."""
    return tree.count(transformer(config()).spec)
