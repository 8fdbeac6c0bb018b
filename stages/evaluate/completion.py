"""Completions for evaluations: prompts of text in, texts out, the same whatever else is asked beside them.

Shape letters: B prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipes.chat.stop import cut, stop_at
from data_pipes.tokenizer.spec import Tokenizer, vocabulary_size
from pure import random, tree
from pure.generation.generate import generate
from pure.generation.stepper import Stepper
from pure.types import Model, Tree


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn.

    Args:
        max_new_tokens: >= 1, tokens of a completion at most.
        temperature: >= 0; 0 is greedy.
        top_k, top_p: see `pure.generation.sample`; None leaves one out.
        stop: texts before which a completion ends.
        stop_tokens: ids that end it; the model's eos token always does.
        seed: of everything random. Two models asked with the same seed draw with the same numbers, so that
            their difference varies less than either of them.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    seed: int = 0


def about(sampling: Sampling) -> dict[str, Any]:
    """Returns what a task's `about` says of its sampling: {"sampling": what two models have in common,
    "ends": this model's ids that end an answer}."""
    shared = {name: value for name, value in vars(sampling).items() if name != "stop_tokens"}
    return {"sampling": shared, "ends": sampling.stop_tokens}


class Completion(NamedTuple):
    """What a model wrote.

    Fields:
        text: up to the first stop string, control tokens left out.
        dropped: tokens of the prompt that were cut off on the left, as the model's context is shorter.
        ended: whether the model ended it, by a token or a string; False: it was cut off at max_new_tokens, or
            the string came with the last of them.
    """

    text: str
    dropped: int
    ended: bool


def complete(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[tuple[int, int]],
    sampling: Sampling,
    *,
    max_length: int | None = None,
    compile: bool | Stepper = False,
) -> list[Completion]:
    """Completes prompts.

    Args:
        model: gives `decode` and `cache`.
        params: the model's.
        tokenizer: that both were made with.
        prompts: B lists of ids.
        numbers: (question, sample) of each: its random numbers depend on them and on the seed, not on its
            place here.
        sampling: see Sampling.
        max_length: tokens of a prompt and its completion at most; None takes max_position_embeddings.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        B Completions.

    Raises:
        ValueError: if max_new_tokens leave no room for a prompt.
    """
    most = model.config.max_position_embeddings if max_length is None else max_length
    room = most - sampling.max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens {sampling.max_new_tokens} leave no room for a prompt in the model's context of "
            f"{most} tokens; ask for fewer"
        )
    device = tree.leaves(params)[0].device
    ends = tuple(
        dict.fromkeys(i for i in (model.config.eos_token_id, *sampling.stop_tokens) if i is not None)
    )
    written = generate(
        model,
        params,
        [list(prompt)[-room:] for prompt in prompts],
        key=_keys(sampling.seed, numbers, device),
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        vocabulary=vocabulary_size(tokenizer),
        stop_tokens=ends,
        stop=stop_at(tokenizer, sampling.stop) if sampling.stop else None,
        compile=compile,
    )
    found = []
    for prompt, row, length in zip(prompts, written.tokens.tolist(), written.lengths.tolist(), strict=True):
        ids = row[:length]
        text = tokenizer.decode(ids, skip_special=True)
        ended = length < sampling.max_new_tokens or ids[-1] in ends
        found.append(Completion(cut(text, sampling.stop), max(0, len(prompt) - room), ended))
    return found


def _keys(seed: int, numbers: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """A key [2] of each (question, sample): [B, 2] uint32."""
    fold = torch.func.vmap(random.fold_in)
    root = random.key(seed, device=device)
    pairs = torch.tensor(list(numbers), dtype=torch.int64, device=device).reshape(-1, 2)
    return fold(torch.func.vmap(random.fold_in, (None, 0))(root, pairs[:, 0]), pairs[:, 1])
