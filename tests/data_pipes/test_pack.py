"""`data_pipes.pack`: a token stream is cut into rows, examples are packed into bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.pack import best_fit_decreasing, cut_rows, row_count, segments, split_long

LENGTHS = st.lists(st.integers(0, 50), max_size=60)


@given(tokens=st.integers(2, 200), length=st.integers(1, 40))
def test_each_token_of_the_stream_is_a_label_once(tokens: int, length: int) -> None:
    stream = np.arange(100, 100 + tokens, dtype=np.uint16)
    count = row_count(tokens, length)
    inputs, labels = cut_rows(stream, np.arange(count), length)
    kept = labels != -100
    assert labels[kept].tolist() == stream[1:].tolist()
    assert inputs[kept].tolist() == stream[:-1].tolist()
    assert not inputs[~kept].any()
    assert kept[:-1].all()


def test_a_row_of_padding_is_empty() -> None:
    inputs, labels = cut_rows(np.arange(10), np.array([-1]), 3)
    assert inputs.tolist() == [[0, 0, 0]]
    assert labels.tolist() == [[-100, -100, -100]]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), length=st.integers(1, 12))
def test_segments_and_positions_equal_a_token_by_token_count(sizes: list[int], length: int) -> None:
    """In each row the segment ids count documents from 0, and positions restart with each document."""
    ends = np.cumsum(sizes)
    rows = np.arange(row_count(int(ends[-1]) + 1, length))
    ids, positions = segments(ends, rows, length)
    beyond_the_stream = length + 2  # padding after the last document counts as one more
    document_of = np.repeat(np.arange(len(sizes) + 1), [*sizes, beyond_the_stream])
    for row in rows.tolist():
        documents = document_of[row * length : row * length + length + 1].tolist()
        expected, start = [], -1
        for i, document in enumerate(documents):
            if i == 0 or document != documents[i - 1]:
                start = i
            expected.append((document - documents[0], i - start))
        assert list(zip(ids[row].tolist(), positions[row].tolist(), strict=True)) == expected


def test_segments_of_padding_are_one_document() -> None:
    ids, positions = segments(np.array([2, 4]), np.array([-1, 1]), 3)
    assert ids.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]
    ids, _ = segments(np.array([0, 4]), np.array([-1]), 3)  # the first document is empty
    assert ids.tolist() == [[0, 0, 0, 0]]


def reference_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Longest example first, into the fullest bin that has room for it, else into a new one."""
    bins: list[list[int]] = []
    rooms: list[int] = []
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= lengths[example]]
        if fitting:
            number = min(fitting)[1]
        else:
            number = len(bins)
            bins.append([])
            rooms.append(capacity)
        bins[number].append(example)
        rooms[number] -= lengths[example]
    return bins


@given(lengths=LENGTHS, capacity=st.integers(50, 80))
def test_best_fit_fills_bins_as_the_reference(lengths: list[int], capacity: int) -> None:
    """Bins of equal room are interchangeable, so what must agree is how full they are."""
    ours, expected = best_fit_decreasing(lengths, capacity), reference_best_fit(lengths, capacity)

    def loads(bins: list[list[int]]) -> list[int]:
        return sorted(sum(lengths[i] for i in members) for members in bins)

    assert loads(ours) == loads(expected)
    assert sorted(i for members in ours for i in members) == list(range(len(lengths)))
    assert max(loads(ours), default=0) <= capacity


@given(lengths=st.lists(st.integers(0, 9), max_size=40), capacity=st.integers(9, 14))
def test_of_bins_with_equal_room_the_last_to_reach_it_is_filled(lengths: list[int], capacity: int) -> None:
    """The result is that of placing one example at a time, bin by bin and index by index."""
    bins: list[list[int]] = []
    rooms: list[int] = []
    reached: list[int] = []
    for time, example in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        fitting = [i for i, room in enumerate(rooms) if room >= lengths[example]]
        if not fitting:
            fitting = [len(bins)]
            bins.append([])
            rooms.append(capacity)
            reached.append(time)
        number = min(fitting, key=lambda i: (rooms[i], -reached[i]))
        bins[number].append(example)
        rooms[number] -= lengths[example]
        reached[number] = time
    assert best_fit_decreasing(lengths, capacity) == bins


def test_best_fit_uses_the_fullest_bin_with_room() -> None:
    assert best_fit_decreasing([6, 7, 3, 2], 10) == [[1, 2], [0, 3]]


def test_bins_of_log_normal_lengths_are_nearly_full() -> None:
    lengths = np.clip(np.exp(np.random.default_rng(0).normal(np.log(180), 1, 20_000)).astype(int), 1, 2048)
    bins = best_fit_decreasing(lengths, 2048)
    assert lengths.sum() / 2048 / len(bins) > 0.997


def test_no_examples_give_no_bins_and_empty_ones_share_a_bin() -> None:
    assert best_fit_decreasing([], 4) == []
    assert best_fit_decreasing([0, 0], 4) == [[0, 1]]


@pytest.mark.parametrize(("lengths", "capacity"), [([5], 4), ([-1], 4), ([1], 0)])
def test_impossible_lengths_and_capacities_are_refused(lengths: list[int], capacity: int) -> None:
    with pytest.raises(ValueError, match=r"split_long|capacity must be at least 1"):
        best_fit_decreasing(lengths, capacity)


@given(lengths=LENGTHS, capacity=st.integers(1, 20))
def test_the_pieces_of_split_examples_cover_them_in_order(lengths: list[int], capacity: int) -> None:
    examples, starts, sizes = split_long(lengths, capacity)
    covered = []  # (example, position) of each token of the pieces, in order
    for example, start, size in zip(examples.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        covered.extend((example, position) for position in range(start, start + size))
    assert covered == [(i, position) for i, length in enumerate(lengths) for position in range(length)]
    assert set(examples.tolist()) == set(range(len(lengths)))
    assert (sizes <= capacity).all()
    is_unsplit = np.asarray(lengths, int)[examples] <= capacity
    assert (starts[is_unsplit] == 0).all()


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        split_long([3], 0)


def test_fractional_lengths_are_refused() -> None:
    for pack in (best_fit_decreasing, split_long):
        with pytest.raises(TypeError, match=r"lengths must be integers \(numbers of tokens\), got float64"):
            pack([2.5, 1.0], 4)  # type: ignore[list-item]
