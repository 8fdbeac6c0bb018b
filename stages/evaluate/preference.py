"""Preference accuracy: the share of pairs whose chosen answer a model ranks above the rejected one.

Rafailov et al., "Direct Preference Optimization", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from data_pipes.chat.chat import Encoded
from data_pipes.record_encoding import Pair
from data_pipes.tokenizer.spec import Tokenizer
from pure.types import Model, Tree
from stages.evaluate.likelihood import TOKENS, Likelihood, Window, window_log_likelihoods
from stages.evaluate.task import Figure, Sample, Task, digest, mean

Sides = tuple[Window, Window]
"""(chosen, rejected): each answer after its prompt."""


def preference(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    reference: Tree | None = None,
    tokens: int = TOKENS,
    name: str = "preference",
) -> Task:
    """Build the task that compares the log-probabilities of chosen and rejected answers.

        margin   = [log π(chosen) - log π_ref(chosen)] - [log π(rejected) - log π_ref(rejected)]      nats
        accuracy = mean(margin > 0)

    Args:
        model: gives `hidden` and `logits`.
        params: the policy's params.
        tokenizer: decodes the answers for the samples.
        pairs: encoded pairs; their trained tokens are the answers.
        reference: params of the reference policy; None compares the policy's own log-probabilities.
        tokens: number of tokens per forward pass, approximately.
        name: name of the task in the results.

    Returns:
        Task with the figures "accuracy" and "margin"; each pair counts as a question.

    Edge cases: a policy that is its own reference has margins of exactly 0, and an accuracy of 0.

    Raises:
        ValueError: if an answer has no token, or no prompt before it.

    Source: Rafailov et al. 2023, section 4: the implicit reward, without beta.
    """
    sides = [(_answer_window(pair.chosen), _answer_window(pair.rejected)) for pair in pairs]
    score_fn = partial(window_log_likelihoods, model, params, tokens=tokens)
    reference_fn = (
        None if reference is None else partial(window_log_likelihoods, model, reference, tokens=tokens)
    )
    return Task(
        name=name,
        ids=[f"pair {number}" for number in range(len(pairs))],
        answer=partial(_answer, sides, tokenizer=tokenizer, score_fn=score_fn, reference_fn=reference_fn),
        summary=summarize,
        about={"task": "preference", "reference": reference is not None},
        chunk=64,
        digests=[digest([chosen.tokens, rejected.tokens]) for chosen, rejected in sides],
    )


def summarize(samples: Sequence[Sample]) -> dict[str, Figure]:
    """Return the accuracy, and the mean margin in nats."""
    return {"accuracy": mean([s["score"] for s in samples]), "margin": mean([s["margin"] for s in samples])}


def _answer_window(side: Encoded) -> Window:
    """Return the answer after its prompt, without the tokens that follow it."""
    positions = side.trained.nonzero()[0]
    if not len(positions) or positions[0] == 0:
        raise ValueError(
            "preference: expected an answer after a prompt, got a row without one; is the template right?"
        )
    ids = side.tokens[: int(positions[-1]) + 1].tolist()
    return Window(tuple(ids), len(ids) - int(positions[0]))


def _answer(
    pairs: Sequence[Sides],
    numbers: Sequence[int],
    *,
    tokenizer: Tokenizer,
    score_fn: Callable[[Sequence[Window]], list[Likelihood]],
    reference_fn: Callable[[Sequence[Window]], list[Likelihood]] | None,
) -> list[Sample]:
    """Score a chunk of pairs: two log-probabilities each, and two under the reference."""
    windows = [window for number in numbers for window in pairs[number]]
    logps = [likelihood.logp for likelihood in score_fn(windows)]
    rewards = logps
    if reference_fn is not None:
        rewards = [logp - other.logp for logp, other in zip(logps, reference_fn(windows), strict=True)]
    return [
        _sample(tokenizer, pairs[number], rewards[2 * i] - rewards[2 * i + 1], logps[2 * i : 2 * i + 2])
        for i, number in enumerate(numbers)
    ]


def _sample(tokenizer: Tokenizer, sides: Sides, margin: float, logps: list[float]) -> Sample:
    """Return the sample of a pair."""
    chosen, rejected = (tokenizer.decode(list(ids[-scored:])) for ids, scored in sides)
    prompt = sides[0].tokens[: -sides[0].scored]
    return {
        "prompt": tokenizer.decode(list(prompt)),
        "output": None,
        "chosen": chosen,
        "rejected": rejected,
        "score": float(margin > 0),
        "margin": margin,
        "logps": logps,
    }
