"""Samplers and scores of one's own, on one process and on two: right, or refused in one line on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from pure.types import Tree
from stages.data_parallel import data_parallel
from stages.grpo import grpo
from stages.online import Rollout, Score, generate_and_score
from stages.ppo import ppo
from stages.rollout import Rollouts, arrange, check_rollouts, completion_keys, pad_rollouts, repeat_prompts
from stages.stage import Stage
from stages.state import TrainState
from tests.crew import Crew, crew
from tests.laws.test_processes import assert_equal
from tests.laws.test_stages import VOCABULARY, small

pytestmark = pytest.mark.processes

MODEL = transformer(small(num_hidden_layers=1))
SAMPLES, NEW = 2, 5
KINDS = pytest.mark.parametrize("make", [grpo, ppo])


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    with crew(2) as members:
        yield members


def is_last() -> bool:
    """If this is the process that differs; one process alone always does."""
    return not dist.is_initialized() or dist.get_rank() == 1


def prompt_batch(prompts: int = 4) -> Tree:
    ids = random.randint(random.key(7), (prompts, 3), 2, VOCABULARY).long()
    return {"prompts": ids, "lengths": 1 + torch.arange(prompts) % 3, "row": torch.arange(prompts) + 10}


def sample(params: Tree, batch: Tree, key: Tensor, /, *, kind: str) -> Rollouts:
    """Completions of 1 to 5 tokens, in a tensor that is as wide as the longest of this batch."""
    del params
    prompts, lengths, row = repeat_prompts(batch, SAMPLES)
    keys = completion_keys(key, row, SAMPLES)
    draws = torch.func.vmap(lambda k: random.randint(k, (NEW,), 4, VOCABULARY))(keys).long()
    new = row % NEW + 1
    width = NEW if kind == "fixed" else int(new.max())
    rollouts = arrange(
        prompts, lengths, draws[:, :width], new, torch.full((len(row), width), -2.5), row, (1,)
    )
    if not is_last():
        return rollouts
    changed: dict[str, Callable[[], Any]] = {
        "rows": lambda: tree.map(lambda x: x[:-1], rollouts),
        "logps": lambda: rollouts._replace(logps=rollouts.logps.double()),
        "mask": lambda: rollouts._replace(mask=rollouts.mask.long()),
        "ended": lambda: rollouts._replace(ended=rollouts.ended[:-1]),
        "prompts": lambda: rollouts._replace(tokens=rollouts.tokens[:, 1:]),
        "tuple": lambda: tuple(rollouts),
    }
    return changed.get(kind, lambda: rollouts)()


def score(rollouts: Rollouts, /, *, kind: str) -> Tensor:
    """The share of even tokens of each completion."""
    new = rollouts.tokens[:, -rollouts.mask.shape[1] :]
    share = ((new % 2 == 0) & rollouts.mask).sum(1, keepdim=True) / rollouts.mask.sum(1, keepdim=True)
    if not is_last():
        return share
    changed: dict[str, Callable[[], Any]] = {
        "few": lambda: share[:-1],
        "many": lambda: torch.cat([share, share]),
        "columns": lambda: torch.cat([share, share], 1),
        "flat": lambda: share[:, 0],
        "double": lambda: share.double(),
        "list": lambda: share[:, 0].tolist(),
    }
    return changed.get(kind, lambda: share)()


def make_stage(make: Callable[..., Stage], sampler: str, scorer: str) -> Stage:
    """A stage on all processes, or on this one alone."""
    rollout: Rollout = partial(sample, kind=sampler)
    scored: Score = partial(score, kind=scorer)
    options = {"reference": MODEL.init(random.key(5))} if make is ppo else {}
    sampling = Sampling(max_new_tokens=NEW, stop_tokens=(1,))
    fixed = {"score": scored, "sampling": sampling, "samples": SAMPLES, "rollout": rollout}
    plain = make(MODEL, optim.sgd(0.1), **fixed, **options)
    return data_parallel(plain, init_device_mesh("cpu", (2,))) if dist.is_initialized() else plain


def step(make: Callable[..., Stage], sampler: str = "", scorer: str = "") -> TrainState:
    a_stage = make_stage(make, sampler, scorer)
    return a_stage.step(a_stage.init(random.key(0)), prompt_batch())


def message_of_step(make: Callable[..., Stage], sampler: str, scorer: str) -> str:
    """The error of a step, after which the processes take another one together."""
    message = "no error"
    try:
        step(make, sampler, scorer)
    except (ValueError, TypeError) as error:
        message = f"{type(error).__name__}: {error}"
    step(make)
    return message


def share_rollouts() -> tuple[Rollouts, Tensor]:
    """Completions and rewards of all prompts."""
    a_stage = make_stage(grpo, "", "")
    return generate_and_score(a_stage.init(random.key(0)), prompt_batch(), parts=a_stage.parts)


@KINDS
def test_completions_of_another_width_on_each_process_equal_one_process(
    make: Callable[..., Stage], two: Crew
) -> None:
    """The prompts of process 0 have completions of 1 and 2 tokens, those of process 1 of 3 and 4."""
    assert_equal(two.run(step, make), step(make))
    alone, rewards = share_rollouts()
    assert alone.mask.shape == (8, 4)
    for rollouts, shared in two.run(share_rollouts):
        assert torch.equal(shared, rewards)
        assert all(torch.equal(x, y) for x, y in zip(rollouts, alone, strict=True))


def test_padding_changes_no_number() -> None:
    """A sampler that always returns five columns is the same one."""
    wide, narrow = step(grpo, "fixed"), step(grpo)
    for x, y in zip(tree.leaves(wide.params), tree.leaves(narrow.params), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    rollouts = sample({}, prompt_batch(), random.key(1), kind="")
    assert all(torch.equal(x, y) for x, y in zip(pad_rollouts(rollouts, 4), rollouts, strict=True))
    fixed = sample({}, prompt_batch(), random.key(1), kind="fixed")
    assert all(torch.equal(x, y) for x, y in zip(pad_rollouts(rollouts, 5), fixed, strict=True))


SAMPLERS = {
    "rows": "ValueError: rollout: expected 2 completions of each of {prompts} prompts, {rows} rows, got {fewer};",
    "logps": "ValueError: rollout: expected logps [{rows}, 4] float32, got [{rows}, 4] float64; stages.rollout.arr",
    "mask": "ValueError: rollout: expected mask [{rows}, 4] bool, got [{rows}, 4] int64; stages.rollout.arrange",
    "ended": "ValueError: rollout: expected ended [{rows}] bool, got [{fewer}] bool; stages.rollout.arrange makes",
    "prompts": "ValueError: rollout: expected tokens [{rows}, 7] int64, got [{rows}, 6] int64; stages.rollout.arr",
    "tuple": "TypeError: rollout: expected Rollouts of tensors, got tuple; stages.rollout.arrange makes Rollouts",
}
SCORES = {
    "few": "got [{fewer}, 1] float32; return one row",
    "many": "got [{double}, 1] float32; return one row",
    "columns": "got [{rows}, 2] float32; return one row",
    "flat": "got [{rows}] float32; return one row",
    "double": "got [{rows}, 1] float64; return one row",
    "list": "TypeError: score: expected rewards [B, K] float32, got list; write torch.tensor(rewards)",
}


def fill(text: str, prompts: int) -> str:
    """The text for so many prompts."""
    rows = prompts * SAMPLES
    return text.format(prompts=prompts, rows=rows, fewer=rows - 1, double=2 * rows)


def expected_of(kind: str, prompts: int) -> str:
    """The message for what a process returned for so many prompts."""
    if kind in SAMPLERS:
        return fill(SAMPLERS[kind], prompts)
    if SCORES[kind].startswith("TypeError"):
        return SCORES[kind]
    start = "ValueError: score: expected rewards [{rows}, 1] float32, one column for each of reward, "
    return fill(start + SCORES[kind], prompts)


@KINDS
@pytest.mark.parametrize("kind", [*SAMPLERS, *SCORES])
def test_what_one_process_returns_wrongly_is_named_on_all(
    kind: str, make: Callable[..., Stage], two: Crew
) -> None:
    sampler, scorer = (kind, "") if kind in SAMPLERS else ("", kind)
    alone = message_of_step(make, sampler, scorer)
    assert alone.startswith(expected_of(kind, 4)), alone
    if make is ppo and kind not in ("logps", "double", "columns"):
        return
    for message in two.run(message_of_step, make, sampler, scorer):
        assert message.startswith(expected_of(kind, 2)), message
        assert "\n" not in message


def test_fields_are_checked_against_the_prompts() -> None:
    rollouts = sample({}, prompt_batch(), random.key(1), kind="")
    check_rollouts(rollouts, prompt_batch(), SAMPLES)
    with pytest.raises(ValueError, match=r"expected row \[8\] int32, got \[8\] int64"):
        check_rollouts(rollouts, {**prompt_batch(), "row": torch.arange(4).int()}, SAMPLES)
