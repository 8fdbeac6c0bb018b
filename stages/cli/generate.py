"""`intro2llm generate`: continues a text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stages.cli.flags import parse

if TYPE_CHECKING:
    from stages.models.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Sampling from a model."""

    model_path: str
    """A run's folder, its final_model, or any folder in Hugging Face's layout."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Text to continue; give the flag again for more. What the tokenizer puts before a text (bos) is put
    there."""
    special_tokens: bool = False
    """Read control tokens such as <|im_end|> in --prompt as tokens; without it they are plain text."""
    max_new_tokens: int = 100
    """Tokens to add to each at most."""
    temperature: float = 0.8
    """Sampling temperature, a factor: 0 always takes the likeliest token, 1 samples from the model's
    distribution."""
    top_k: int | None = None
    """Sample among this many likeliest tokens; None among all."""
    top_p: float | None = 0.95
    """Sample among the likeliest tokens that have this probability together, in (0, 1]; None among all."""
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
    if sys.stderr.isatty():  # somebody waits; torch takes seconds to load
        print(f"loading {options.model_path}", file=sys.stderr, flush=True)
    import torch

    from stages.models import pretrained
    from stages.models.hardware import pick_device
    from stages.run.options import ranges

    ranges.refuse_seed(options.seed)

    device = pick_device(options.device)
    loaded = pretrained.load(options.model_path, dtype=getattr(torch, options.dtype))
    loaded = pretrained.placed(loaded, device)
    for prompt, text in zip(options.prompt, continuations(loaded, options), strict=True):
        print(f"{prompt}{text}\n")
    return 0


def continuations(pretrained: Pretrained, options: GenerateOptions) -> list[str]:
    """Continues every prompt; a token that ends an answer ends a text, and is not shown.

    Args:
        pretrained: a model.
        options: prompts, and how to sample.

    Returns:
        What comes after each prompt.

    Raises:
        ValueError: for an empty prompt, or one that is too long for the model with what is to be added.
    """
    from data_pipes.tokenizer.spec import vocabulary_size
    from pure import random
    from pure.generation.generate import generate
    from stages.models.chat_template import ends
    from stages.models.text_prompt import encode

    stops = ends(pretrained)
    special = "all" if options.special_tokens else "none"
    found = generate(
        pretrained.model,
        pretrained.params,
        [encode(pretrained, prompt, special=special) for prompt in options.prompt],
        key=random.key(options.seed),
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        vocabulary=vocabulary_size(pretrained.tokenizer),
        stop_tokens=stops,
    )
    rows = [row[:length] for row, length in zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)]
    return [pretrained.tokenizer.decode([i for i in row if i not in stops]) for row in rows]
