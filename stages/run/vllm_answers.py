"""Read a vLLM server's answer to a request for one completion: everything that may be wrong is refused.

The answer is that of POST /v1/completions with `return_token_ids` and `logprobs`, in vLLM 0.32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pure.plural import count_noun

SMALLEST = -1e4
"""vLLM writes -9999 for a log-probability of minus infinity."""

ROUNDING = 1e-3
"""A log-probability may be above 0 by this, from rounding."""


class Asked(NamedTuple):
    """A completion that a server was asked for.

    Fields:
        prompt: its token ids.
        seed: of its random numbers.
        name: of its row and sample, for messages.
    """

    prompt: list[int]
    seed: int
    name: str


class Completion(NamedTuple):
    """A completion as token ids.

    Fields:
        tokens: ids, the stop token among them.
        logps: nats, one for each.
    """

    tokens: list[int]
    logps: list[float]


def read_answer(
    answer: Any,
    asked: Asked,
    *,
    place: str,
    longest: int,
    vocabulary: int,
    stop_tokens: tuple[int, ...],
) -> Completion:
    """Check an answer, and return its tokens and log-probabilities.

    Args:
        answer: parsed JSON.
        asked: what the server was asked for.
        place: address and path, for messages.
        longest: M, tokens at most.
        vocabulary: ids are below it.
        stop_tokens: ids that end a completion.

    Returns:
        Completion.

    Raises:
        ValueError: for an answer without token ids or log-probabilities, with more tokens than asked, with
            ids of another vocabulary, of another prompt, or that ended for another reason; in one line.

    Example:
        >>> answer = {"choices": [{
        ...     "token_ids": [5, 1], "logprobs": {"token_logprobs": [-0.5, -1.0]}, "finish_reason": "stop"}]}
        >>> read_answer(
        ...     answer, Asked([3], 0, "row 0"), place="", longest=9, vocabulary=8, stop_tokens=(1,))
        Completion(tokens=[5, 1], logps=[-0.5, -1.0])
    """
    try:
        (choice,) = answer["choices"]
        tokens, reason = choice.get("token_ids"), choice.get("finish_reason")
        logps: Any = (choice.get("logprobs") or {}).get("token_logprobs")
        prompt = choice.get("prompt_token_ids")
    except (TypeError, KeyError, ValueError, AttributeError):
        problem = f"expected one choice, got {str(answer)[:80]!r}"
    else:
        problem = (
            _describe_tokens(tokens, longest, vocabulary)
            or _describe_logps(logps, tokens)
            or _describe_end(tokens, reason, longest, stop_tokens)
        )
        if prompt not in (None, asked.prompt):
            problem = f"the server read another prompt, {str(prompt)[:40]}, not {str(asked.prompt)[:40]}"
    if problem:
        raise ValueError(f"{place}: {asked.name}: {problem}")
    return Completion(tokens, [min(x, 0.0) for x in logps])


def _describe_tokens(tokens: Any, longest: int, vocabulary: int) -> str:
    """The problem of an answer's tokens, or ""."""
    if tokens is None:
        return "the answer has no token_ids; vLLM has sent them since 0.10.2, for return_token_ids"
    if not isinstance(tokens, list) or not all(type(x) is int for x in tokens):
        return f"expected token_ids to be a list of integers, got {str(tokens)[:80]!r}"
    if not tokens:
        return "the answer has no token; was the request aborted?"
    if len(tokens) > longest:
        return f"asked for at most {count_noun(longest, 'token')}, got {len(tokens)}"
    unknown = [x for x in tokens if not 0 <= x < vocabulary]
    if unknown:
        return (
            f"token {unknown[0]} is outside the vocabulary of {vocabulary} ids; does the server serve the "
            "model that is trained?"
        )
    return ""


def _describe_logps(logps: Any, tokens: list[int]) -> str:
    """The problem of an answer's log-probabilities, or ""."""
    if logps is None:
        return "the answer has no logprobs; the server must send token_logprobs, for logprobs=0"
    if not isinstance(logps, list) or not all(type(x) in (int, float) for x in logps):
        return f"expected token_logprobs to be a list of numbers, got {str(logps)[:80]!r}"
    if len(logps) != len(tokens):
        got = count_noun(len(logps), "log-probability", "log-probabilities")
        return f"got {got} for {count_noun(len(tokens), 'token')}"
    wrong = [x for x in logps if not (SMALLEST <= x <= ROUNDING) or math.isnan(x)]
    if wrong:
        return (
            f"expected log-probabilities of at most 0, got {wrong[0]}; start the server with --logprobs-mode "
            "processed_logprobs"
        )
    return ""


def _describe_end(tokens: list[int], reason: Any, longest: int, stop_tokens: tuple[int, ...]) -> str:
    """The problem of the way in which an answer ended, or ""."""
    early = [x for x in tokens[:-1] if x in stop_tokens]
    if early:
        return f"the completion goes on after the stop token {early[0]}"
    if reason == "stop" and tokens[-1] not in stop_tokens:
        return (
            f"the completion was ended by {tokens[-1]}, which is not among the stop tokens "
            f"{list(stop_tokens)}; start the server with --generation-config vllm"
        )
    if reason == "length" and len(tokens) < longest and tokens[-1] not in stop_tokens:
        return (
            f"the completion was cut off after {len(tokens)} of {count_noun(longest, 'token')}; start the "
            "server with a larger --max-model-len"
        )
    if reason not in ("stop", "length"):
        return f"expected the completion to end by 'stop' or 'length', got {reason!r}; was the server paused?"
    return ""
