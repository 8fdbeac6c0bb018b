"""Two runs from one state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pure import random, tree
from stages.branch import branch
from tests.laws.test_stages import regression_batch
from tests.stages.test_sweep import own

BATCHES = [regression_batch(i) for i in range(4)]
ORIGINAL = own(0.1)
START = ORIGINAL.step(ORIGINAL.init(random.key(0)), regression_batch(9))


def test_a_branch_equals_both_runs_alone() -> None:
    found = branch(ORIGINAL, own(0.2), START, BATCHES)
    states: list[Any] = [START, START]
    for i, batch in enumerate(BATCHES):
        states = [stage.step(state, batch) for stage, state in zip((ORIGINAL, own(0.2)), states, strict=True)]
        one, two = (state.params["w"] for state in states)
        torch.testing.assert_close(found.distances[i], (one - two).norm())
        torch.testing.assert_close(found.lengths[i], (one - START.params["w"]).norm())
        torch.testing.assert_close(found.metrics["loss"][i], torch.stack([s.metrics["loss"] for s in states]))
    assert found.first == 0
    assert found.metrics["loss"][0, 0] == found.metrics["loss"][0, 1]  # the first loss is that of the start
    assert torch.equal(found.states[1].params["w"], states[1].params["w"])


def test_the_first_step_that_differs_is_that_of_the_first_batch_that_does() -> None:
    changed = [*BATCHES[:2], regression_batch(7), BATCHES[3]]
    found = branch(ORIGINAL, ORIGINAL, START, BATCHES, changed_batches=changed)
    assert found.first == 2
    assert found.distances[:2].eq(0).all()
    assert found.distances[2:].gt(0).all()


def test_equal_runs_never_differ_and_another_key_does_at_once() -> None:
    same = branch(ORIGINAL, ORIGINAL, START, BATCHES)
    assert same.first == -1
    assert same.distances.eq(0).all()
    other = START._replace(key=random.key(5))
    assert branch(ORIGINAL, ORIGINAL, START, BATCHES, changed_state=other).first == 0
    assert tree.structure(same.states[0]) == tree.structure(START)


def test_other_numbers_of_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="S >= 1 steps, got 4 and 3"):
        branch(ORIGINAL, ORIGINAL, START, BATCHES, changed_batches=BATCHES[:3])
    with pytest.raises(ValueError, match="got 0 and 0"):
        branch(ORIGINAL, ORIGINAL, START, [])
