"""`stages.models.weights_file` writes the bytes of safetensors, whole or from rows gathered one leaf at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from pure import random, tree
from pure.adapt.lora import bind
from pure.adapt.lora_config import LoRAConfig
from pure.nn.scalar import scalar_model
from pure.parallel import rows
from pure.parallel.group import group_of
from pure.types import Tree
from stages.models import adapter, language_model, reward_model, weights_file
from stages.models.adapter import Adapter
from stages.models.language_model import Pretrained
from tests.crew import Crew
from tests.stages.models.test_language_model import make_model


def test_the_bytes_are_those_of_safetensors(tmp_path: Path) -> None:
    weights = {
        "b.ä": torch.randn(3, 2),
        "a": torch.randn(5).bfloat16(),
        "c": torch.randn(2, 2).half().T,
        "z": torch.randn(1).double(),
        "empty": torch.zeros(0, 2),
        "number": torch.tensor(2.0),
    }
    save_file({k: x.contiguous() for k, x in weights.items()}, tmp_path / "theirs", metadata={"format": "pt"})
    planned = weights_file.plan_files(weights, "ours", 10**9)
    weights_file.write(tmp_path, planned, weights_file.read_leaves(planned, weights))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_files_are_divided_by_size_in_the_order_of_the_weights() -> None:
    weights = {"c": torch.zeros(10), "a": torch.zeros(4), "b": torch.zeros(6)}
    files = weights_file.plan_files(weights, "model.safetensors", 40)
    assert [(file.name, file.tensors) for file in files] == [
        ("model-00001-of-00002.safetensors", ("c",)),
        ("model-00002-of-00002.safetensors", ("a", "b")),
    ]
    (file,) = weights_file.plan_files(weights, "x", 1000, by_name=False)
    assert file.tensors == ("c", "a", "b")
    with pytest.raises(ValueError, match=r"got torch.int64 in n"):
        weights_file.plan_files({"n": torch.tensor(1)}, "x", 1)


def cut(params: Tree) -> Tree:
    return rows.cut(params, group_of("test", dist.group.WORLD))


def pieces() -> tuple[Pretrained, Pretrained, Adapter, Tree]:
    """A language model, a reward model, and adapters with their params."""
    whole = make_model()
    scored = scalar_model(whole.model)
    reward = whole._replace(params=scored.init(random.key(1)))
    config = LoRAConfig(rank=2)
    model = bind(whole.model, whole.params, config)
    adapted = Adapter(model, config, whole.params, "base", torch.float32, False, "0")
    return whole, reward, adapted, tree.map(lambda x: x + 1, model.init(random.key(2)))


def save_all(folder: Path, in_rows: bool) -> None:
    """Writes the three models, whole or from rows."""
    whole, reward, adapted, adapters = pieces()
    maybe_cut: Any = cut if in_rows else (lambda params: params)
    language_model.save(folder / "whole", whole._replace(params=maybe_cut(whole.params)))
    language_model.save(folder / "shards", whole._replace(params=maybe_cut(whole.params)), shard_bytes=9000)
    reward_model.save(folder / "reward", reward._replace(params=maybe_cut(reward.params)))
    adapter.save(folder / "adapters", adapted, maybe_cut(adapters), whole.tokenizer, {})


def fail_on_the_first(folder: Path) -> tuple[Any, ...]:
    """The first process has no room while the weights are written."""
    whole = pieces()[0]
    original = weights_file.memory

    def refuse(x: torch.Tensor) -> memoryview:
        raise OSError(errno.ENOSPC, "No space left on device")

    weights_file.memory = refuse if dist.get_rank() == 0 else original
    try:
        language_model.save(folder, whole._replace(params=cut(tree.map(lambda x: x + 1, whole.params))))
    except OSError as error:
        return error.errno, str(error)
    finally:
        weights_file.memory = original
    return ()


def test_models_in_rows_are_written_with_the_bytes_of_whole_ones(two: Crew, tmp_path: Path) -> None:
    two.run(save_all, tmp_path / "rows", True)
    save_all(tmp_path / "alone", False)
    assert sorted(os.listdir(tmp_path / "rows")) == ["adapters", "reward", "shards", "whole"]
    for path in (tmp_path / "alone").rglob("*"):
        other = tmp_path / "rows" / path.relative_to(tmp_path / "alone")
        assert path.is_dir() or path.read_bytes() == other.read_bytes(), path
    shards = sorted((tmp_path / "rows" / "shards").glob("*.safetensors"))
    assert len(shards) > 2
    names = set().union(*(load_file(shard) for shard in shards))
    assert names == set(load_file(tmp_path / "alone" / "whole" / "model.safetensors"))


def test_a_failed_save_of_rows_is_raised_on_all_and_leaves_the_old_folder(two: Crew, tmp_path: Path) -> None:
    two.run(save_all, tmp_path, True)
    before = (tmp_path / "whole" / "model.safetensors").read_bytes()
    answers = two.run(fail_on_the_first, tmp_path / "whole")
    assert answers[0] == answers[1]
    assert answers[0][0] == errno.ENOSPC
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == before
