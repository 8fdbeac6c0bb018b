"""Completions for evaluations: prompts of text in, texts out, the same whatever else is asked beside them.

Shape letters: B prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipes.chat.stop import stop_at, truncate_at_stop
from data_pipes.tokenizer.spec import Tokenizer, vocabulary_size
from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.types import Model, Tree

RECORDED = ("max_new_tokens", "temperature", "top_k", "top_p")
"""Sampling parameters that every record has; the others only where they are set."""


class Decoding(NamedTuple):
    """Decoding settings of an evaluation: the sampling parameters, and what belongs to text and to a data set.

    Fields:
        sampling: of completions. The model's eos token ends them too, and ids beyond the tokenizer are never
            sampled: `complete` adds both.
        stop: texts before which a completion ends.
        seed: of everything random. Two models evaluated with the same seed sample with the same numbers, so
            that their difference varies less than either of them.
    """

    sampling: Sampling
    stop: tuple[str, ...] = ()
    seed: int = 0


def about(decoding: Decoding) -> dict[str, Any]:
    """Returns what a task's `about` says of its decoding: {"sampling": what two models have in common,
    "ends": this model's ids that end an answer}."""
    numbers = decoding.sampling._asdict()
    ends, _ = numbers.pop("stop_tokens"), numbers.pop("vocabulary")
    shared = {name: x for name, x in numbers.items() if name in RECORDED or x is not None}
    return {"sampling": {**shared, "stop": decoding.stop, "seed": decoding.seed}, "ends": ends}


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
    decoding: Decoding,
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
        decoding: see Decoding.
        max_length: tokens of a prompt and its completion at most; None takes max_position_embeddings.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        B Completions.

    Raises:
        ValueError: if max_new_tokens leave no room for a prompt.
    """
    sampling = decoding.sampling
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
        sampling._replace(vocabulary=vocabulary_size(tokenizer), stop_tokens=ends),
        key=_keys(decoding.seed, numbers, device),
        stop=stop_at(tokenizer, decoding.stop) if decoding.stop else None,
        compile=compile,
    )
    found = []
    for prompt, row, length in zip(prompts, written.tokens.tolist(), written.lengths.tolist(), strict=True):
        ids = row[:length]
        text = tokenizer.decode(ids, skip_special=True)
        ended = length < sampling.max_new_tokens or ids[-1] in ends
        found.append(Completion(truncate_at_stop(text, decoding.stop), max(0, len(prompt) - room), ended))
    return found


def _keys(seed: int, numbers: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """A key [2] of each (question, sample): [B, 2] uint32."""
    fold = torch.func.vmap(random.fold_in)
    root = random.key(seed, device=device)
    pairs = torch.tensor(list(numbers), dtype=torch.int64, device=device).reshape(-1, 2)
    return fold(torch.func.vmap(random.fold_in, (None, 0))(root, pairs[:, 0]), pairs[:, 1])
