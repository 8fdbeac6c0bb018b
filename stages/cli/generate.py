"""`intro2llm generate`: continues a text with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stages.cli.flags import parse

if TYPE_CHECKING:
    from stages.run.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Sampling from a model."""

    model_path: str
    """A run's folder, its final_model, or any folder in Hugging Face's layout."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Text to continue; give the flag again for more."""
    max_new_tokens: int = 100
    """Tokens to add to each at most."""
    temperature: float = 0.8
    """Sharpness: 0 always takes the likeliest token, 1 samples as the model believes."""
    top_k: int | None = None
    """Number of likeliest tokens to sample among; None takes all."""
    top_p: float | None = 0.95
    """Share of the probability: sample among the likeliest tokens that together have it; None takes all."""
    min_p: float | None = None
    """Share of the likeliest token's probability: less likely ones are dropped; None drops none."""
    repetition_penalty: float | None = None
    """Factor; above 1 makes tokens that already stand in the text less likely."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a GPU where there is one."""
    seed: int = 0
    """Seed of everything random; the same gives the same text."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, loads, prints each prompt with its continuation.

    Raises:
        ValueError: without a prompt, or for a seed out of range.
    """
    options = parse(GenerateOptions, "generate", arguments)
    if not options.prompt:
        raise ValueError("there is nothing to continue; give --prompt TEXT, several times for several texts")
    if "" in options.prompt:
        raise ValueError("--prompt is empty; give some text to continue, were it a single letter")
    from stages.run import numbers

    numbers.refuse_seed(options.seed)
    import torch

    from stages.run import pretrained
    from stages.run.hardware import pick_device

    device = pick_device(options.device)
    loaded = pretrained.load(options.model_path, dtype=getattr(torch, options.dtype))
    loaded = pretrained.placed(loaded, device)
    for prompt, text in zip(options.prompt, continuations(loaded, options), strict=True):
        print(f"{prompt}{text}\n")
    return 0


def continuations(pretrained: Pretrained, options: GenerateOptions) -> list[str]:
    """Continues every prompt, as texts; the token that ends a document ends a text, and is not shown.

    Raises:
        ValueError: for an empty prompt, or one that is too long for the model with what is to be added.
    """
    from pure import random
    from pure.generate import generate

    model, params, tokenizer = pretrained[:3]
    end = model.config.eos_token_id
    found = generate(
        model,
        params,
        [tokenizer.encode(prompt) for prompt in options.prompt],
        key=random.key(options.seed),
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        stop_tokens=() if end is None else (end,),
    )
    rows = zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)
    return [tokenizer.decode([i for i in row[:length] if i != end]) for row, length in rows]
