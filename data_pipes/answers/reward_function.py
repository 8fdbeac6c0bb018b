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

from pure.plural import count_noun

Gather = Callable[[Sequence[Awaitable]], list]
"""Runs awaitables and returns their results in order, with the exception in place of a result for each that
raised; see `stages.run.rewards.coroutines`."""

BATCHED = ("prompts", "completions", "completion_ids")
"""Parameters that mark a function as batched; one is enough."""

RESERVED_COLUMNS = ("prompt", "completion", "completion_ids")
"""Columns that are not passed to a batched function, which gets the batch's own prompts and completions."""

UNSUPPORTED_PARAMETERS = ("trainer_state", "log_extra", "log_metric", "environments")
"""Further arguments that TRL's trainer passes to reward functions; not supported here."""

MAX_QUOTED = 200
"""Characters of a text that an error message quotes at most."""

MAX_FLOAT32 = torch.finfo(torch.float32).max


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
    batch: Completions,
    *,
    on_bad: Callable[[str], Any],
    gather: Gather | None = None,
) -> list[float]:
    """Computes one function's rewards for a batch of completions.

    Args:
        name: name of the function, for error messages.
        function: of one of the two signatures; see the module.
        batch: B completions.
        on_bad: called with a message for each completion whose reward is missing: the function raised, or
            returned something other than a finite float32 number or None.
        gather: runs coroutines; None refuses them.

    Returns:
        B numbers; NaN if the function returned None (this reward does not apply to the completion), or after
        on_bad.

    Edge cases: if a row's `prompt` (or `messages`) is a list of messages, a batched function gets that
    list, and the completion as a list of one message, as in TRL; otherwise texts. Rewards may be
    Python, NumPy or torch numbers, or booleans.

    Raises:
        ValueError: if a batched function does not return one reward per completion, or a function is a
            coroutine and `gather` is None.

    Example:
        >>> batch = Completions(["a", "b"], ["x", "yy"], [[1], [2, 2]], [{}, {}])
        >>> short = lambda completions, **_: [-len(text) for text in completions]
        >>> compute_rewards("short", short, batch, on_bad=print)
        [-1.0, -2.0]
        >>> some = lambda prompt, completion, row: True if prompt == "a" else None
        >>> compute_rewards("some", some, batch, on_bad=print)
        [1.0, nan]
    """
    if takes_batch(function):
        results = _call_batched(name, function, batch, on_bad, gather)
    else:
        calls = zip(batch.prompts, batch.completions, batch.rows, strict=True)
        results = _await_results(name, [_call(function, *arguments) for arguments in calls], gather)
    rewards = []
    for i, result in enumerate(results):
        number, fault = _reward_number(result)
        if fault:
            on_bad(f"the reward {name!r} {fault}, {_quote_completion(batch, i)}")
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
            is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if is_variadic or parameter.default is not parameter.empty:
                continue
            if parameter.name not in (*BATCHED, *columns):
                why = f"the rows have no such column; they have {', '.join(map(str, columns)) or 'none'}"
                if parameter.name in UNSUPPORTED_PARAMETERS:
                    why = "only TRL's trainer passes it, which does not run here: give it a default"
                raise ValueError(f"the reward {name!r} takes {parameter.name!r}, and {why}")
        return
    try:
        inspect.signature(function).bind("", "", {})
    except TypeError:
        raise ValueError(
            f"the reward {name!r} takes ({', '.join(parameters)}); expected (prompt, completion, row), or a "
            "whole batch as in TRL, (prompts, completions, **columns)"
        ) from None
    except ValueError:  # a C function without a signature
        return


def _parameters(function: Callable) -> Mapping[str, inspect.Parameter]:
    """Parameters by name; {} for a C function without a signature."""
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
    name: str, function: Callable, batch: Completions, on_bad: Callable, gather: Gather | None
) -> list:
    """Calls a batched function and returns its B results."""
    result = _await_results(name, [_call(function, **_batch_arguments(function, batch))], gather)[0]
    count = len(batch.completions)
    if isinstance(result, Exception):
        on_bad(
            f"the reward {name!r} {_describe_exception(result)}, for a batch of "
            f"{count_noun(count, 'completion')}, the first {_quote_completion(batch, 0)}"
        )
        return [None] * count
    try:
        rewards = None if isinstance(result, str | bytes | Mapping) else list(result)
    except TypeError:
        rewards = None
    if rewards is None or len(rewards) != count:
        got = f"a {type(result).__name__}" if rewards is None else str(len(rewards))
        raise ValueError(
            f"the reward {name!r} gave {got}, expected a list of {count_noun(count, 'reward')}, one per "
            "completion"
        )
    return rewards


def _batch_arguments(function: Callable, batch: Completions) -> dict[str, Any]:
    """Keyword arguments of a batched function: those that it names, or all if it takes **kwargs."""
    columns = dict.fromkeys(key for row in batch.rows for key in row if key not in RESERVED_COLUMNS)
    arguments: dict[str, Any] = {key: [row.get(key) for row in batch.rows] for key in columns}
    prompts: list[str | list] = list(batch.prompts)
    completions: list[str | list] = list(batch.completions)
    for i, row in enumerate(batch.rows):
        if messages := _prompt_messages(row):
            prompts[i] = messages
            completions[i] = [{"role": "assistant", "content": batch.completions[i]}]
    arguments |= {"prompts": prompts, "completions": completions, "completion_ids": batch.ids}
    parameters = _parameters(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return arguments
    return {key: value for key, value in arguments.items() if key in parameters}


def _prompt_messages(row: Mapping[str, Any]) -> list | None:
    """The prompt of a row as a list of messages; None if it is a text."""
    prompt = row.get("prompt")
    if prompt is None:
        prompt = row.get("messages")
    if not prompt or not isinstance(prompt, list | tuple):
        return None
    if not all(isinstance(message, Mapping) and "role" in message for message in prompt):
        return None
    return list(prompt)


def _reward_number(value: Any) -> tuple[float, str]:
    """Converts a result to (reward, ""), with NaN for None, or to (NaN, what is wrong with it)."""
    if value is None:
        return math.nan, ""
    if isinstance(value, Exception):
        return math.nan, _describe_exception(value)
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:
        number = math.nan
    if abs(number) <= MAX_FLOAT32:
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


def _quote_completion(batch: Completions, i: int) -> str:
    """Quotes prompt and completion `i` for an error message."""
    prompt, completion = batch.prompts[i][-MAX_QUOTED:], batch.completions[i][:MAX_QUOTED]
    return f"for the prompt {prompt!r} and the completion {completion!r}"
