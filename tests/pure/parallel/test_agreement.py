"""Agreement of processes: what differs in structure is refused on all, before any collective takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pure import optim, random
from pure.parallel.agreement import (
    by_rows,
    compute_in_group,
    describe_structure,
    refuse_differences,
    structure_mark,
)
from pure.parallel.group import group_of, within
from pure.transform.jit import jit
from pure.types import Tree
from stages.data_parallel import data_parallel
from stages.sharded import sharded
from stages.stage import Stage, stage
from tests.crew import Crew, crew, message_of

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    with crew(2) as members:
        yield members


TREE = {"a": torch.ones(2), "b": [torch.ones(3, 1), torch.ones(())]}


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.ones(3), "b": [torch.ones(3, 1), torch.ones(())]},
        {"a": torch.ones(2).double(), "b": [torch.ones(3, 1), torch.ones(())]},
        {"c": torch.ones(2), "b": [torch.ones(3, 1), torch.ones(())]},
        {"a": torch.ones(2), "b": [torch.ones(3, 1)]},
        {"a": torch.ones(2), "b": [torch.ones(1, 3), torch.ones(())]},
        {"a": torch.ones(2), "b": torch.ones(3, 1)},
    ],
)
def test_marks_of_structures_differ_if_the_structures_do(other: Tree) -> None:
    assert structure_mark(TREE) == structure_mark(
        {"b": [torch.zeros(3, 1), torch.ones(())], "a": torch.zeros(2)}
    )
    assert structure_mark(TREE) != structure_mark(other)
    same, different = describe_structure(TREE), describe_structure(other)
    refuse_differences("test", [same, same], "")
    with pytest.raises(ValueError, match=r"^test: .* on process 0, and .* on process 1; write it anew$"):
        refuse_differences("test", [same, different], "write it anew")


def test_marks_of_rows_leave_out_their_number() -> None:
    assert structure_mark(torch.ones(2, 3), of_rows=True) == structure_mark(torch.ones(5, 3), of_rows=True)
    assert structure_mark(torch.ones(2, 3), of_rows=True) != structure_mark(torch.ones(2, 4), of_rows=True)
    assert structure_mark(torch.ones(2, 3)) != structure_mark(torch.ones(3, 3))


def differ(kind: str) -> tuple[str, list[float]]:
    """The message if process 1 returns something else than {"y": [rows, 2]}, and the rows of a call after it."""
    first = dist.get_rank() == 0

    def function(params: Tree, batch: Tensor) -> Tree:
        y = batch[:, None].expand(-1, 2)
        return {
            "name": {"y" if first else "z": y},
            "width": {"y": y if first else y[:, :1]},
            "dtype": {"y": y if first else y.double()},
            "rows": {"y": y[:1]},
            "none": {"y": y},
        }[kind]

    with within(group_of("test", dist.group.WORLD)):
        message = message_of(lambda: by_rows(function)(None, torch.arange(4.0)))
        after = by_rows(lambda params, batch: batch)(None, torch.arange(4.0))  # nobody waits for another
    return message, after.tolist()


DIFFERENT = "ValueError: data_parallel: the result of a loss, or of a function of rows, differs: "


def test_rows_of_other_structures_are_refused_on_all(two: Crew) -> None:
    expected = {
        "name": f"{DIFFERENT}y is float32 [rows, 2] on process 0, and missing on process 1; return the same",
        "width": f"{DIFFERENT}y is float32 [rows, 2] on process 0, and float32 [rows, 1] on process 1",
        "dtype": f"{DIFFERENT}y is float32 [rows, 2] on process 0, and float64 [rows, 2] on process 1",
        "rows": "ValueError: by_rows: expected 2 rows in each tensor of the result, as in the batch that the",
        "none": "no error",
    }
    for kind, text in expected.items():
        for message, after in two.run(differ, kind):
            assert message.startswith(text), (kind, message)
            assert after == [0.0, 1.0, 2.0, 3.0]


def compare_batches(layers: bool) -> list[str]:
    """Messages for batches that differ by names and dtypes only; if the function was called."""
    called: list[int] = []
    group = group_of("test", dist.group.WORLD)._replace(layers=layers, errors_shared=not layers)
    x, other = torch.arange(4), dist.get_rank() == 1
    with within(group):
        renamed = message_of(lambda: compute_in_group(called.append, {"y" if other else "x": x}))  # type: ignore[arg-type]
        cast = message_of(lambda: compute_in_group(called.append, {"x": x.int() if other else x}))  # type: ignore[arg-type]
    return [renamed, cast, str(len(called))]


@pytest.mark.parametrize("layers", [False, True])
def test_batches_of_other_names_and_dtypes_are_other_batches(layers: bool, two: Crew) -> None:
    """The function is not called first if it has collectives of its own."""
    for *messages, called in two.run(compare_batches, layers):
        assert all(text.startswith("ValueError: data_parallel: the batches of the") for text in messages)
        assert called == ("0" if layers else "2")


WAYS: Mapping[str, Callable[[Stage], Stage]] = {
    "data_parallel": lambda plain: data_parallel(plain, dist.group.WORLD),
    "sharded": lambda plain: sharded(plain, dist.group.WORLD),
    "layers": lambda plain: sharded(plain, dist.group.WORLD, layers=True),
}


def loss_with(kind: str, params: Tree, batch: Tree, key: Tensor | None) -> tuple[Tensor, Tensor, dict]:
    """A loss whose metrics depend on its rows, of which the last one is large."""
    del key
    x = batch["x"]
    has, count = bool((x > 10).any()), torch.tensor(float(len(x)))
    large = (x > 10).sum()
    metrics: dict[str, Any] = {
        "missing": {"large": large} if has else {},
        "kind": {"large": (large.float(), count) if has else large.float()},
        "dtype": {"large": large if has else large.float()},
        "shape": {"large": large.float() if has else large.float()[None]},
        "none": {"large": large.float()},
    }[kind]
    return (params["w"] - x[:, None]).square().sum(), count, metrics


def step_with(kind: str, way: str) -> tuple[str, float]:
    """The message of a step in which only process 1 has a large row, and the loss of a step after it."""

    def loss(params: Tree, batch: Tree, key: Tensor | None) -> tuple[Tensor, Tensor, dict]:
        return loss_with(batch_kind[0], params, batch, key)

    batch_kind = [kind]
    shared = WAYS[way](stage(loss, optim.sgd(0.1), metrics=("large",)))
    state = shared.init(random.key(0), {"w": torch.zeros(3)})
    batch = {"x": torch.tensor([1.0, 2.0, 3.0, 40.0])}
    message = message_of(lambda: shared.step(state, batch))
    batch_kind[0] = "none"
    return message, float(shared.step(state, batch).metrics["large"])


CASES = [(kind, way) for kind in ("missing", "kind", "dtype", "shape", "none") for way in WAYS]
CASES.remove(("missing", "layers"))  # an error inside such a loss is raised only where it happens


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_metrics_of_another_structure_are_refused_on_all(kind: str, way: str, two: Crew) -> None:
    """They were added up as they lay in memory: metrics were wrong, and other sizes ended the process."""
    results = two.run(step_with, kind, way)
    expected = {
        "missing": "ValueError: stage: the loss reported the metrics [], and ['large'] were declared",
        "kind": f"{DIFFERENT}metrics/large is float32 [] on process 0, and missing on process 1",
        "dtype": f"{DIFFERENT}metrics/large is float32 [] on process 0, and int64 [] on process 1",
        "shape": f"{DIFFERENT}metrics/large is float32 [1] on process 0, and float32 [] on process 1",
        "none": "no error",
    }[kind]
    for message, large in results:
        assert message.startswith(expected), message
        assert "\n" not in message
        assert large == 1.0


def test_a_loss_that_reports_other_metrics_for_a_part_is_refused_on_one_process() -> None:
    plain = stage(partial(loss_with, "missing"), optim.sgd(0.1), metrics=("large",), accumulation=2)
    state = plain.init(random.key(0), {"w": torch.zeros(3)})
    with pytest.raises(
        ValueError, match=r"the loss reported the metrics \[\], and \['large'\] were declared"
    ):
        plain.step(state, {"x": torch.tensor([1.0, 2.0, 3.0, 40.0])})


def compile_rows() -> list[float]:
    """Rows of a compiled function, whose structure is static."""
    rows = jit(by_rows(lambda w, x: {"y": x * w}), backend="aot_eager")
    with within(group_of("test", dist.group.WORLD)):
        return rows(torch.tensor(2.0), torch.arange(4.0))["y"].tolist()


def test_compiled_functions_of_rows_agree(two: Crew) -> None:
    assert two.run(compile_rows) == [[0.0, 2.0, 4.0, 6.0]] * 2
