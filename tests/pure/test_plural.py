"""`pure.plural`: one is singular, in messages of every part of the library."""

from __future__ import annotations

import pytest
import torch

from data_pipes.filter import Drop, render_report, report
from pure import optim, tree
from pure.parallel.collect import own
from pure.parallel.group import Group, within
from pure.plural import count_noun
from stages.run.options.base import OptimizerFlags, check_rows


def test_one_is_singular() -> None:
    assert [count_noun(n, "row") for n in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
    assert [count_noun(n, "entry", "entries") for n in (1, 3)] == ["1 entry", "3 entries"]


def test_messages_count_in_the_singular() -> None:
    with (
        within(Group(0, 1, None)),
        pytest.raises(ValueError, match=r"expected at least 1 row \(prompts"),
    ):
        own({"x": torch.zeros(0, 2)})
    with pytest.raises(ValueError, match=r"chain: 1 transformation but 0 states"):
        optim.chain(optim.identity()).update(tree.map(torch.clone, {}), (), {})
    with pytest.raises(ValueError, match=r"0 rows for 1 process; give at least one row a process"):
        check_rows(OptimizerFlags(), 0, "--batch_size 0", 1)
    assert render_report(report([Drop("a", "length: 1 character", 1)])).startswith(
        "length: 1 document, 1 character;"
    )
