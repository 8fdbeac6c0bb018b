"""Selection among members, and error bars."""

from __future__ import annotations

import pytest
import torch

from pure import random, tree
from stages.selection import error_bars, exploit, rank, select
from stages.state import TrainState
from stages.sweep import sweep
from tests.laws.test_stages import regression_batch
from tests.stages.test_sweep import own

VALUES = {"rate": [0.3, 0.01, 0.1, 0.2]}
SWEPT = sweep(own, VALUES, seeds=range(4))


def trained() -> TrainState:
    state = SWEPT.init(random.key(0))
    for number in range(3):
        state = SWEPT.step(state, regression_batch(number))
    return state


def test_the_selected_member_continues_alone_as_it_would_in_the_sweep() -> None:
    state = trained()
    best = int(state.metrics["loss"].argmin())
    chosen = select(state, "loss")
    alone = own(VALUES["rate"][best]).step(chosen, regression_batch(9))
    together = SWEPT.step(state, regression_batch(9))
    torch.testing.assert_close(alone.params["w"], together.params["w"][best], rtol=1e-5, atol=1e-6)
    state.params["w"].zero_()
    assert chosen.params["w"].any()  # a copy


def test_nan_is_never_best() -> None:
    scores = torch.tensor([torch.nan, 2.0, -torch.inf, 1.0])
    assert rank(scores).tolist() == [2, 3, 1, 0]
    assert rank(scores, highest=True).tolist() == [1, 3, 2, 0]
    assert rank(torch.tensor([torch.nan, torch.inf])).tolist() == [1, 0]


def test_the_best_go_on_in_the_place_of_the_worst_with_keys_of_their_own() -> None:
    state = trained()
    order = rank(state.metrics["loss"]).tolist()
    after = exploit(state, "loss", fraction=0.5)
    expected = {order[0]: order[0], order[1]: order[1], order[3]: order[0], order[2]: order[1]}
    for member, source in expected.items():
        assert torch.equal(after.params["w"][member], state.params["w"][source])
    assert torch.equal(after.key, state.key)
    assert tree.structure(after) == tree.structure(state)
    other = sweep(own, {"rate": [0.1] * 4}, seeds=range(4)).step(after, regression_batch(3))
    assert not torch.equal(other.params["w"][order[0]], other.params["w"][order[3]])  # their noise differs


def test_error_bars_are_those_of_the_mean() -> None:
    table = random.normal(random.key(1), (3, 5)).double()
    bars = error_bars(table)
    torch.testing.assert_close(bars.mean, table.mean(1))
    torch.testing.assert_close(bars.error, table.std(1) / 5**0.5)
    assert torch.equal(error_bars(table.T, dim=0).error, bars.error)
    assert error_bars(torch.ones(2, 1)).error.isnan().all()


def test_other_scores_are_refused() -> None:
    state = trained()
    with pytest.raises(ValueError, match="no metric 'reward'; the state has loss, grad_norm"):
        select(state, "reward")
    with pytest.raises(ValueError, match=r"got a key \[4, 2\] and scores \[3\]"):
        select(state, torch.zeros(3))
    with pytest.raises(ValueError, match=r"got a key \[2\] and scores \[\]"):
        select(tree.unstack(state)[0], "loss")
    with pytest.raises(ValueError, match="all members are NaN"):
        exploit(state, torch.full((4,), torch.nan))
    with pytest.raises(ValueError, match="fraction in"):
        exploit(state, "loss", fraction=0.6)
    with pytest.raises(ValueError, match="one score for each member"):
        rank(torch.zeros(2, 2))


def test_lists_are_scores_and_values() -> None:
    state = trained()
    assert rank([0.3, 0.1]).tolist() == [1, 0]
    assert torch.equal(select(state, [4.0, 3.0, 1.0, 2.0]).params["w"], state.params["w"][2])
    bars = error_bars([[1, 3], [2, 2]])
    assert bars.mean.tolist() == [2.0, 2.0]
    assert bars.error.tolist() == [1.0, 0.0]


def test_the_quantiles_of_few_seeds() -> None:
    for count, quantile in ((2, 12.7), (3, 4.3), (5, 2.8), (10, 2.3)):
        assert f"{quantile} " in (error_bars.__doc__ or "")
        means = random.normal(random.key(count), (200_000, count), dtype=torch.float64)
        bars = error_bars(means)
        inside = (bars.mean.abs() < quantile * bars.error).double().mean()
        assert abs(inside - 0.95) < 0.005
