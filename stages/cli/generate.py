"""`intro2llm generate`: continues a text with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from stages.run.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Sampling from a model."""

    model_path: str
    """A run's folder, its final_model, or any folder in Hugging Face's layout."""
    prompt: tuple[str, ...] = ("def ",)
    """Texts to continue."""
    max_new_tokens: int = 100
    """Tokens to add to each at most."""
    temperature: float = 0.8
    """0 always takes the likeliest token; 1 samples as the model believes."""
    top_k: int | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float | None = 0.95
    """Sample among the likeliest tokens that together have this share of the probability."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the likeliest."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that already stand in the text less likely."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    seed: int = 0
    """The same seed gives the same text."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, loads, prints each prompt with its continuation."""
    options = tyro.cli(GenerateOptions, prog="intro2llm generate", args=list(arguments))
    import torch

    from stages.run import pretrained

    loaded = pretrained.load(options.model_path, dtype=getattr(torch, options.dtype))
    for prompt, text in zip(options.prompt, continuations(loaded, options), strict=True):
        print(f"{prompt}{text}\n")
    return 0


def continuations(pretrained: Pretrained, options: GenerateOptions) -> list[str]:
    """Continues every prompt, as texts.

    Raises:
        ValueError: for an empty prompt, or one longer than the model's context.
    """
    from pure.generate import generate

    from pure import random

    model, params, tokenizer = pretrained
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
