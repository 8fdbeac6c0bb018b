"""Sampling parameters of generation, the same wherever tokens are sampled.

Shape letters: B rows, M new tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sampling(NamedTuple):
    """Parameters by which completions are sampled: length, distribution, and where a completion ends.

    Generation, rollouts, validation and evaluation take them as one value, so that a policy is trained,
    validated and evaluated with the same ones.

        next token ~ softmax(truncate(penalize(logits) / temperature))

    Fields:
        max_new_tokens: M >= 1, maximum number of tokens of a completion.
        temperature: >= 0; 0 is greedy, and so is everything below 1e-6. This and the next four are one
            number, or a tensor [B] with one per row.
        top_k: >= 1, number of the likeliest tokens to sample from; None: all.
        top_p: in (0, 1], sample from the likeliest tokens that together have this probability; None: all.
        min_p: in [0, 1], lowest probability, as a share of the likeliest token's; None: 0.
        repetition_penalty: > 0, for tokens of the prompt and the completion; None: 1, which changes nothing.
        vocabulary: number of ids of the tokenizer; ids from this one on, which only pad the embedding, are
            never sampled. None: the model's vocab_size.
        stop_tokens: ids that end a completion and belong to it.

    Edge cases: log-probabilities, here and in every loss, are those of the whole distribution at the
    temperature. Truncation (top_k, top_p, min_p, vocabulary) and penalty change which tokens are sampled, not
    their log-probabilities.

    Example:
        >>> greedy = Sampling(max_new_tokens=8, temperature=0.0)
        >>> greedy._replace(stop_tokens=(2,)).stop_tokens
        (2,)
    """

    max_new_tokens: int = 64
    temperature: float | Tensor = 1.0
    top_k: int | Tensor | None = None
    top_p: float | Tensor | None = None
    min_p: float | Tensor | None = None
    repetition_penalty: float | Tensor | None = None
    vocabulary: int | None = None
    stop_tokens: tuple[int, ...] = ()
