"""Two processes on one sampling server: one sends weights, each asks for its own prompts, and both fail together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh

from pure import optim, random, tree
from pure.types import Tree
from stages.data_parallel import data_parallel
from stages.grpo import grpo
from stages.run.data.rollouts_log import record_rollouts
from stages.run.sampling_group import call_together, find_group, is_on_all
from stages.run.vllm_rollout import vllm_rollout
from stages.run.vllm_weights import folder_sender
from stages.stage import Stage
from tests.crew import Crew
from tests.laws.test_stages import same_bits
from tests.stages.run.vllm_server import serve
from tests.stages.test_online import MODEL, SAMPLING, even_share, prompt_batch

GONE = "http://127.0.0.1:9"
"""An address at which nothing listens."""

BATCHES = [{name: x[:5] for name, x in prompt_batch(i).items()} for i in range(2)]
"""Five prompts, which two processes share unevenly."""


def build(address: str, folder: Path) -> Stage:
    """GRPO on completions of a server, recorded in a folder."""
    options = {"samples": 2, "sampling": SAMPLING}
    sampler = vllm_rollout(
        address,
        model=MODEL,
        send=folder_sender(folder / "weights"),
        seconds=20.0,
        waits=(),
        start_seconds=0.0,
        **options,
    )
    recorded = record_rollouts(
        sampler.sample, folder, settings=sampler.description, stop_tokens=SAMPLING.stop_tokens
    )
    return grpo(MODEL, optim.adam(1e-2, eps=1e-4), score=even_share, rollout=recorded, **options)


def train(a_stage: Stage, steps: int = len(BATCHES)) -> list[Tree]:
    """The states after each step."""
    states = [a_stage.init(random.key(0))]
    for batch in BATCHES[:steps]:
        states.append(a_stage.step(states[-1], batch))
    return states[1:]


def train_in_parallel(address: str, folder: Path, steps: int = len(BATCHES)) -> list[Tree]:
    return train(data_parallel(build(address, folder), init_device_mesh("cpu", (2,))), steps)


def train_and_fail(address: str, folder: Path) -> str:
    """The error of the first step."""
    try:
        train_in_parallel(address, folder)
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def assert_same_course(found: list[Tree], expected: list[Tree]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.metrics, theirs.metrics, rtol=1e-4, atol=1e-5, equal_nan=True)
        for x, y in zip(tree.leaves(ours.params), tree.leaves(theirs.params), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_two_processes_on_a_server_equal_one_and_resume_as_one(two: Crew, tmp_path: Path) -> None:
    with serve(MODEL) as running:
        alone = train(build(running.address, tmp_path / "alone"))
        seeds = sorted(body["seed"] for path, body in running.log if path == "/v1/completions")
        running.log.clear()
        running.weights.clear()
        results = two.run(train_in_parallel, running.address, tmp_path / "two")
        assert len(running.weights) == len(BATCHES)
        assert sorted(body["seed"] for path, body in running.log if path == "/v1/completions") == seeds
    for states in results:
        assert_same_course(states, alone)
    files = sorted(path.name for path in (tmp_path / "two").glob("*.jsonl"))
    assert files == ["rollouts-1.jsonl", "rollouts.jsonl"]
    # With the server gone: all steps by as many processes, and the first, before any rounding, by others.
    for states, expected in zip(two.run(train_in_parallel, GONE, tmp_path / "two"), results, strict=True):
        assert same_bits(states, expected)
    assert_same_course(train(build(GONE, tmp_path / "two"), 1), alone[:1])
    for states in two.run(train_in_parallel, GONE, tmp_path / "alone", 1):
        assert_same_course(states, alone[:1])


def test_completions_that_one_process_lacks_are_sampled_by_both(two: Crew, tmp_path: Path) -> None:
    with serve(MODEL) as running:
        first = two.run(train_in_parallel, running.address, tmp_path)
        (tmp_path / "rollouts-1.jsonl").unlink()
        running.log.clear()
        again = two.run(train_in_parallel, running.address, tmp_path)
        assert sum(path == "/v1/completions" for path, _ in running.log) == 2 * 5 * len(BATCHES)
    for states, expected in zip(again, first, strict=True):
        assert_same_course(states, expected)


def test_both_processes_raise_where_the_server_is_gone(two: Crew, tmp_path: Path) -> None:
    errors = two.run(train_and_fail, GONE, tmp_path, seconds=30.0)
    assert all(f"no server at {GONE}" in error for error in errors), errors


def fail_on_the_second() -> tuple[int, str, bool, bool]:
    rank = torch.distributed.get_rank()

    def fail() -> None:
        if rank == 1:
            raise ValueError("only here")

    try:
        call_together(fail)
    except ValueError as error:
        return find_group().rank, str(error), is_on_all(True), is_on_all(rank == 0)
    return rank, "", False, False


def test_an_error_and_a_fact_are_shared(two: Crew) -> None:
    assert two.run(fail_on_the_second) == [(rank, "only here", True, False) for rank in range(2)]
    assert find_group().size == 1
