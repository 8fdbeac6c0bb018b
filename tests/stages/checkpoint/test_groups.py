"""`check_groups`: two groups of processes do not save one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pure import optim, random
from pure.nn.tensor_parallel import tensor_parallel
from pure.nn.tensor_params import join_params
from pure.nn.transformer import transformer
from pure.parallel.group import group_of
from pure.parallel.rows import gather
from stages.checkpoint import background, checkpoint, groups
from stages.pretrain import pretrain
from stages.sharded import sharded
from stages.state import TrainState
from tests.crew import Crew
from tests.laws.test_stages import same_bits, small

pytestmark = pytest.mark.processes


def attempt(folder: Path, state: Any, **options: Any) -> str:
    """The name of the checkpoint that is saved, or the message."""
    try:
        return checkpoint.save(folder, state, **options).name
    except ValueError as error:
        return str(error)


def attempt_in_background(folder: Path, state: Any, group: Any) -> str:
    """The same, in the background."""
    saver = background.make_saver(folder, group=group)
    try:
        saver.save(state)
        path = saver.wait()
    except ValueError as error:
        return str(error)
    return path.name if path is not None else "nothing"


def make_mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))


def save_parts(folder: Path) -> list[Any]:
    """Answers to each process that saves a state in rows of parts of the model, in several ways."""
    mesh = make_mesh()
    model = tensor_parallel(
        transformer(small(num_hidden_layers=1, num_key_value_heads=2, vocab_size=18)), mesh["tensor"]
    )
    state: TrainState = sharded(pretrain(model, optim.sgd(0.1)), mesh["data"]).init(random.key(0))
    number = mesh["tensor"].get_local_rank()
    own = folder / f"group-{number}"
    answers = [
        attempt(folder / "rows", state, group=mesh["data"]),
        attempt(folder / "rows", state, group=mesh["data"]),  # again: the same for each group
        attempt(folder / "no group", state),
        attempt(folder / "dcp", state, format="dcp", group=mesh["data"]),
        attempt_in_background(folder / "background", state, mesh["data"]),
        attempt(own, state, group=mesh["data"]),
        attempt_in_background(own, state, mesh["data"]),
    ]
    whole = join_params(gather(state), model)
    answers.append(attempt(folder / "whole", whole, group=dist.group.WORLD))
    loaded = checkpoint.load(folder / "whole", whole, group=dist.group.WORLD).state
    return [number, *answers, same_bits(loaded, whole)]


def test_two_groups_that_have_parts_of_a_model_do_not_save_one_checkpoint(four: Crew, tmp_path: Path) -> None:
    answers = four.run(save_parts, tmp_path)
    assert [answer[0] for answer in answers] == [0, 1, 0, 1]
    saved = "step-00000000"
    for column in range(1, 6):
        by_group = [{answer[column] for answer in answers if answer[0] == number} for number in (0, 1)]
        assert all(len(texts) == 1 for texts in by_group)  # all of a group get the same
        refused = [text for texts in by_group for text in texts if text != saved]
        assert len(refused) == 1, by_group
        assert refused[0].startswith("checkpoint.save: the processes ")
        assert "0, 2" in refused[0]
        assert "1, 3" in refused[0]
        assert "join_params(gather(state), model)" in refused[0]
    assert all(answer[6:] == [saved, saved, saved, True] for answer in answers)


def save_replicas(folder: Path) -> list[Any]:
    """A whole state that two groups save; then on machines whose own disks have folders of one name."""
    mesh, state = make_mesh(), {"w": torch.ones(3)}
    answers = [attempt(folder, state, step=1, group=mesh["data"])]
    group, node = group_of("test", mesh["data"]), f"machine {mesh['tensor'].get_local_rank()}"
    with mock.patch.object(groups.platform, "node", return_value=node):
        answers.append(groups.check_groups(group, folder / "of another disk", state, 1))
    return answers


def test_groups_of_one_state_are_refused_and_disks_of_other_machines_are_not(
    four: Crew, tmp_path: Path
) -> None:
    answers = four.run(save_replicas, tmp_path)
    assert sum(answer[0] == "step-00000001" for answer in answers) == 2
    assert all(answer[1] is None for answer in answers)
