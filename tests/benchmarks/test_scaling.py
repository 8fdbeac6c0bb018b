"""Counts of collectives without hardware: bytes by hand, memory, seconds, and the page that quotes them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scaling() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield import_module("scaling")


@pytest.fixture(scope="module")
def recorder(scaling: ModuleType) -> ModuleType:
    return import_module("_recorder")


def test_bytes_of_collectives_are_those_of_a_ring(recorder: ModuleType) -> None:
    """An all-reduce sends 2 (n-1)/n of its bytes, an all-gather and a reduce-scatter (n-1)/n of the whole."""
    whole, part = torch.zeros(8, 3, device="meta"), torch.zeros(2, 3, device="meta")
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
    scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
    with recorder.pretended(4), recorder.Recorder() as seen:
        dist.all_reduce(whole)
        gather(whole, part)
        scatter(part, whole)
        dist.all_gather([part] * 4, part)
    assert [(x.kind, x.size, x.bytes, x.sent) for x in seen.collectives] == [
        ("all-reduce", 4, 96, 144),
        ("all-gather", 4, 96, 72),
        ("reduce-scatter", 4, 96, 72),
        ("all-gather", 4, 96, 72),
    ]


def test_collectives_of_dtensors_are_seen(recorder: ModuleType) -> None:
    from torch.distributed.tensor import DTensor, Shard

    with recorder.pretended(4) as mesh:
        rows = DTensor.from_local(torch.zeros(2, 3, device="meta"), mesh, [Shard(0)], run_check=False)
        with recorder.Recorder() as seen:
            rows.full_tensor()
    assert [(x.kind, x.bytes) for x in seen.collectives] == [("all-gather", 96)]


def test_an_unknown_collective_is_refused(recorder: ModuleType) -> None:
    with (
        recorder.pretended(2),
        recorder.Recorder(),
        pytest.raises(ValueError, match=r"no rule for the bytes of c10d\.broadcast_"),
    ):
        dist.broadcast(torch.zeros(2, device="meta"), 0)


def test_memory_is_that_of_living_storages(recorder: ModuleType) -> None:
    gc.collect()
    with recorder.Recorder() as seen:
        x = torch.zeros(10, device="meta")
        y = x + 1
        seen.mark()
        del x
        z = torch.zeros(5, device="meta")
        z.untyped_storage().resize_(400)
    assert (seen.marked, seen.peak, seen.current) == (80, 440, 440)
    assert y.untyped_storage().nbytes() == 40


def test_seconds_by_hand(scaling: ModuleType, recorder: ModuleType) -> None:
    """Eight GPUs of a node: 7/8 GB at 450 GB/s, and 7 hops. Two nodes: 15/16 GB at 8 x 50 GB/s, one hop between."""
    machine, gigabyte = scaling.Machine(), 10**9
    one_node = recorder.Collective("all-gather", 8, gigabyte)
    assert machine.seconds(one_node) == pytest.approx(0.875 / 450 + 8.4e-6 + 7 * 3.4e-6)
    two_nodes = recorder.Collective("reduce-scatter", 16, gigabyte)
    assert machine.seconds(two_nodes) == pytest.approx(0.9375 / 400 + 8.4e-6 + 14 * 3.4e-6 + 9.6e-6)
    small = recorder.Collective("all-reduce", 1024, 1000)
    assert machine.seconds(small) == pytest.approx(2000 / 360e9 + 2 * (7 * 28e-6 + 7 * 50e-6))
    assert machine.seconds(recorder.Collective("all-gather", 1, gigabyte)) == 0


def test_data_parallel_sends_its_gradients_once_and_holds_one_copy(scaling: ModuleType) -> None:
    config = scaling.small_config(num_hidden_layers=2)
    counts = scaling.count("data_parallel", config, 8)
    gradients = 4 * scaling.tree.count(scaling.transformer(config).spec)
    assert counts.sent() == pytest.approx(2 * 7 / 8 * gradients, rel=1e-3)
    assert counts.state == pytest.approx(3 * gradients, rel=1e-3)
    bucket = 2**25
    assert counts.peak < gradients + bucket + 2**22


def test_the_page_is_what_the_code_does(scaling: ModuleType) -> None:
    """`python benchmarks/scaling.py --write` makes the page; the smallest model is counted again here.

    Bytes sent, collectives and state are equal; the peak may move by a tenth before the page is made again.
    """
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf8")
    assert all(f"### {name}:" in page for name in scaling.MODELS)
    title, _, *counted = scaling.small_table()
    quoted = page.split(title)[1].split("###")[0].strip().splitlines()
    rows = [[[cell.strip() for cell in line.split("|")] for line in lines[2:]] for lines in (quoted, counted)]
    assert [row[2] for row in rows[0]] == list(scaling.METHODS)
    for of_page, of_code in zip(*rows, strict=True):
        assert float(of_page.pop(4)) == pytest.approx(float(of_code.pop(4)), rel=0.1)
        assert of_page == of_code
