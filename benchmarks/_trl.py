"""TRL's trainers, one step at a time: a thread trains, and waits for a call before each step."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _model import DEVICE, small_config

from data_pipes.tokenizer import train as train_tokenizer
from data_pipes.tokenizer.spec import Tokenizer
from pure import random, tree
from pure.nn.transformer import transformer
from pure.types import Model, Tree
from stages.models import language_model
from stages.models.language_model import Pretrained

STEPS = 10_000


def new_model() -> tuple[Model, Tree, Tokenizer]:
    """Return (model, params, tokenizer), initialised with a fixed seed, so that both sides get the same."""
    model = transformer(small_config(eos_token_id=0, pad_token_id=3))
    tokenizer = train_tokenizer(["the words of a benchmark 0 1 2 3 4 5 6 7 8 9"], 300)
    return model, model.init(random.key(0)), tokenizer


def move_to_device(values: Tree) -> Tree:
    """Move a tree of tensors to the device of the benchmark."""
    return tree.map(lambda x: x.to(DEVICE), values)


def save_model() -> str:
    """Save the same model in Hugging Face's layout, for TRL, and return its folder."""
    folder = Path(tempfile.mkdtemp()) / "model"
    model, params, tokenizer = new_model()
    return str(language_model.save(folder, Pretrained(model, params, tokenizer)))


def make_trainer_step(make: Callable[[Any], Any]) -> Callable[[], None]:
    """Turn a trainer into a function that takes one step.

    Args:
        make: (callback) -> a trainer that has this callback and runs for STEPS steps.

    Returns:
        A function that lets the trainer take its next step, and waits for it.
    """
    from transformers import TrainerCallback

    go, done = threading.Semaphore(0), threading.Semaphore(0)
    errors: list[BaseException] = []

    class Gate(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()  # waits for the first call

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()
            go.acquire()  # waits for the next call

    def train() -> None:
        try:
            make(Gate()).train()
        except BaseException as error:
            errors.append(error)
            done.release()

    threading.Thread(target=train, daemon=True).start()

    def step() -> None:
        go.release()
        done.acquire()
        if errors:
            raise RuntimeError("TRL's trainer failed; see the error above") from errors[0]

    return step


def make_trainer_arguments(**changes: Any) -> dict[str, Any]:
    """Make the arguments of a trainer: bfloat16 by autocast, fused AdamW, nothing logged or saved."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": DEVICE == "cpu",
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
