"""Complete prompts for evaluations, each independently of the other prompts of its batch.

Shape letters: B prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

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
"""Sampling parameters in every record; the others only if they are set."""


class Decoding(NamedTuple):
    """Decoding settings of an evaluation: sampling parameters, stop texts, seed.

    Fields:
        sampling: sampling parameters. `complete` adds the model's eos token to the stop tokens, and never
            samples an id that the tokenizer lacks.
        stop: texts that end a completion, and are not part of it.
        seed: random seed. Two models sample with the same numbers, so that their difference varies
            less than either of them.
    """

    sampling: Sampling
    stop: tuple[str, ...] = ()
    seed: int = 0


class Completion(NamedTuple):
    """Completion of a prompt.

    Fields:
        text: up to the first stop text, without control tokens.
        dropped: tokens of the prompt that were dropped on the left, as the model's context is shorter.
        ended: whether the model ended it, by a token or a stop text; False: it was truncated at
            max_new_tokens, or the stop text came with the last of them.
    """

    text: str
    dropped: int
    ended: bool


class CompleteFn(Protocol):
    """`complete` with everything bound but the prompts."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[tuple[int, int]]
    ) -> list[Completion]: ...


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
    """Complete a batch of prompts, each with its own random numbers.

    Args:
        model: the model; its `decode` and `cache` are used.
        params: the model's params.
        tokenizer: the model's tokenizer.
        prompts: B lists of ids.
        numbers: (question, sample) of each prompt, two numbers that with the seed determine its random
            numbers, whatever its position in the batch.
        decoding: sampling parameters, stop texts and seed.
        max_length: largest number of tokens of a prompt and its completion; None takes
            max_position_embeddings.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        B Completions.

    Raises:
        ValueError: if max_new_tokens leaves no room for a prompt.
    """
    sampling = decoding.sampling
    longest = model.config.max_position_embeddings if max_length is None else max_length
    room = longest - sampling.max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens {sampling.max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{longest} tokens; reduce it"
        )
    device, eos = tree.leaves(params)[0].device, model.config.eos_token_id
    stop_tokens = sampling.stop_tokens if eos is None else (eos, *sampling.stop_tokens)
    ends = tuple(dict.fromkeys(stop_tokens))
    generated = generate(
        model,
        params,
        [list(prompt)[-room:] for prompt in prompts],
        sampling._replace(vocabulary=vocabulary_size(tokenizer), stop_tokens=ends),
        key=_question_keys(decoding.seed, numbers, device),
        stop=stop_at(tokenizer, decoding.stop) if decoding.stop else None,
        compile=compile,
    )
    rows = zip(prompts, generated.tokens.tolist(), generated.lengths.tolist(), strict=True)
    completions = []
    for prompt, row, length in rows:
        ids = row[:length]
        text = truncate_at_stop(tokenizer.decode(ids, skip_special=True), decoding.stop)
        ended = length < sampling.max_new_tokens or ids[-1] in ends
        completions.append(Completion(text, max(0, len(prompt) - room), ended))
    return completions


def describe_decoding(decoding: Decoding) -> dict[str, Any]:
    """Return entries of a task's `about`: "sampling", shared by all models, and "ends", the model's ids."""
    numbers = decoding.sampling._asdict()
    ends, _ = numbers.pop("stop_tokens"), numbers.pop("vocabulary")
    shared = {name: x for name, x in numbers.items() if name in RECORDED or x is not None}
    return {"sampling": {**shared, "stop": decoding.stop, "seed": decoding.seed}, "ends": ends}


def _question_keys(seed: int, numbers: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Keys [B, 2] uint32, one of each (question, sample)."""
    fold = torch.func.vmap(random.fold_in)
    root = random.key(seed, device=device)
    pairs = torch.tensor(list(numbers), dtype=torch.int64, device=device).reshape(-1, 2)
    return fold(torch.func.vmap(random.fold_in, (None, 0))(root, pairs[:, 0]), pairs[:, 1])
