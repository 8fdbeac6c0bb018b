"""Curves keep every peak when they are shortened, and metrics are grouped by their names."""

from __future__ import annotations

import numpy as np
import pytest

from stages.report.curves import describe_gaps, group_metrics, make_curve, shorten

NAN = float("nan")


@pytest.mark.parametrize(("count", "buckets"), [(81, 40), (82, 40), (1000, 40), (99_999, 400)])
def test_a_shortened_curve_keeps_extremes_first_order_and_the_last_value(count: int, buckets: int) -> None:
    values = np.sin(np.arange(count) / 7.0)
    values[count // 3], values[count // 2] = 50.0, -50.0
    short = shorten(make_curve(range(count), values.tolist()), buckets)
    assert len(short.steps) <= 2 * buckets + 1
    assert (np.diff(short.steps) > 0).all()
    assert short.steps[-1] == count - 1
    assert (short.values == values[short.steps]).all()
    assert {50.0, -50.0} <= set(short.values.tolist())
    assert short.logged == count
    for part in np.array_split(np.arange(count), buckets):
        assert ((short.steps >= part[0]) & (short.steps <= part[-1])).any()


def test_a_bucket_of_nan_stays_a_gap_and_others_ignore_theirs() -> None:
    values = [1.0, NAN, 3.0, 2.0, NAN, NAN, NAN, NAN, 7.0, NAN, 5.0, float("inf")]
    short = shorten(make_curve(range(12), values), 3)
    assert short.steps.tolist() == [0, 2, 4, 8, 10, 11]
    assert short.values[:2].tolist() == [1.0, 3.0]
    assert np.isnan(short.values[[2, 5]]).all()


def test_gaps_are_described() -> None:
    assert describe_gaps("loss", make_curve([1, 2], [1.0, 2.0])) == ""
    curve = make_curve(range(1, 5), [NAN, 1.0, 1e308, 2.0])  # beyond float32, in which points are drawn
    assert describe_gaps("loss", curve) == "loss: 2 of 4 values cannot be drawn (steps 1 to 3)"


def test_groups_follow_the_longest_beginning() -> None:
    names = ["val_reward", "val_loss", "tok_per_sec", "kl/log_ratio", "rewards/a/mean", "loss/0", "odd"]
    groups = group_metrics(names)
    assert groups["Rewards"] == ["val_reward", "rewards/a/mean"]
    assert groups["Loss"] == ["val_loss", "loss/0"]
    assert groups["Other"] == ["odd"]
    assert sorted(name for members in groups.values() for name in members) == sorted(names)
