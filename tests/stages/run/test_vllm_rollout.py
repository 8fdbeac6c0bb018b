"""Rollouts of a vLLM server, a stand-in that samples by our sampler: equal to ours, or refused in one line."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pure import optim, random, tree
from pure.adapt.lora import bind, merge
from pure.adapt.lora_config import LoRAConfig
from pure.generation.sampling import Sampling
from pure.interop import hf
from pure.loss.importance import IMPORTANCE_METRICS
from pure.nn.transformer import transformer
from pure.types import Tree
from stages.checkpoint.fingerprint import describe
from stages.grpo import grpo
from stages.rollout import Rollouts, rollout
from stages.run.vllm_requests import sampling_parameters
from stages.run.vllm_rollout import VLLMRollout, vllm_rollout
from stages.run.vllm_weights import folder_sender
from tests.laws.test_stages import VOCABULARY, small
from tests.stages.run.vllm_server import Fault, Running, cut, hang, serve
from tests.stages.test_online import KINDS, MODEL, SAMPLING, even_share, prompt_batch

PARAMS = MODEL.init(random.key(7))
KEY = random.key(11)
SAMPLES = 2
BATCH, OTHER = ({name: x[:4] for name, x in prompt_batch(i).items()} for i in range(2))
sample_here = partial(rollout, MODEL, samples=SAMPLES, sampling=SAMPLING)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., VLLMRollout]:
    """Build a sampler that sends weights through a folder, and waits for nothing."""
    options = {
        "model": MODEL,
        "samples": SAMPLES,
        "sampling": SAMPLING,
        "send": folder_sender(tmp_path / "weights"),
        "seconds": 5.0,
        "waits": (),
        "start_seconds": 0.0,
    }
    return lambda address, **changes: vllm_rollout(address, **(options | changes))


def bodies(running: Running) -> list[Any]:
    """The requests for completions."""
    return [body for path, body in running.log if path == "/v1/completions"]


def assert_equal(found: Rollouts, expected: Rollouts) -> None:
    for name in ("tokens", "starts", "mask", "ended", "row"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.logps, expected.logps, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.6, "vocabulary": 9},
        {"stop_tokens": ()},
        {"top_k": 3, "temperature": 1.3, "stop_tokens": (1, 7)},
    ],
    ids=str,
)
def test_a_server_samples_the_tokens_that_are_sampled_here(
    changes: dict, make: Callable[..., VLLMRollout]
) -> None:
    sampling = SAMPLING._replace(**changes)
    expected = sample_here(PARAMS, BATCH, KEY, sampling=sampling)
    assert expected.mask.sum(1).unique().numel() > 1 or not sampling.stop_tokens
    with serve(MODEL) as running:
        assert_equal(make(running.address, sampling=sampling)(PARAMS, BATCH, KEY), expected)
        assert running.weights == [list(hf.to_weights(PARAMS))]
        assert {body["model"] for body in bodies(running)} == {"policy"}


@KINDS
def test_training_on_a_server_equals_training_here(kind: object, make: Callable[..., VLLMRollout]) -> None:
    ends = []
    with serve(MODEL) as running:
        for elsewhere in (None, make(running.address)):
            stage = kind(
                MODEL,
                optim.adam(1e-2, eps=1e-4),
                score=even_share,
                rollout=elsewhere,
                importance_cap=2.0,
                samples=SAMPLES,
                sampling=SAMPLING,
            )
            batches = [BATCH, OTHER]
            states = [stage.init(random.key(0))]
            for batch in batches:
                states.append(stage.step(states[-1], batch))
            ends.append(states)
        assert len(running.weights) == 2
    for here, there in zip(*ends, strict=True):
        torch.testing.assert_close(here.metrics, there.metrics, rtol=1e-4, atol=1e-5, equal_nan=True)
    for x, y in zip(*(tree.leaves(states[-1].params) for states in ends), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    metrics = ends[1][-1].metrics
    assert metrics["sampling/sampling_logp_difference/mean"] < 1e-5
    assert abs(metrics[IMPORTANCE_METRICS[0]] - 1) < 1e-5


def test_weights_are_sent_when_a_bit_of_them_has_changed(make: Callable[..., VLLMRollout]) -> None:
    params = tree.clone(PARAMS)
    with serve(MODEL) as running:
        sample = make(running.address)
        first = sample(params, BATCH, KEY)
        assert_equal(sample(tree.clone(params), BATCH, KEY), first)
        assert len(running.weights) == 1
        for leaf in tree.leaves(params):
            leaf.mul_(-1.5)  # in place, as a donated step writes
        changed = sample(params, BATCH, KEY)
        assert len(running.weights) == 2
    assert not torch.equal(changed.tokens, first.tokens)
    assert_equal(changed, sample_here(params, BATCH, KEY))


def test_weights_are_sent_again_after_a_failure(make: Callable[..., VLLMRollout]) -> None:
    broken = [True]

    def fail_once(handler: Any, path: str, body: Any, answer: bytes) -> bool:
        if path == "/collective_rpc" and broken.pop() if broken else False:
            return cut(handler, path, body, answer)
        return False

    with serve(MODEL, fault=fail_once) as running:
        sample = make(running.address)
        with pytest.raises(ConnectionError, match=r"/collective_rpc: the connection broke"):
            sample(PARAMS, BATCH, KEY)
        assert_equal(sample(PARAMS, BATCH, KEY), sample_here(PARAMS, BATCH, KEY))
        assert len(running.weights) == 2


def test_of_several_processes_one_sends_and_all_wait_for_it(make: Callable[..., VLLMRollout]) -> None:
    """The rows of two processes are those of one; the second waits for the first to have sent."""
    order: list[str] = []

    def synchronize(name: str, prepare: Callable[[], None]) -> None:
        prepare()
        order.append(name)

    with serve(MODEL) as running:
        parts = []
        for name, sends in (("first", True), ("second", False)):
            rows = slice(0, 2) if sends else slice(2, 4)
            sample = make(running.address, sends_weights=sends, synchronize=partial(synchronize, name))
            batch = {key: x[rows] for key, x in BATCH.items()}
            before = len(bodies(running))
            parts.append(sample(PARAMS, batch, KEY))
            assert order[-1] == name
            assert len(bodies(running)) - before == 4
        assert len(running.weights) == 1
    both = Rollouts(*(torch.cat(pair) for pair in zip(*parts, strict=True)))
    assert_equal(both, sample_here(PARAMS, BATCH, KEY))


def test_seeds_depend_on_key_row_and_sample_only(make: Callable[..., VLLMRollout]) -> None:
    def seeds(running: Running) -> list[int]:
        found = sorted(body["seed"] for body in bodies(running))
        running.log.clear()
        return found

    with serve(MODEL, PARAMS) as running:
        sample = make(running.address)
        sample(PARAMS, BATCH, KEY)
        first = seeds(running)
        make(running.address, requests_at_once=1)(PARAMS, BATCH, KEY)
        assert seeds(running) == first
        sample(PARAMS, OTHER, KEY)
        assert not set(seeds(running)) & set(first)
        sample(PARAMS, BATCH, random.key(12))
        assert not set(seeds(running)) & set(first)
    assert len(set(first)) == 8
    assert min(first) >= -(2**63)
    assert max(first) < 2**63


def test_adapters_are_merged_by_a_function_of_the_params(make: Callable[..., VLLMRollout]) -> None:
    config = LoRAConfig(rank=2, targets=("q", "v"))
    adapted = bind(MODEL, PARAMS, config)
    adapters = tree.map(lambda x: x + 0.3, adapted.init(random.key(3)))
    expected = rollout(adapted, adapters, BATCH, KEY, samples=SAMPLES, sampling=SAMPLING)
    with serve(MODEL) as running:
        with pytest.raises(ValueError, match=r"has no Hugging Face name .*; give weights="):
            make(running.address, model=adapted)(adapters, BATCH, KEY)

        def merged(params: Tree) -> dict[str, torch.Tensor]:
            return hf.to_weights(merge(PARAMS, params, config))

        assert_equal(make(running.address, model=adapted, weights=merged)(adapters, BATCH, KEY), expected)
        assert running.weights == [list(hf.to_weights(PARAMS))]


def test_every_setting_is_sent_and_overrules_the_servers_defaults() -> None:
    assert sampling_parameters(Sampling(max_new_tokens=7), 17) == {
        "max_tokens": 7,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [],
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
    }
    settings = {"top_k": 5, "top_p": 0.5, "min_p": 0.25, "repetition_penalty": 1.5, "temperature": 0.5}
    found = sampling_parameters(Sampling(stop_tokens=(1, 2), vocabulary=15, **settings), 17)
    assert {name: found[name] for name in settings} == settings
    assert found["stop_token_ids"] == [1, 2]
    assert found["logit_bias"] == {"15": -100.0, "16": -100.0}
    assert sampling_parameters(Sampling(temperature=torch.tensor(0.5)), 17)["temperature"] == 0.5
    with pytest.raises(ValueError, match=r"top_p is a tensor .2.; the server takes one number"):
        sampling_parameters(Sampling(top_p=torch.ones(2)), 17)


def change(**changes: Any) -> Fault:
    """Answer with some fields of the choice changed."""

    def fault(handler: Any, path: str, body: Any, answer: bytes) -> bool:
        if path != "/v1/completions":
            return False
        choice = json.loads(answer)["choices"][0] | changes
        handler.send(json.dumps({"choices": [choice]}).encode())
        return True

    return fault


def on_completions(fault: Fault) -> Fault:
    return lambda handler, path, *rest: path == "/v1/completions" and fault(handler, path, *rest)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (change(token_ids=None), ValueError, "row 0, sample 0: the answer has no token_ids"),
        (change(logprobs=None), ValueError, "row 0, sample 0: the answer has no logprobs"),
        (change(token_ids=[3] * 6), ValueError, "row 0, sample 0: asked for at most 5 tokens, got 6"),
        (
            change(token_ids=[VOCABULARY]),
            ValueError,
            "row 0, sample 0: token 17 is outside the vocabulary of 17",
        ),
        (change(prompt_token_ids=[1]), ValueError, "row 0, sample 0: the server read another prompt"),
        (on_completions(cut), ConnectionError, "/v1/completions: the connection broke"),
        (on_completions(hang), TimeoutError, "/v1/completions: no complete answer within 0.3 s"),
        (hang, TimeoutError, "/v1/models: no complete answer within 0.3 s"),
    ],
)
def test_a_wrong_answer_is_refused_in_one_line(
    fault: Fault, kind: type[Exception], message: str, make: Callable[..., VLLMRollout]
) -> None:
    start = time.monotonic()
    with serve(MODEL, fault=fault) as running, pytest.raises(kind) as caught:
        make(running.address, seconds=0.3 if kind is TimeoutError else 5.0)(PARAMS, BATCH, KEY)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 3


def test_the_first_failure_ends_the_other_requests(make: Callable[..., VLLMRollout]) -> None:
    def one_bad(handler: Any, path: str, body: Any, answer: bytes) -> bool:
        if len(body["prompt"]) != 2:
            return hang(handler, path, body, answer)
        handler.send(b'{"detail": "no"}', 400)
        return True

    start = time.monotonic()
    with (
        serve(MODEL, fault=on_completions(one_bad)) as running,
        pytest.raises(ValueError, match="the server answered 400: no"),
    ):
        make(running.address, seconds=60.0, waits=(60.0,))(PARAMS, BATCH, KEY)
    assert time.monotonic() - start < 3


def test_a_broken_connection_is_tried_again(make: Callable[..., VLLMRollout]) -> None:
    broken = list(range(5))

    def break_some(handler: Any, path: str, body: Any, answer: bytes) -> bool:
        return bool(broken) and broken.pop() >= 0 and cut(handler, path, body, answer)

    with serve(MODEL, fault=on_completions(break_some)) as running:
        found = make(running.address, waits=(0.01,) * 6)(PARAMS, BATCH, KEY)
        assert len(bodies(running)) == 8 + 5
    assert_equal(found, sample_here(PARAMS, BATCH, KEY))


@pytest.mark.parametrize(
    ("serves", "changes", "message"),
    [
        ({"context": 7}, {}, "3 prompt tokens and 5 new ones exceed .* max_model_len 7; .*--max-model-len 8"),
        (
            {"mode": "raw_logprobs"},
            {"temperature": 0.7},
            "logprobs_mode is 'raw_logprobs', .*temperature 0.7",
        ),
        ({"mode": "raw_logits"}, {}, "logprobs_mode is 'raw_logits', .*--logprobs-mode processed_logprobs"),
        ({"mode": None}, {}, "logprobs_mode is None"),
        ({"dev_mode": False}, {}, "/server_info.*answered 404"),
    ],
)
def test_a_server_with_other_settings_is_refused(
    serves: dict, changes: dict, message: str, make: Callable[..., VLLMRollout]
) -> None:
    with serve(MODEL, **serves) as running, pytest.raises(ValueError, match=message):
        make(running.address, sampling=SAMPLING._replace(**changes))(PARAMS, BATCH, KEY)
    assert bodies(running) == running.weights == []


def test_raw_log_probabilities_at_temperature_one_are_those_of_the_policy(
    make: Callable[..., VLLMRollout],
) -> None:
    with serve(MODEL, mode="raw_logprobs") as running:
        make(running.address)(PARAMS, BATCH, KEY)
        assert len(bodies(running)) == 8


def test_another_program_at_the_address_is_refused(make: Callable[..., VLLMRollout]) -> None:
    def answer(handler: Any, *rest: Any) -> bool:
        handler.send(b'["hello"]')
        return True

    with serve(MODEL, fault=answer) as running, pytest.raises(ValueError, match="is it a vLLM server"):
        make(running.address)(PARAMS, BATCH, KEY)
    with pytest.raises(ConnectionError, match=f"no server at {running.address}"):
        make(running.address)(PARAMS, BATCH, KEY)


def test_a_model_that_vllm_does_not_know_is_refused(make: Callable[..., VLLMRollout]) -> None:
    with pytest.raises(ValueError, match="vLLM has no architecture like this model's"):
        make("http://localhost:1", model=transformer(small(use_rms_norm=False)))
    with pytest.raises(ValueError, match="samples and requests_at_once must be at least 1, got 0"):
        make("http://localhost:1", samples=0)


def test_the_fingerprint_has_the_settings_and_no_address(make: Callable[..., VLLMRollout]) -> None:
    def stage(sampler: Any) -> dict[str, str]:
        options = {"score": even_share, "samples": SAMPLES, "sampling": SAMPLING}
        return describe(grpo(MODEL, optim.sgd(0.1), rollout=sampler, **options))

    here, there = (stage(make(address)) for address in ("http://a:1", "https://b:2/c"))
    assert here == there
    assert not any("http" in text or "//" in text for text in here.values())
    assert any("VLLMRollout 2 samples, max_tokens 5" in text for text in here.values())
    assert here != stage(None)
    for changes in ({"samples": 5}, {"sampling": SAMPLING._replace(top_p=0.5)}):
        assert stage(make("http://a:1", **changes)) != here
