"""`fingerprint` changes with everything that changes a run's computation, by name, and with nothing else."""

from __future__ import annotations

import enum
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pure.config import ModelConfig
from pure.nn.scalar import scalar_model
from pure.nn.tensor_parallel import tensor_parallel
from pure.nn.transformer import transformer
from pure.parallel.group import Group
from pure.types import GradientTransformation
from stages.checkpoint import checkpoint
from stages.checkpoint.fingerprint import describe, fingerprint
from stages.checkpoint.manifest import differences
from stages.data_parallel import data_parallel
from stages.stage import Stage
from tests.laws.test_stages import BY_NAME

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 8
    dtype: torch.dtype = torch.float32


class Tokenizer(NamedTuple):
    spec: dict[str, Any]
    encode: Callable
    decode: Callable


class Color(enum.Enum):
    RED = 1


class Pipe:
    """A plain class, as a user may write one."""

    def __init__(self, batches: list, seed: int) -> None:
        self.batches, self.seed = batches, seed


# The functions of a stage; only their names and bound arguments matter.


def begin(key: Any, *, optimizer: Any, config: Any) -> None: ...


def step(state: Any, batch: Any, *, loss: Any, optimizer: Any) -> None: ...


def loss(params: Any, batch: Any, *, config: Any, reference: Any, beta: float) -> None: ...


def update(updates: Any, state: Any, *, learning_rate: Any) -> None: ...


def make_closure(updates: Any, rate: float) -> Callable:
    def inner(state: Any) -> Any:
        return updates, rate, state, inner

    return inner


def fingerprint_of_run(
    learning_rate: Any = 0.001,
    config: Config | None = None,
    beta: float = 0.1,
    reference: Any = None,
    pipe: Any = (1, 2),
    spec: Any = None,
) -> dict[str, str]:
    """The fingerprint of a small run."""
    config = config or Config()
    reference = {"w": torch.arange(6.0)} if reference is None else reference
    optimizer = GradientTransformation(partial(max), partial(update, learning_rate=learning_rate))
    stage = Stage(
        partial(begin, optimizer=optimizer, config=config),
        partial(step, loss=partial(loss, config=config, reference=reference, beta=beta), optimizer=optimizer),
    )
    cache: dict = {}
    tokenizer = Tokenizer(
        spec or {"merges": [("a", "b")] * 100}, partial(cache.get, 1), partial(cache.get, 2)
    )
    return fingerprint(stage, pipe, tokenizer)


def test_a_fingerprint_is_a_flat_dict_of_strings_without_duplicates() -> None:
    found = fingerprint_of_run()
    assert found["optimizer.learning_rate"] == "0.001"
    assert found["config.width"] == "8"
    assert found["config.dtype"] == "torch.float32"
    assert found["loss.beta"] == "0.1"
    assert found["step"].endswith("test_fingerprint.step")
    assert re.fullmatch(r"float32\[6\] sha256:[0-9a-f]{32}", found["loss.reference.w"])
    assert found["pipe"] == "(1, 2)"
    assert found["tokenizer.merges"].startswith("list of 100, sha256:")
    assert "loss.config.width" not in found
    assert all(type(key) is type(value) is str for key, value in found.items())
    assert fingerprint_of_run() == found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"learning_rate": 0.01}, ["optimizer.learning_rate was 0.001, is 0.01"]),
        ({"learning_rate": torch.tensor(0.5)}, ["optimizer.learning_rate was 0.001, is 0.5 float32"]),
        ({"config": Config(width=16)}, ["config.width was 8, is 16"]),
        ({"beta": 0.2}, ["loss.beta was 0.1, is 0.2"]),
        ({"pipe": (1, 3)}, ["pipe was (1, 2), is (1, 3)"]),
        ({"reference": {"w": torch.arange(6.0) + 1e-7}}, ["loss.reference.w has other contents"]),
        (
            {"reference": {"w": torch.arange(6.0).double()}},
            ["loss.reference.w has other contents, float64[6] instead of float32[6]"],
        ),
        ({"spec": {"merges": [("a", "c")] * 100}}, ["tokenizer.merges has other contents"]),
    ],
)
def test_each_change_of_a_run_is_reported_by_name(change: dict, expected: list[str]) -> None:
    found = differences(fingerprint_of_run(), fingerprint_of_run(**change))
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_resuming_with_another_learning_rate_is_refused_by_name(tmp_path: Path) -> None:
    state = {"w": torch.zeros(1)}
    checkpoint.save(tmp_path, state, step=1, fingerprint=fingerprint_of_run())
    checkpoint.load(tmp_path, state, fingerprint=fingerprint_of_run())
    with pytest.raises(ValueError, match=r"optimizer.learning_rate was 0.001, is 0.01. Set these back"):
        checkpoint.load(tmp_path, state, fingerprint=fingerprint_of_run(learning_rate=0.01))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: (x, lambda y: y + 1), lambda x: (x, lambda y: y + 2)),
        (make_closure(1, 0.5), make_closure(1, 0.6)),
        (partial(step, 1), partial(step, 2)),
        (partial(step, 1, 2), partial(step, 1)),
        (begin, step),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(100), torch.zeros(100).index_fill(0, torch.tensor(99), 1)),
        (torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)),
        (np.arange(5), np.arange(6)),
        (np.arange(9), np.arange(9).astype("int32")),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"b": 1}),
        ([1, 2], (1, 2)),
        (list(range(100)), [*range(99), 0]),
        (
            {str(i): torch.ones(9) * i for i in range(50)},
            {str(i): torch.ones(9) * max(i, 1) for i in range(50)},
        ),
        ({1, 2}, {1, 3}),
        ("x" * 1000, "x" * 999 + "y"),
        (Config(), replace(Config(), dtype=torch.float64)),
        (Color.RED, 1),
        (Pipe([1], 0), Pipe([1], 1)),
        (Pipe([1], 0).__init__, Pipe([1], 1).__init__),
        (re.compile("a"), re.compile("a", re.IGNORECASE)),
        (range(3), range(4)),
        (torch.float32, torch.float64),
        (functools.lru_cache(make_closure(1, 2)), functools.lru_cache(make_closure(1, 3))),
        (Config, Pipe),
        (None, False),
        (float("nan"), float("inf")),
    ],
)
def test_different_values_have_different_fingerprints(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(partial(step, loss=one)) != fingerprint(partial(step, loss=other))


def test_compiled_functions_have_the_fingerprint_of_the_original() -> None:
    inner = make_closure(1, 2.5)
    assert fingerprint(torch.compile(inner)) == fingerprint(inner)


def test_a_function_that_refers_to_itself_has_a_fingerprint() -> None:
    found = fingerprint(make_closure(1, 2.5))
    assert found["rate"] == "2.5"
    assert found["inner"] == "itself"


def test_entries_of_the_two_fields_of_a_pair_have_different_names() -> None:
    pair = GradientTransformation(partial(update, learning_rate=1), partial(update, learning_rate=2))
    found = fingerprint(pair)
    assert found["learning_rate"] == "1"
    assert found["update.learning_rate"] == "2"


def test_a_digest_or_a_fingerprint_method_replaces_an_object_s_contents() -> None:
    class Store(NamedTuple):
        tokens: Any
        digest: str

    class WithMethod:
        __slots__ = ()

        def fingerprint(self) -> str:
            return "mine"

    assert fingerprint(Store(object(), "abc"))[""].endswith("Store abc")
    assert fingerprint(WithMethod())[""].endswith("WithMethod mine")


def test_an_object_without_readable_contents_is_refused_by_name() -> None:
    with pytest.raises(
        TypeError, match=r"cannot look into partial\.loss\.generator, of type torch\..*Generator; bind a"
    ):
        fingerprint(partial(step, loss={"generator": torch.Generator()}))


def test_a_large_memory_mapped_file_is_hashed_by_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.checkpoint.fingerprint._WHOLE", 1000)
    monkeypatch.setattr("stages.checkpoint.fingerprint._SAMPLES", 10)
    monkeypatch.setattr("stages.checkpoint.fingerprint._SAMPLE", 16)
    np.arange(5000, dtype=np.uint16).tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint16, "r")
    found = fingerprint(mapped)
    assert found[""].startswith("uint16[5000] sha256:")
    assert found[""].endswith(" (sampled)")
    np.arange(1, 5001, dtype=np.uint16).tofile(tmp_path / "tokens")
    assert fingerprint(np.memmap(tmp_path / "tokens", np.uint16, "r")) != found


def test_a_stage_s_fingerprint_ignores_its_other_fields() -> None:
    """`init` and `step` describe the computation; `loss` is a part of `step`."""
    stage = Stage(partial(begin, config=Config()), partial(step, loss=partial(loss, beta=0.1)))
    assert fingerprint(stage._replace(loss=partial(loss, beta=0.1))) == fingerprint(stage)


def test_the_number_of_processes_is_no_part_of_a_fingerprint() -> None:
    alone = BY_NAME["pretrain-dropout"].make()
    for size in (1, 2, 4):
        together = data_parallel(alone, Group(0, size, None))
        assert fingerprint(together) == fingerprint(alone)


def test_the_compile_argument_does_not_change_the_fingerprint() -> None:
    assert fingerprint(partial(max, key=abs, compile=True)) == fingerprint(partial(max, key=abs))


PROGRAM = """
import sys
from functools import partial
import torch
from pure.types import GradientTransformation
from stages.checkpoint.fingerprint import fingerprint

def outer(names):
    return lambda x: (x, names, "literal" in {"a", "b"})

thing = partial(max, key=outer({"one", "two", "three"}), tree={"w": torch.arange(9), "f": torch.relu, "o": object})
for item in sorted(fingerprint(thing, {"x": frozenset("abcdef"), "y": {max, min, abs}}, len).items()):
    print(item)
"""


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    seen = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert b"0x" not in seen.pop()


def test_a_part_of_a_leaf_is_described_as_the_whole_one() -> None:
    whole = torch.arange(8.0)
    part = whole[:4].clone()
    described = describe(partial(max, default=part), parts=[(part, whole)])
    assert described == describe(partial(max, default=whole))
    assert described != describe(partial(max, default=part))


def test_a_scalar_model_that_processes_share_is_the_plain_one() -> None:
    model = transformer(ModelConfig(num_hidden_layers=1))
    shared = tensor_parallel(model, Group(rank=0, size=2, handle=None))
    assert describe(scalar_model(shared)) == describe(scalar_model(model))
