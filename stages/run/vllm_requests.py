"""Requests to a vLLM server: what it serves, sampling parameters, and many completions at once.

The protocol is that of vLLM 0.32.

Shape letters: V vocabulary.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pure.generation.sampling import Sampling
from stages.run.http_json import Calls, Server, cancel, request, wait_until_up
from stages.run.vllm_answers import Asked

PROCESSED = "processed_logprobs"
"""Value of vLLM's --logprobs-mode for log-probabilities of the distribution that is sampled from."""

EXCLUDED = -100.0
"""Bias of an id that must not be sampled, the lowest that the protocol has."""


def sampling_parameters(sampling: Sampling, vocab_size: int) -> dict[str, Any]:
    """Translate sampling settings into the fields of a request for a completion.

    Every parameter is given, as the server would else take its own default, or that of the model's
    generation_config.json.

    Args:
        sampling: one number each, no tensors with axes.
        vocab_size: V, of the model.

    Returns:
        The fields of POST /v1/completions, but for the prompt, the seed and the model's name.

    Raises:
        ValueError: for a setting that is a tensor with an axis; it is named.

    Example:
        >>> fields = sampling_parameters(Sampling(max_new_tokens=5, top_k=3, stop_tokens=(1,)), vocab_size=9)
        >>> [fields[name] for name in ("max_tokens", "top_k", "top_p", "stop_token_ids", "ignore_eos")]
        [5, 3, 1.0, [1], True]
    """
    fields = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": _number("temperature", sampling.temperature),
        "top_k": int(_number("top_k", sampling.top_k, 0)),
        "top_p": _number("top_p", sampling.top_p, 1.0),
        "min_p": _number("min_p", sampling.min_p, 0.0),
        "repetition_penalty": _number("repetition_penalty", sampling.repetition_penalty, 1.0),
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(sampling.stop_tokens),
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
    }
    if sampling.vocabulary is not None and sampling.vocabulary < vocab_size:
        fields["logit_bias"] = {str(i): EXCLUDED for i in range(sampling.vocabulary, vocab_size)}
    return fields


def seed_of(key: Tensor) -> int:
    """Return a key as a signed 64-bit integer, the type of vLLM's seeds.

    Args:
        key: [2] uint32.

    Returns:
        An integer in -2^63 .. 2^63 - 1; another key, another integer.

    Example:
        >>> seed_of(torch.tensor([1, 2])), seed_of(torch.tensor([2**32 - 1, 2**32 - 1]))
        (4294967298, -1)
    """
    high, low = key.tolist()
    bits = (high << 32) | low
    return bits - (1 << 64) if bits >> 63 else bits


def request_completions(
    server: Server, body: Mapping[str, Any], asked: list[Asked], at_once: int
) -> list[Any]:
    """Send one request for each completion, many at a time.

    Args:
        server: the server.
        body: fields that all requests share.
        asked: prompts and seeds.
        at_once: requests at a time.

    Returns:
        The answers, in order.

    Raises:
        ConnectionError, TimeoutError, ValueError: of the request that failed first; the others are ended.
    """
    pool = concurrent.futures.ThreadPoolExecutor(max(1, min(at_once, len(asked))))
    calls = Calls(threading.Event(), [])
    try:
        futures = [
            pool.submit(
                request,
                server,
                "POST",
                "/v1/completions",
                {**body, "prompt": one.prompt, "seed": one.seed},
                repeat=True,
                calls=calls,
            )
            for one in asked
        ]
        for future in concurrent.futures.as_completed(futures):
            future.result()
        return [future.result() for future in futures]
    finally:
        cancel(calls)
        pool.shutdown(cancel_futures=True)


def connect(
    server: Server, parameters: Mapping[str, Any], seconds: float, say: Callable[[str], Any], longest: int
) -> str:
    """Wait for the server, and check what it serves.

    Args:
        server: the server.
        parameters: from `sampling_parameters`.
        seconds: how long to wait until it listens.
        say: prints a message to the user.
        longest: tokens of the longest prompt.

    Returns:
        The name of its model.

    Raises:
        ConnectionError, TimeoutError: if it does not listen or answer in time.
        ValueError: if its context is too short, or its log-probabilities are of another distribution.
    """
    models = wait_until_up(server, "/v1/models", seconds, say)
    try:
        served = models["data"][0]
        name, context = served["id"], served.get("max_model_len")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ValueError(
            f"{server.address}/v1/models: expected {{'data': [{{'id': NAME}}]}}, got {str(models)[:80]!r}; "
            "is it a vLLM server?"
        ) from None
    tokens = longest + parameters["max_tokens"]
    if isinstance(context, int) and tokens > context:
        raise ValueError(
            f"{server.address}: {longest} prompt tokens and {parameters['max_tokens']} new ones exceed the "
            f"server's max_model_len {context}; start it with --max-model-len {tokens}"
        )
    _check_mode(server, parameters)
    return name


def _check_mode(server: Server, parameters: Mapping[str, Any]) -> None:
    """Refuse a server whose log-probabilities are not those of the distribution that is sampled from."""
    information = request(server, "GET", "/server_info?config_format=json", repeat=True)
    try:
        mode = information["vllm_config"]["model_config"]["logprobs_mode"]
    except (TypeError, KeyError):
        mode = None
    plain = parameters["temperature"] == 1.0  # raw and processed log-probabilities are then the same
    if mode != PROCESSED and not (plain and mode == "raw_logprobs"):
        raise ValueError(
            f"{server.address}/server_info: logprobs_mode is {mode!r}, and the loss needs log-probabilities "
            f"at temperature {parameters['temperature']}; start the server with --logprobs-mode {PROCESSED}"
        )


def _number(name: str, value: float | Tensor | None, default: float = 0.0) -> float:
    """A setting as a number; refuses a tensor with axes."""
    if value is None:
        return default
    if isinstance(value, Tensor) and value.ndim:
        raise ValueError(
            f"vllm_rollout: {name} is a tensor {list(value.shape)}; the server takes one number for all rows"
        )
    return float(value)
