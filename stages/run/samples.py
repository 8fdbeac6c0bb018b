"""Log completions while a model trains: a greedy one of each --sample_prompt at each validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_pipes.chat.chat import ChatTemplate, encode_chat
from data_pipes.rows.turns import read_turns
from data_pipes.tokenizer.spec import vocabulary_size
from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.parallel.group import within
from pure.types import Tree
from stages.models.chat_template import stop_ids
from stages.models.language_model import Pretrained
from stages.models.text_prompt import encode_prompt
from stages.run.data import completions_log

NEW_TOKENS = 64
"""Most tokens of a completion."""

Sample = Callable[[Tree], list[dict[str, Any]]]
"""params -> rows {"index", "prompt", "completion", "rewards": {}}, as `stages.run.data.completions_log`."""

LogSamples = Callable[[int, Tree], str]
"""(step, params) -> text for the screen; `log_samples` with its other arguments bound."""


def make_sample(
    base: Pretrained, template: ChatTemplate | None, prompts: Sequence[str], dtype: torch.dtype
) -> Sample | None:
    """Make the function that completes the prompts, greedily, so that only the params change the text.

    Args:
        base: model and tokenizer.
        template: renders a prompt as the user's turn; None continues it as plain text.
        prompts: texts; none is empty.
        dtype: that the completions are computed in.

    Returns:
        Sample; None without prompts.

    Raises:
        ValueError: for a prompt that the tokenizer cannot encode, or that leaves no room in the model's
            context; it names the flag.
    """
    if not prompts:
        return None
    encoded = [_encode(base, template, prompt) for prompt in prompts]
    context = base.model.config.max_position_embeddings
    longest = max(range(len(encoded)), key=lambda number: len(encoded[number]))
    room = context - len(encoded[longest])
    if room < 1:
        raise ValueError(
            f"--sample_prompt {prompts[longest][:40]!r}: {len(encoded[longest])} tokens leave no room in the "
            f"model's max_position_embeddings {context}; shorten it"
        )
    sampling = Sampling(
        max_new_tokens=min(NEW_TOKENS, room),
        temperature=0.0,
        vocabulary=vocabulary_size(base.tokenizer),
        stop_tokens=stop_ids(base, template),
    )
    return partial(
        _complete, base=base, prompts=tuple(prompts), encoded=encoded, sampling=sampling, dtype=dtype
    )


def log_samples(step: int, params: Tree, *, sample: Sample, folder: Path | None) -> str:
    """Complete the prompts, and append the completions to completions.jsonl.

    Args:
        step: number of the step, 0 before the first.
        params: of the model.
        sample: from `make_sample`.
        folder: of the run; None writes nothing, as another process does.

    Returns:
        Text for the screen.

    Raises:
        OSError: if the line cannot be written.
    """
    rows = sample(params)
    if folder is not None:
        completions_log.append_step(folder / completions_log.NAME, step, rows)
    return describe_samples(step, rows)


def describe_samples(step: int, rows: Sequence[dict[str, Any]]) -> str:
    """Describe the completions for the screen, a line each.

    Example:
        >>> print(describe_samples(20, [{"prompt": "1 + 1?", "completion": "2"}]))
        step 20: '1 + 1?' -> '2'
    """
    return "\n".join(f"step {step}: {row['prompt'][:40]!r} -> {row['completion'][:80]!r}" for row in rows)


def _encode(base: Pretrained, template: ChatTemplate | None, prompt: str) -> list[int]:
    """Ids of a prompt; of a chat, with the beginning of the assistant's turn."""
    if template is None:
        ids = encode_prompt(base, prompt)
    else:
        turns = read_turns([{"role": "user", "content": prompt}])
        ids = encode_chat(template, base.tokenizer, turns, add_generation_prompt=True).tokens.tolist()
    if not ids:
        raise ValueError("--sample_prompt is empty; give some text to continue, at least one letter")
    return ids


def _complete(
    params: Tree,
    *,
    base: Pretrained,
    prompts: tuple[str, ...],
    encoded: list[list[int]],
    sampling: Sampling,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """Complete the prompts with these params."""
    device = tree.leaves(params)[0].device
    with torch.no_grad(), within(None):  # each process completes all of them
        cast = tree.cast(params, dtype)
        generated = generate(base.model, cast, encoded, sampling, key=random.key(0, device=device))
    rows = []
    for index, (ids, length) in enumerate(
        zip(generated.tokens.tolist(), generated.lengths.tolist(), strict=True)
    ):
        text = base.tokenizer.decode([id for id in ids[:length] if id not in sampling.stop_tokens])
        rows.append({"index": index, "prompt": prompts[index], "completion": text, "rewards": {}})
    return rows
