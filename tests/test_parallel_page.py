"""docs/parallel.md: its program runs, and its figures of how near several processes are to one hold."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pure import optim, random
from pure.nn.context_parallel import context_parallel
from pure.nn.tensor_parallel import tensor_parallel
from pure.nn.tensor_params import join_params
from pure.nn.transformer import transformer
from pure.parallel.rows import gather
from pure.types import Model, Tree
from stages.data_parallel import data_parallel
from stages.pretrain import pretrain
from stages.sharded import sharded
from stages.stage import Stage
from tests.crew import Crew
from tests.laws.test_processes import distance
from tests.laws.test_stages import same_bits, small, text_batch
from tests.rules.source import ROOT
from tests.stages.children import free_port, join_all, start_body

pytestmark = pytest.mark.processes

PAGE = (ROOT / "docs" / "parallel.md").read_text(encoding="utf8")
STEPS = 3
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MODELS: Mapping[str, Callable[[Model, DeviceMesh], Model]] = {
    "tensor_parallel": tensor_parallel,
    "context_parallel": context_parallel,
}
STAGES: Mapping[str, Callable[[Stage, DeviceMesh], Stage]] = {
    "data_parallel": data_parallel,
    "sharded": sharded,
    "sharded, layers=True": partial(sharded, layers=True),
}
WAYS = (*STAGES, *MODELS)


def train(way: str, dtype: str, parts: int = 1, soap: bool = False) -> Tree:
    """Whole params after three steps of AdamW with clipping, or SOAP; alone for the way "one process"."""
    config = small(num_key_value_heads=2, vocab_size=18)
    model = transformer(config)
    mesh = init_device_mesh("cpu", (2,)) if way in WAYS else None
    if way in MODELS:
        model = MODELS[way](model, mesh)
    rule = optim.soap(1e-2, precondition_frequency=1) if soap else optim.adamw(1e-3)
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), rule)
    a_stage = pretrain(model, optimizer, compute=DTYPES[dtype], accumulation=parts)
    if way in STAGES:
        a_stage = STAGES[way](a_stage, mesh)
    state = a_stage.init(random.key(0))
    for number in range(STEPS):
        state = a_stage.step(state, text_batch(number))
    params = gather(state.params)
    return join_params(params, model) if way == "tensor_parallel" else params


def train_all() -> dict[tuple[str, str], Tree]:
    return {(way, dtype): train(way, dtype) for way in WAYS for dtype in DTYPES}


def quoted_figures() -> dict[tuple[str, str], str]:
    """Cells of the page's table: (way, column) -> text."""
    table = PAGE.partition("| way | float32 |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]
    return {
        (row[0], column): cell
        for row in rows
        for column, cell in zip((*DTYPES, "equal"), row[1:], strict=True)
    }


def test_the_figures_of_the_page_hold(two: Crew) -> None:
    """Each is rounded up to a power of ten, and measured on two processes that compute the same bits."""
    quoted = quoted_figures()
    assert {way for way, _ in quoted} == set(WAYS)
    first, second = two.run(train_all)
    measured = {}
    for (way, dtype), params in first.items():
        assert way == "tensor_parallel" or same_bits(params, second[way, dtype])
        measured[way, dtype] = distance(params, train("one process", dtype))
        assert measured[way, dtype] <= float(quoted[way, dtype]), measured
    for name in DTYPES:
        assert same_bits(first["data_parallel", name], train("one process", name, parts=2))
    assert [way for way in WAYS if quoted[way, "equal"] == "yes"] == ["data_parallel"]


def test_soap_amplifies_the_order_of_sums_as_much_with_micro_batches(two: Crew) -> None:
    first, second = two.run(train, "data_parallel", "float32", 1, True)
    parts = train("one process", "float32", parts=2, soap=True)
    assert same_bits(first, second)
    assert same_bits(first, parts)
    assert 1e-6 < distance(parts, train("one process", "float32", soap=True)) < 1e-1


def run_program(path: Path, rank: int, count: int, port: int) -> None:
    """Body of a process: the program with the variables of torchrun; what it prints goes to `RANK.out`."""
    variables = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(x) for name, x in variables.items()})
    torch.set_num_threads(1)
    with open(path.with_name(f"{rank}.out"), "w") as printed, redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")


def test_the_program_of_the_page_runs_with_the_same_result_on_one_process_and_on_two(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    printed = []
    for count in (1, 2):
        path = tmp_path / str(count) / "train.py"
        path.parent.mkdir()
        path.write_text(program)
        port = free_port()
        assert (
            join_all([start_body(run_program, path, rank, count, port) for rank in range(count)])
            == [0] * count
        )
        printed.append(
            [line for rank in range(count) for line in path.with_name(f"{rank}.out").read_text().splitlines()]
        )
    assert printed[0] == printed[1]
    assert len(printed[0]) == 1
