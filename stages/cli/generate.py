"""`intro2llm generate`: continuations of texts by a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stages.cli.notice import say_waiting
from stages.run.options.groups import DeviceFlags, ModelFlags, SamplingFlags, defaults
from stages.run.options.ranges import Above, AtLeast, MayBeEmpty, Probability

if TYPE_CHECKING:
    from torch import Tensor

    from pure.generation.sampling import Sampling
    from stages.models.language_model import Pretrained


@dataclass(frozen=True, kw_only=True)
@defaults(temperature=0.8, top_p=0.95)
class GenerateOptions(DeviceFlags, SamplingFlags, ModelFlags):
    """Continue texts with a trained model."""

    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, MayBeEmpty()] = ()
    """Text to continue; repeat the flag for several texts. A bos token is added if the tokenizer adds one."""
    special_tokens: bool = False
    """Parse control tokens such as <|im_end|> in --prompt; by default they are plain text."""
    max_new_tokens: Annotated[int, AtLeast(1)] = 100
    """Maximum tokens to generate per prompt."""
    top_k: Annotated[int | None, AtLeast(1)] = None
    """Sample from this many most likely tokens; None samples from all."""
    min_p: Probability = None
    """Drop tokens whose probability is below this share of the most likely token's; None drops none."""
    repetition_penalty: Annotated[float | None, Above(0)] = None
    """Repetition penalty, a factor; above 1 it makes tokens that are already in the text less likely."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""


def run(options: GenerateOptions) -> int:
    """Loads the model, and prints each prompt with its continuation.

    Returns:
        The exit code.

    Raises:
        ValueError: without a prompt, or for an empty one.
    """
    if not options.prompt:
        raise ValueError("there is nothing to continue; give --prompt TEXT, several times for several texts")
    if "" in options.prompt:
        raise ValueError("--prompt is empty; give some text to continue, at least one letter")
    say_waiting(f"loading {options.model_path}")
    import torch

    from pure import random
    from pure.generation.sampling import Sampling
    from stages.models import language_model
    from stages.models.hardware import pick_device

    device = pick_device(options.device)
    loaded = language_model.load(options.model_path, dtype=getattr(torch, options.dtype))
    loaded = language_model.move_to(loaded, device)
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
    )
    special = "all" if options.special_tokens else "none"
    key = random.key(options.seed)
    texts = generate_texts(loaded, options.prompt, sampling, key=key, special=special)
    for prompt, text in zip(options.prompt, texts, strict=True):
        print(f"{prompt}{text}\n")
    return 0


def generate_texts(
    pretrained: Pretrained,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    key: Tensor,
    special: str = "none",
) -> list[str]:
    """Generates a continuation of every prompt, up to and without a stop token.

    Args:
        pretrained: the model and its tokenizer.
        prompts: texts to continue.
        sampling: settings of the sampling; its vocabulary and stop tokens are taken from the model.
        key: [2] uint32.
        special: "all" parses control tokens in the prompts; "none" takes them as plain text.

    Returns:
        The continuation of each prompt.

    Raises:
        ValueError: for an empty prompt, or one that does not fit into the context with --max_new_tokens.
    """
    from data_pipes.tokenizer.spec import vocabulary_size
    from pure.generation.generate import generate
    from stages.models.chat_template import stop_ids
    from stages.models.text_prompt import encode_prompt

    stops = stop_ids(pretrained)
    generated = generate(
        pretrained.model,
        pretrained.params,
        [encode_prompt(pretrained, prompt, special=special) for prompt in prompts],
        sampling._replace(vocabulary=vocabulary_size(pretrained.tokenizer), stop_tokens=stops),
        key=key,
    )
    texts = []
    for row, length in zip(generated.tokens.tolist(), generated.lengths.tolist(), strict=True):
        ids = [token for token in row[:length] if token not in stops]
        texts.append(pretrained.tokenizer.decode(ids))
    return texts
