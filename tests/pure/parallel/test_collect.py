"""Collectives over trees: how batches are cut, and what several processes get."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pure import tree
from pure.parallel import collect
from pure.parallel.agreement import by_rows, compute_in_group
from pure.parallel.collect import (
    buckets,
    every,
    exchange,
    own,
    refuse_transforms,
    row_counts,
    together,
    total,
)
from pure.parallel.group import Group, data_group, group_of, run_within, within
from pure.types import Tree
from tests.crew import crew

pytestmark = pytest.mark.processes

SIZES = st.integers(1, 9)


@given(SIZES, st.integers(0, 40))
def test_row_counts_are_even_and_the_first_have_one_more(size: int, count: int) -> None:
    counts = row_counts(count, size)
    assert len(counts) == size
    assert sum(counts) == count
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)
    assert counts == [len(part) for part in torch.arange(count).tensor_split(size)]


@given(SIZES, st.integers(0, 20), st.integers(1, 4))
def test_the_parts_of_all_processes_are_the_batch(size: int, extra: int, block: int) -> None:
    rows = (size + extra) * block
    batch = {"x": torch.arange(rows), "y": [torch.arange(rows * 2).view(rows, 2)]}
    parts = [run_within(own, Group(rank, size, None), batch, block) for rank in range(size)]
    assert all(len(part["x"]) % block == 0 for part in parts)
    assert all(len(part["x"]) == len(part["y"][0]) >= block for part in parts)
    joined = tree.map(lambda *leaves: torch.cat(leaves), *parts)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(joined), tree.leaves(batch), strict=True))
    assert parts[0]["x"].data_ptr() == batch["x"].data_ptr()  # views


@given(SIZES, st.integers(0, 20), st.integers(1, 4))
def test_fewer_blocks_than_processes_are_refused(size: int, rows: int, block: int) -> None:
    batch = {"x": torch.zeros(rows * block)}
    for rank in {0, size - 1}:
        if rows >= size:
            run_within(own, Group(rank, size, None), batch, block)
        else:
            noun = "row" if size == 1 else "rows"
            with pytest.raises(
                ValueError, match=rf"expected at least {size} {noun} .*, got {rows}; give larger"
            ):
                run_within(own, Group(rank, size, None), batch, block)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([torch.float32, torch.int64, torch.bool]))))
def test_buckets_take_each_leaf_once_in_order_and_hold_one_dtype(shapes: list) -> None:
    leaves = [torch.zeros(size, dtype=dtype) for size, dtype in shapes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "BUCKET", 40)
        chosen = list(buckets(leaves))
    assert sorted(i for indices in chosen for i in indices) == list(range(len(leaves)))
    for indices in chosen:
        assert indices == sorted(indices)
        assert len({leaves[i].dtype for i in indices}) == 1
        assert len(indices) == 1 or sum(leaves[i].nbytes for i in indices) <= 40


def test_without_a_group_all_are_identities() -> None:
    batch = {"x": torch.arange(3)}
    assert own(batch) is batch
    assert total(batch) is batch
    assert every(batch, 3) is batch
    assert by_rows(lambda params, batch: params)(5, batch) == 5
    assert together(max, 2, 1) == 2
    result, same = compute_in_group(lambda batch: 7, batch)
    assert (result, bool(same)) == (7, True)


def test_with_a_group_of_one_nothing_is_sent() -> None:
    batch, alone = {"x": torch.arange(3)}, Group(0, 1, None)
    with within(alone):
        assert total(batch) is batch
        assert every(batch, 3) is batch
        assert torch.equal(own(batch)["x"], batch["x"])
        assert together(max, 2, 1) == 2
        assert exchange("a", alone) == ["a"]


def test_derivatives_and_vmap_are_refused_by_name() -> None:
    x = torch.ones(2)
    refuse_transforms("test", [x])
    with torch.no_grad():
        refuse_transforms("test", [x.clone().requires_grad_()])

    def refused(y: Tensor) -> Tensor:
        refuse_transforms("test", [y])
        return y.sum()

    for transform in (
        lambda: torch.func.grad(refused)(x),
        lambda: torch.func.vmap(refused)(x),
        lambda: torch.func.jvp(refused, (x,), (x,)),
        lambda: refused(x.clone().requires_grad_()),
    ):
        with pytest.raises(
            RuntimeError, match="test: a step that is computed by several processes cannot be"
        ):
            transform()


def collect_all() -> dict[str, Any]:
    """Results of the collectives on this process of three."""
    rank = dist.get_rank()
    with within(group_of("test", dist.group.WORLD)):
        values = {
            "half": torch.full((2, 3), rank + 1, dtype=torch.bfloat16),
            "list": [torch.tensor(0.1 * (rank + 1)), torch.arange(4) * rank],
            "empty": torch.zeros(0),
            "double": torch.full((1, 2), 2.0**rank, dtype=torch.float64),
        }
        before = tree.clone(values)
        sums = total(values)
        batch = {"x": torch.arange(7.0), "b": torch.arange(7) % 2 == 0}
        doubled = by_rows(lambda w, rows: {"y": rows["x"] * w, "n": rows["x"] * 0 + len(rows["x"])})(
            2.0, batch
        )
        blocks = by_rows(lambda w, rows: rows.sum().expand(len(rows)), 2)(None, torch.arange(8.0))
        repeated = every(own(batch)["x"].repeat_interleave(2), 7)
        gathered = every(own(batch), 7)
        inside = by_rows(lambda w, rows: torch.full((len(rows),), float(data_group() is not None)))(
            None, batch["x"]
        )
    kept = all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(values), strict=True))
    storages = {x.untyped_storage().data_ptr() for x in tree.leaves(sums) if x.numel()}
    return {
        "sums": sums,
        "kept": kept,
        "storages": len(storages),
        "doubled": doubled,
        "blocks": blocks,
        "repeated": repeated,
        "gathered": gathered,
        "inside": inside,
    }


def check_collected(results: list[dict[str, Any]]) -> None:
    """The same on all processes, and what one process computes."""
    batch: Tree = {"x": torch.arange(7.0), "b": torch.arange(7) % 2 == 0}
    for found in results:
        sums = found["sums"]
        assert sums["half"].dtype == torch.bfloat16
        assert sums["half"].eq(6).all()
        assert sums["list"][1].tolist() == [0, 3, 6, 9]
        assert sums["double"].tolist() == [[7.0, 7.0]]
        assert sums["list"][0].numpy().tobytes() == results[0]["sums"]["list"][0].numpy().tobytes()
        torch.testing.assert_close(sums["list"][0], torch.tensor(0.6))
        assert found["kept"]
        assert found["storages"] == 4  # a leaf of a state must not share its storage with another
        assert found["doubled"]["y"].tolist() == [2.0 * i for i in range(7)]
        assert found["doubled"]["n"].tolist() == [3, 3, 3, 2, 2, 2, 2]
        assert found["blocks"].tolist() == [6, 6, 6, 6, 9, 9, 13, 13]
        assert found["repeated"].tolist() == [float(i // 2) for i in range(14)]
        assert all(torch.equal(found["gathered"][name], batch[name]) for name in batch)
        assert found["inside"].eq(1).all()


def send_large() -> tuple[float, float]:
    """Sums of more than a bucket, in several leaves; the error of one leaf larger than a bucket."""
    collect.BUCKET = 1 << 10
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(rank)
    leaves = [torch.randn(size, generator=generator) for size in (100, 200, 5000, 3, 7, 300)]
    with within(group_of("test", dist.group.WORLD)):
        sums = total(leaves)
    parts = [torch.Generator().manual_seed(i) for i in range(3)]
    expected = [sum(torch.randn(len(x), generator=part) for part in parts) for x in leaves]
    error = max((a - b).abs().max().item() for a, b in zip(sums, expected, strict=True))
    return error, sum(x.double().sum().item() for x in sums)


def fail_in_one(kind: str) -> str:
    """The message on this process if process 2 of three raises, or has another batch."""
    rank = dist.get_rank()

    def compute(batch: Tree) -> int:
        if rank == 2 and kind == "error":
            raise ZeroDivisionError("on process 2")
        if rank == 2 and kind == "exit":
            raise SystemExit(5)
        return rank

    batch = {"x": torch.arange(3) + (rank == 2 and kind == "batch")}
    with within(group_of("test", dist.group.WORLD)):
        try:
            return f"{kind}: {compute_in_group(compute, batch)}"
        except (ValueError, ZeroDivisionError, SystemExit) as error:
            cause = f" after {error.__cause__}" if error.__cause__ else ""
            return f"{type(error).__name__}: {error}{cause}"


def test_three_processes() -> None:
    with crew(3) as three:
        check_collected(three.run(collect_all))
        errors = three.run(fail_in_one, "error")
        other = "ZeroDivisionError: on process 2 after on process 2 of 3"
        assert errors == [other, other, "ZeroDivisionError: on process 2"]
        other = "SystemExit: 5 after on process 2 of 3"
        assert three.run(fail_in_one, "exit") == [other, other, "SystemExit: 5"]
        assert all(
            text.startswith("ValueError: data_parallel: the batches")
            for text in three.run(fail_in_one, "batch")
        )
        assert three.run(fail_in_one, "none") == [f"none: ({rank}, tensor(True))" for rank in range(3)]
        large = three.run(send_large)
    assert all(error < 1e-6 for error, _ in large)
    assert len({checksum for _, checksum in large}) == 1
