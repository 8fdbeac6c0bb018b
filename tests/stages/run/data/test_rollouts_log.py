"""rollouts.jsonl: completions are sampled once, and read bit for bit wherever the same ones are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pure import random, tree
from pure.types import Tree
from stages.online import Rollout
from stages.rollout import Rollouts, rollout
from stages.run.data.rollouts_log import record_rollouts
from tests.laws.test_stages import same_bits
from tests.stages.test_online import MODEL, SAMPLING, prompt_batch

PARAMS = MODEL.init(random.key(7))
KEYS = random.split(random.key(1), 3)


def make(folder: Path, settings: str = "", **changes: Any) -> tuple[Rollout, list[Tree]]:
    """A recorded sampler, and the batches that its sampler was called with."""
    called: list[Tree] = []

    def sample(params: Tree, batch: Tree, key: torch.Tensor) -> Rollouts:
        called.append(batch)
        return rollout(MODEL, params, batch, key, samples=2, sampling=SAMPLING._replace(**changes))

    return record_rollouts(sample, folder, settings=settings, stop_tokens=SAMPLING.stop_tokens), called


def test_completions_are_sampled_once_and_read_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "rollouts.jsonl"
    sample, called = make(path.parent)
    first = [sample(PARAMS, prompt_batch(i), key) for i, key in enumerate(KEYS)]
    assert len(called) == len(path.read_bytes().splitlines()) == 3
    again, called = make(path.parent)
    for i in (2, 0, 1):
        assert same_bits(again(tree.clone(PARAMS), prompt_batch(i), KEYS[i]), first[i])
    assert called == []
    assert len(path.read_bytes().splitlines()) == 3


def test_other_params_prompts_and_keys_are_sampled_anew(tmp_path: Path) -> None:
    sample, called = make(tmp_path)
    batch = prompt_batch(0)
    params = tree.clone(PARAMS)
    sample(params, batch, KEYS[0])
    tree.leaves(params)[0][0, 0] += 1
    sample(params, batch, KEYS[0])
    sample(PARAMS, batch, KEYS[1])
    sample(PARAMS, {**batch, "row": batch["row"] + 1}, KEYS[0])
    sample(PARAMS, {**batch, "lengths": torch.ones(6).long()}, KEYS[0])
    assert len(called) == 5
    sample(PARAMS, batch, KEYS[0])
    assert len(called) == 5
    warmer, called = make(tmp_path, settings="temperature 2", temperature=2.0)
    warmer(PARAMS, batch, KEYS[0])
    assert len(called) == 1


def test_prompts_are_found_in_any_order_and_in_parts(tmp_path: Path) -> None:
    """As other processes would ask for them; a completion's key is that of its row."""
    sample, called = make(tmp_path)
    batch = prompt_batch(0)
    whole = sample(PARAMS, batch, KEYS[0])
    order = torch.tensor([4, 0, 5])
    part = sample(PARAMS, {name: x[order] for name, x in batch.items()}, KEYS[0])
    assert len(called) == 1
    rows = (2 * order[:, None] + torch.arange(2)).flatten()
    assert same_bits(part, Rollouts(*(x[rows] for x in whole)))


def test_completions_without_an_end_are_read_as_such(tmp_path: Path) -> None:
    sample, _ = make(tmp_path, stop_tokens=())
    first = sample(PARAMS, prompt_batch(0), KEYS[0])
    assert first.mask.all()
    assert same_bits(make(tmp_path)[0](PARAMS, prompt_batch(0), KEYS[0]).mask, first.mask)


def test_a_line_that_a_kill_cut_off_is_removed_and_sampled_again(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    sample, _ = make(tmp_path)
    for i in range(2):
        sample(PARAMS, prompt_batch(i), KEYS[i])
    lines = path.read_bytes()
    path.write_bytes(lines[:-9])
    again, called = make(path.parent)
    for i in range(2):
        again(PARAMS, prompt_batch(i), KEYS[i])
    assert len(called) == 1
    assert path.read_bytes() == lines


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'{"id"', b'{"ix"', "rollouts.jsonl:1: expected rollouts, got"),
        (b'"logps": "', b'"logps": "*', "rollouts.jsonl: the line at byte 0 is damaged"),
        (b'"tokens": "', b'"tokens": "AAAA', "rollouts.jsonl: the line at byte 0 is damaged"),
        (b'"lengths": [', b'"lengths": [1, ', "rollouts.jsonl: the line at byte 0 is damaged"),
    ],
)
def test_a_damaged_line_is_refused(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    make(tmp_path)[0](PARAMS, prompt_batch(0), KEYS[0])
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=message):
        make(tmp_path)[0](PARAMS, prompt_batch(0), KEYS[0])


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    sample, called = make(tmp_path)
    sample(PARAMS, prompt_batch(0), KEYS[0])
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=f"cannot write {path}"):
        sample(PARAMS, prompt_batch(1), KEYS[1])
    assert len(called) == 2
