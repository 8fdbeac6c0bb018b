"""Preference accuracy: how often a model that learned from preferences ranks the better of two answers
higher.

Rafailov et al., "Direct Preference Optimization", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from data_pipes.chat.chat import Encoded
from data_pipes.preference import Pair
from data_pipes.tokenizer.spec import Tokenizer
from pure.types import Model, Tree
from stages.evaluate.likelihood import TOKENS, Likelihood, Window, log_probabilities_of
from stages.evaluate.task import Figure, Report, Sample, Task, digest, finish, mean


def preference(
    model: Model, params: Tree, tokenizer: Tokenizer, pairs: Sequence[Pair], **options: Any
) -> Report:
    """Compares the log-probabilities of chosen and rejected answers.

        margin   = [log π(chosen) - log π_ref(chosen)] - [log π(rejected) - log π_ref(rejected)]      nats
        accuracy = mean(margin > 0)

    Args:
        model, params, tokenizer, pairs, options: see `task`.

    Returns:
        Report: "accuracy" and "margin"; one sample a pair.

    Edge cases: a policy that is its own reference has margins of exactly 0, and an accuracy of 0.

    Source: Rafailov et al. 2023, section 4: the implicit reward, without beta.
    """
    return finish(task(model, params, tokenizer, pairs, **options))


def task(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    reference: Tree | None = None,
    tokens: int = TOKENS,
    name: str = "preference",
) -> Task:
    """Prepares `preference` as a Task.

    Args:
        model: gives `hidden` and `logits`.
        params: the policy's.
        tokenizer: writes the answers down.
        pairs: whose trained tokens are the answers.
        reference: params that the policy is compared with; None compares log-probabilities themselves.
        tokens: to read at a time, about.
        name: what results call it.

    Returns:
        Task, one item a pair.

    Raises:
        ValueError: if an answer has no token, or no prompt before it.
    """
    cut = [(_window(pair.chosen), _window(pair.rejected)) for pair in pairs]
    reading = partial(
        _answer, model=model, params=params, reference=reference, tokenizer=tokenizer, cut=cut, tokens=tokens
    )
    about = {"task": "preference", "reference": reference is not None}
    items = [digest([side.tokens for side in sides]) for sides in cut]
    return Task(name, [f"pair {number}" for number in range(len(pairs))], reading, summary, about, 64, items)


def summary(samples: Sequence[Sample]) -> dict[str, Figure]:
    """accuracy, and the mean margin in nats."""
    return {"accuracy": mean([s["score"] for s in samples]), "margin": mean([s["margin"] for s in samples])}


def _window(side: Encoded) -> Window:
    """The answer behind its prompt; what follows the answer is not read."""
    places = side.trained.nonzero()[0]
    if not len(places) or places[0] == 0:
        raise ValueError(
            "preference: expected an answer behind a prompt, got a row without one; is the template right?"
        )
    ids = side.tokens[: int(places[-1]) + 1].tolist()
    return Window(tuple(ids), len(ids) - int(places[0]))


def _answer(
    numbers: Sequence[int],
    *,
    model: Model,
    params: Tree,
    reference: Tree | None,
    tokenizer: Tokenizer,
    cut: Sequence[tuple[Window, Window]],
    tokens: int,
) -> list[Sample]:
    """A chunk of pairs, all four log-probabilities."""
    chosen = [window for number in numbers for window in cut[number]]
    policy = log_probabilities_of(model, params, chosen, tokens=tokens)
    zero = [Likelihood(0.0, False)] * len(chosen)
    frozen = zero if reference is None else log_probabilities_of(model, reference, chosen, tokens=tokens)
    gains = [one.logp - other.logp for one, other in zip(policy, frozen, strict=True)]
    return [
        _sample(
            tokenizer,
            cut[number],
            gains[2 * i] - gains[2 * i + 1],
            [x.logp for x in policy[2 * i : 2 * i + 2]],
        )
        for i, number in enumerate(numbers)
    ]


def _sample(tokenizer: Tokenizer, sides: tuple[Window, Window], margin: float, logps: list[float]) -> Sample:
    """What is kept of a pair."""
    chosen, rejected = (tokenizer.decode(list(w.tokens[-w.scored :])) for w in sides)
    return {
        "prompt": tokenizer.decode(list(sides[0].tokens[: -sides[0].scored])),
        "output": None,
        "chosen": chosen,
        "rejected": rejected,
        "score": float(margin > 0),
        "margin": margin,
        "logps": logps,
    }
