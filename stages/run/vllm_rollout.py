"""Sample the completions of GRPO and PPO on a vLLM server: token ids in, token ids and log-probabilities out.

The protocol is that of vLLM 0.32: GET /v1/models and /server_info; weights as `stages.run.vllm_weights` says;
POST /v1/completions with a prompt of token ids, `return_token_ids`, `logprobs` and a `seed`. It was tested
against a stand-in that speaks it; no real vLLM was run. A server is started so:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs

and with --weight-transfer-config '{"backend": "nccl"}' for `nccl_sender`.

Reproducibility: a completion's seed is a function of the step's key, the prompt's row and the sample's
number, so that two runs ask for the same seeds, in whatever order and from however many processes. A real
vLLM does not promise the same bits for them: its batches vary with the load, and so does its rounding. A run
is repeated by recording its rollouts (`stages.run.data.rollouts_log`), not by sampling again.

Shape letters: N prompts, G samples of each, B = N G rows, P prompt tokens, M new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.interop import hf
from pure.plural import count_noun
from pure.types import Model, Tree
from stages.rollout import ALTERING, Rollouts, arrange, completion_keys, repeat_prompts
from stages.run.http_json import Server, parse_address
from stages.run.sampling_group import call_together, find_group
from stages.run.vllm_answers import Asked, Completion, read_answer
from stages.run.vllm_requests import connect, request_completions, sampling_parameters, seed_of
from stages.run.vllm_weights import SendWeights, send_paused, sum_bits


class VLLMRollout(NamedTuple):
    """A sampler, as a stage takes it, whose address is no part of a run's fingerprint.

    Fields:
        sample: (params, batch, key) -> Rollouts.
        description: of the number of samples and their settings.
    """

    sample: Callable[[Tree, Tree, Tensor], Rollouts]
    description: str

    def __call__(self, params: Tree, batch: Tree, key: Tensor, /) -> Rollouts:
        """Sample the completions of a batch of prompts."""
        return self.sample(params, batch, key)

    def fingerprint(self) -> str:
        """Return the settings of the sampler, for `stages.checkpoint.fingerprint`."""
        return self.description


def vllm_rollout(
    address: str,
    *,
    model: Model,
    samples: int,
    sampling: Sampling,
    send: SendWeights,
    weights: Callable[[Tree], Mapping[str, Tensor]] = hf.to_weights,
    dtype: torch.dtype | None = None,
    sends_weights: bool | None = None,
    synchronize: Callable[[Callable[[], None]], None] = call_together,
    seconds: float = 600.0,
    waits: tuple[float, ...] = (1.0, 4.0),
    start_seconds: float = 240.0,
    requests_at_once: int = 128,
    api_key: str | None = None,
    say: Callable[[str], Any] = print,
) -> VLLMRollout:
    """Return a sampler for `stages.grpo.grpo(rollout=...)` and `stages.ppo.ppo`, on a vLLM server.

    Generation is the largest part of the time of online training, and a server made for it is many times as
    fast. Its probabilities differ from the trainer's in the last bits, or more in half precision:
    `importance_cap` of the stage weights the loss accordingly.

    Args:
        address: of the server, "http://HOST:PORT"; it serves the model that is trained.
        model: the policy's; its config is that of a Llama, Qwen2 or Qwen3.
        samples: G, completions of each prompt.
        sampling: settings, one number each: temperature, top_k, top_p, min_p, repetition_penalty,
            max_new_tokens and stop_tokens become vLLM's parameters of the same meaning; ids from `vocabulary`
            on get a logit_bias of -100; the server's own defaults and end-of-sequence ids are overruled.
        send: how weights go to the server: `stages.run.vllm_weights.folder_sender(folder)`, or
            `nccl_sender()`.
        weights: params -> {Hugging Face name: tensor}; give another for adapters, which are merged first.
        dtype: the dtype in which weights are sent; None: their own.
        sends_weights: True in one of several processes that train together, False in the others: each
            samples its own prompts, and one sends. None: True in process 0 of torch.distributed, and in one
            that is alone.
        synchronize: calls a function on each of several processes, and returns on none before it has returned
            on all; so that no process samples from old weights. By default those of torch.distributed.
        seconds: largest duration of one request.
        waits: seconds before each repetition of a request for a completion, after a broken connection.
        start_seconds: how long to wait for the server to listen, in the first call.
        requests_at_once: completions that are asked for at the same time.
        api_key: of a server with --api-key.
        say: prints a message to the user.

    Returns:
        VLLMRollout: (params, batch, key) -> Rollouts, as `stages.rollout.rollout`. With top_k, top_p, min_p,
        a repetition penalty or a `vocabulary`, its log-probabilities are those of the distribution after
        them, not of the whole one, and so a little larger.

    Steps, in each call:
        1. In the first: wait for the server, and check its model and settings.
        2. Send the weights, if a bit of them has changed.
        3. One seed per completion, from the key.
        4. One request per completion, many at once.
        5. Check the answers, and lay them out.

    Edge cases: several processes make the same calls in the same order, as those of `stages.data_parallel`
    do; each asks for the completions of its own prompts. Requests for completions, which change nothing, are
    repeated after a broken connection; weights are not. If one request fails, the call fails, and the others
    are ended.

    Raises:
        ValueError: for an address, a model or settings that the protocol cannot express; from a call, for a
            server with another model or other settings, or a wrong answer.
        ConnectionError, TimeoutError: from a call, if the server is not there, stops, or does not answer.

    Example:
        >>> from pure.nn.transformer import transformer
        >>> from stages.run.vllm_weights import folder_sender
        >>> model = transformer(ModelConfig(vocab_size=9, hidden_size=8, num_attention_heads=4))
        >>> sampling = Sampling(max_new_tokens=5, stop_tokens=(1,))
        >>> options = {"model": model, "samples": 4, "sampling": sampling, "send": folder_sender("/tmp")}
        >>> sampler = vllm_rollout("http://localhost:8000", **options)
        >>> sampler.fingerprint()
        '4 samples, max_tokens 5, stop_token_ids [1], temperature 1.0'
    """
    server = Server(parse_address(address), seconds, waits, api_key)
    if samples < 1 or requests_at_once < 1:
        raise ValueError(
            f"vllm_rollout: samples and requests_at_once must be at least 1, got {samples} and "
            f"{requests_at_once}"
        )
    if isinstance(model.config, ModelConfig) and hf.model_type(model.config) == "intro2llm":
        raise ValueError(
            "vllm_rollout: vLLM has no architecture like this model's (LayerNorm, sinusoidal positions, an "
            "ungated feed-forward layer, or biases that Llama and Qwen do not have); sample here instead"
        )
    parameters = sampling_parameters(sampling, model.config.vocab_size)
    sample = partial(
        _sample,
        server=server,
        parameters=parameters,
        sampling=sampling,
        samples=samples,
        vocabulary=model.config.vocab_size,
        names=[],
        connect=partial(connect, server, parameters, start_seconds, say),
        update=partial(_update_weights, server, send, weights, dtype, sends_weights, []),
        synchronize=synchronize,
        requests_at_once=requests_at_once,
    )
    shown = [f"{name} {value}" for name, value in sorted(parameters.items()) if name in _DESCRIBED]
    altered = [
        f"{name} {getattr(sampling, name)}" for name in ALTERING if getattr(sampling, name) is not None
    ]
    vocabulary = [] if sampling.vocabulary is None else [f"vocabulary {sampling.vocabulary}"]
    return VLLMRollout(sample, ", ".join([count_noun(samples, "sample"), *shown, *altered, *vocabulary]))


_DESCRIBED = ("max_tokens", "temperature", "stop_token_ids")
"""Parameters that are always part of the description."""


def _sample(
    params: Tree,
    batch: Tree,
    key: Tensor,
    *,
    server: Server,
    parameters: Mapping[str, Any],
    sampling: Sampling,
    samples: int,
    vocabulary: int,
    names: list[str],
    connect: Callable[[int], str],
    update: Callable[[Tree], None],
    synchronize: Callable[[Callable[[], None]], None],
    requests_at_once: int,
) -> Rollouts:
    """Sample the completions of a batch of prompts; see `vllm_rollout`. `names` holds the model's name."""
    prompts, lengths, row = repeat_prompts(batch, samples)

    # 1 and 2. The server and its weights.
    def prepare() -> None:
        if not names:
            names.append(connect(int(lengths.max())))
        update(params)

    synchronize(prepare)
    # 3. Seeds.
    keys = completion_keys(key, row, samples).cpu()
    asked = [
        Asked(prompt[:length], seed_of(completion_key), f"row {number}, sample {b % samples}")
        for b, (prompt, length, completion_key, number) in enumerate(
            zip(prompts.tolist(), lengths.tolist(), keys, row.tolist(), strict=True)
        )
    ]
    # 4. Requests.
    body = {**parameters, "model": names[0]}
    answers = request_completions(server, body, asked, requests_at_once)
    # 5. Answers.
    completions = [
        read_answer(
            answer,
            one,
            place=f"{server.address}/v1/completions",
            longest=sampling.max_new_tokens,
            vocabulary=vocabulary if sampling.vocabulary is None else sampling.vocabulary,
            stop_tokens=sampling.stop_tokens,
        )
        for answer, one in zip(answers, asked, strict=True)
    ]
    tokens, counts, logps = (
        x.to(prompts.device) for x in _pad_completions(completions, sampling.max_new_tokens)
    )
    return arrange(prompts, lengths, tokens, counts, logps, row, sampling.stop_tokens)


def _pad_completions(completions: list[Completion], longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B, M], their numbers [B] and log-probabilities [B, M]."""
    counts = torch.tensor([len(completion.tokens) for completion in completions])
    tokens = torch.zeros(len(completions), longest, dtype=torch.int64)
    logps = torch.zeros(len(completions), longest, dtype=torch.float32)
    for b, (completion, count) in enumerate(zip(completions, counts.tolist(), strict=True)):
        tokens[b, :count] = torch.tensor(completion.tokens)
        logps[b, :count] = torch.tensor(completion.logps)
    return tokens, counts, logps


def _update_weights(
    server: Server,
    send: SendWeights,
    weights: Callable[[Tree], Mapping[str, Tensor]],
    dtype: torch.dtype | None,
    sends_weights: bool | None,
    sent: list[tuple[int, ...]],
    params: Tree,
) -> None:
    """Send the weights, unless they are those whose sums of bits `sent` has."""
    if not (find_group().rank == 0 if sends_weights is None else sends_weights):
        return
    try:
        named = weights(params)
    except ValueError as error:
        if weights is not hf.to_weights:
            raise
        raise ValueError(
            f"vllm_rollout: a parameter has no Hugging Face name ({error}); give weights=, a function of the "
            "params that returns {name: tensor} of a whole model, such as one that merges adapters"
        ) from None
    now = sum_bits(named)
    if sent == [now]:
        return
    sent.clear()  # until the server has all of them, it has neither these nor the last ones
    send_paused(send, server, named, dtype)
    sent.append(now)
