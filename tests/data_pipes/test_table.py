"""`table_pipe`: each row once an epoch; the last batch is padded or wraps. (`tests/laws` has the laws.)"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipes.table import TablePipe, batch_at, describe, table_pipe


def small_table_pipe(rows: int = 7, **options: object) -> TablePipe:
    defaults = {
        "batch_size": 3,
        "key": 1,
        "epochs": 1,
        "shuffle": True,
        "about": {"pipe": "mine", "length": 1},
    } | options
    return table_pipe(np.arange(rows), lambda table, r: {"row": r}, rows=rows, **defaults)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("wrap", [False, True])
def test_each_row_comes_once_an_epoch(epochs: int, wrap: bool) -> None:
    pipe = small_table_pipe(epochs=epochs, wrap=wrap)
    found = np.concatenate([batch["row"].numpy() for batch in pipe])
    for epoch in range(epochs):
        assert sorted(found[7 * epoch : 7 * epoch + 7]) == list(range(7))
    rest = found[7 * epochs :]
    assert (rest >= 0).all() if wrap else (rest == -1).all()


def test_the_order_differs_between_epochs_and_keys() -> None:
    found = np.concatenate([batch["row"].numpy() for batch in small_table_pipe(epochs=2)])
    assert found[:7].tolist() != found[7:14].tolist()
    assert (
        batch_at(small_table_pipe(100), 0)["row"].tolist()
        != batch_at(small_table_pipe(100, key=2), 0)["row"].tolist()
    )


def test_rows_are_in_order_without_shuffle() -> None:
    assert small_table_pipe(key=None, shuffle=False)[0]["row"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rows": 0}, ValueError, "mine: expected at least one example"),
        ({"rows": 0, "dropped": 2}, ValueError, "none of the 2 given has a token to train on"),
        ({"batch_size": 0}, ValueError, "batch_size must be"), ({"epochs": 0}, ValueError, "epochs must be"),
        ({"key": None}, TypeError, "pass key=0"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        small_table_pipe(**options)


def test_describe_differs_between_tables_but_not_between_slices() -> None:
    assert describe(small_table_pipe()[1:]) == describe(small_table_pipe())
    assert describe(small_table_pipe()) != describe(small_table_pipe(8))
