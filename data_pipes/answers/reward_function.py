"""Call a reward function of any supported signature on a batch of completions.

Two signatures are supported. One completion at a time: `(prompt, completion, row) -> float`. A whole batch,
as in TRL: `(prompts, completions, **columns) -> list of float`, recognised by its parameters' names. Either
may be a coroutine, a lambda, a partial, or an object with `__call__`.

Shape letters: B completions.

Source: TRL's GRPOTrainer, whose reward functions run here unchanged.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

Gather = Callable[[Sequence[Awaitable]], list]
"""Awaitables -> results in order, the exception for one that raised: `stages.run.rewards.coroutines`."""

BATCHED = ("prompts", "completions", "completion_ids")
"""Parameters that mark a function as batched; one is enough."""

OWN = ("prompt", "completion", "completion_ids")
"""Columns that are not passed to a batched function."""

TRAINER = ("trainer_state", "log_extra", "log_metric", "environments")
"""Further arguments of TRL's trainer, which are not supported."""

SHOWN = 200
"""Most characters of a text that a message quotes."""

LARGEST = torch.finfo(torch.float32).max


class Completions(NamedTuple):
    """A batch of completions for reward functions, B of each.

    Fields:
        prompts: texts.
        completions: texts.
        ids: tokens of each completion.
        rows: the data set's row of each prompt.
    """

    prompts: list[str]
    completions: list[str]
    ids: list[list[int]]
    rows: list[Mapping[str, Any]]


def compute_rewards(
    name: str,
    function: Callable,
    answers: Completions,
    *,
    on_bad: Callable[[str], Any],
    gather: Gather | None = None,
) -> list[float]:
    """Computes one function's rewards for a batch of completions.

    Args:
        name: of the function, for messages.
        function: of one of the two signatures; see the module.
        answers: B completions.
        on_bad: gets a sentence for each completion without a reward: the function raised, or returned no
            number that is finite in float32.
        gather: runs coroutines; None refuses them.

    Returns:
        B numbers; NaN if the function returned None (this reward does not apply to the completion), or after
        on_bad.

    Edge cases: if a row's `prompt` (or `messages`) is a list of messages, a batched function gets that
    list, and the completion as a list of one message, as in TRL; otherwise texts. Numbers may be of Python,
    NumPy or torch, or booleans.

    Raises:
        ValueError: if a batched function returns another number of rewards than completions; for a coroutine
            without `gather`.

    Example:
        >>> answers = Completions(["a", "b"], ["x", "yy"], [[1], [2, 2]], [{}, {}])
        >>> short = lambda completions, **_: [-len(text) for text in completions]
        >>> compute_rewards("short", short, answers, on_bad=print)
        [-1.0, -2.0]
        >>> some = lambda prompt, completion, row: True if prompt == "a" else None
        >>> compute_rewards("some", some, answers, on_bad=print)
        [1.0, nan]
    """
    if takes_batch(function):
        results = _call_batched(name, function, answers, on_bad, gather)
    else:
        each = zip(answers.prompts, answers.completions, answers.rows, strict=True)
        results = _await_results(name, [_call(function, *one) for one in each], gather)
    rewards = []
    for i, result in enumerate(results):
        number, fault = _reward_number(result)
        if fault:
            on_bad(f"the reward {name!r} {fault}{_quote_completion(answers, i)}")
        rewards.append(number)
    return rewards


def takes_batch(function: Callable) -> bool:
    """Returns True for a function of a whole batch, as in TRL.

    Example:
        >>> takes_batch(lambda completions, answer, **kwargs: 0)
        True
        >>> takes_batch(lambda prompt, completion, row: 0)
        False
    """
    parameters = _parameters(function)
    if any(name in BATCHED for name in parameters):
        return True
    return bool(parameters) and all(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_reward_function(name: str, function: Callable, columns: Sequence[str]) -> None:
    """Checks a function's signature before the first completion.

    Args:
        name: of the function.
        function: of one of the two signatures.
        columns: of the rows.

    Raises:
        ValueError: naming a parameter without a column, or the supported signatures.
    """
    parameters = _parameters(function)
    if takes_batch(function):
        for parameter in parameters.values():
            needed = parameter.default is parameter.empty and parameter.kind not in (2, 4)
            if needed and parameter.name not in (*BATCHED, *columns):
                why = (
                    "TRL's trainer gives it, and there is none here: give it a default"
                    if parameter.name in TRAINER
                    else f"the rows have no such column; they have {', '.join(map(str, columns)) or 'none'}"
                )
                raise ValueError(f"the reward {name!r} takes {parameter.name!r}, and {why}")
        return
    try:
        inspect.signature(function).bind("", "", {})
    except TypeError:
        raise ValueError(
            f"the reward {name!r} takes ({', '.join(parameters)}); expected (prompt, completion, row), or a "
            "whole batch as in TRL, (prompts, completions, **columns)"
        ) from None
    except ValueError:  # a function of C without a signature
        return


def _parameters(function: Callable) -> Mapping[str, inspect.Parameter]:
    """Parameters by name; {} for a function in C without a signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _call(function: Callable, *arguments: Any, **named: Any) -> Any:
    """The function's result, or the exception that it raises."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return error


def _await_results(name: str, results: list, gather: Gather | None) -> list:
    """The results, with awaitables replaced by their results."""
    waiting = [i for i, result in enumerate(results) if inspect.isawaitable(result)]
    if not waiting:
        return results
    if gather is None:
        for i in waiting:
            getattr(results[i], "close", lambda: None)()
        raise ValueError(
            f"the reward {name!r} is a coroutine; give gather=stages.run.rewards.coroutines.gather()"
        )
    done = dict(zip(waiting, gather([results[i] for i in waiting]), strict=True))
    return [done.get(i, result) for i, result in enumerate(results)]


def _call_batched(
    name: str, function: Callable, answers: Completions, on_bad: Callable, gather: Gather | None
) -> list:
    """B results of a batched function."""
    result = _await_results(name, [_call(function, **_batch_arguments(function, answers))], gather)[0]
    count = len(answers.completions)
    if isinstance(result, Exception):
        on_bad(
            f"the reward {name!r} {_describe_exception(result)}, for a batch of {count} answers, the first"
            f"{_quote_completion(answers, 0)[1:]}"
        )
        return [None] * count
    try:
        found = list(result) if not isinstance(result, str | bytes | Mapping) else None
    except TypeError:
        found = None
    if found is None or len(found) != count:
        got = f"a {type(result).__name__}" if found is None else str(len(found))
        raise ValueError(
            f"the reward {name!r} gave {got}, expected a list of {count} rewards, one for each answer"
        )
    return found


def _batch_arguments(function: Callable, answers: Completions) -> dict[str, Any]:
    """Keyword arguments of a batched function: those that it names, or all if it takes **kwargs."""
    names = dict.fromkeys(key for row in answers.rows for key in row if key not in OWN)
    talks = [_prompt_messages(row) for row in answers.rows]
    given: dict[str, Any] = {key: [row.get(key) for row in answers.rows] for key in names} | {
        "prompts": [talk or text for talk, text in zip(talks, answers.prompts, strict=True)],
        "completions": [
            [{"role": "assistant", "content": text}] if talk else text
            for talk, text in zip(talks, answers.completions, strict=True)
        ],
        "completion_ids": answers.ids,
    }
    parameters = _parameters(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return given
    return {key: value for key, value in given.items() if key in parameters}


def _prompt_messages(row: Mapping[str, Any]) -> list | None:
    """The prompt of a row as messages; None if the row has a text."""
    found = row.get("prompt") if row.get("prompt") is not None else row.get("messages")
    talk = isinstance(found, list | tuple) and all(
        isinstance(turn, Mapping) and "role" in turn for turn in found
    )
    return list(found) if talk and found else None


def _reward_number(value: Any) -> tuple[float, str]:
    """One reward, NaN for None, and "" or why there is none."""
    if value is None:
        return math.nan, ""
    if isinstance(value, Exception):
        return math.nan, _describe_exception(value)
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:
        number = math.nan
    if abs(number) <= LARGEST:
        return number, ""
    expected = "expected a number that is finite in float32, or None where it does not apply"
    return math.nan, f"gave {_short_repr(value)}; {expected}"


def _short_repr(value: Any) -> str:
    """A value for an error message, shortened."""
    if isinstance(value, float | int):
        return str(value)[:40]
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"


def _describe_exception(error: Exception) -> str:
    """Text of an exception."""
    return f"raised {type(error).__name__}: {error}"


def _quote_completion(answers: Completions, i: int) -> str:
    """Text that quotes the prompt and the completion."""
    return (
        f", for the prompt {answers.prompts[i][-SHOWN:]!r} and the answer {answers.completions[i][:SHOWN]!r}"
    )
