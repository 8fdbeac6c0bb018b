"""Packing examples into rows: time, and the fraction of the rows' tokens that is filled.

100,000 examples (log-normal lengths, median 180) are packed into rows of 2048 tokens. The peer is TRL's
`pack_dataset`, strategy "bfd", all examples in one batch (by default it packs 1,000 at a time, which fills
the rows less). It also copies the tokens, so ours gathers them too. Without TRL only our time is printed.

    python benchmarks/packing.py [--pairs N]
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sized

import numpy as np
import pyarrow
from _timing import make_parser, print_header, print_row, time_call, time_pairs

from data_pipes.pack import best_fit_decreasing

EXAMPLES, MEDIAN, CAPACITY = 100_000, 180, 2048


def lengths() -> np.ndarray:
    """Return random lengths: log-normal with sigma 1, clipped at the capacity."""
    values = np.exp(np.random.default_rng(0).normal(np.log(MEDIAN), 1, EXAMPLES))
    return np.clip(values.astype(np.int64), 1, CAPACITY)


def ours(sizes: np.ndarray, values: pyarrow.BinaryArray) -> tuple[np.ndarray, list[list[int]]]:
    """Pack the lengths; return the tokens in the order of the bins, and the bins (indices of examples)."""
    bins = best_fit_decreasing(sizes, CAPACITY)
    order = np.fromiter((example for members in bins for example in members), np.int64, len(sizes))
    return np.frombuffer(values.take(pyarrow.array(order)).buffers()[2], np.int32), bins


def as_bytes(rows: pyarrow.ListArray) -> pyarrow.BinaryArray:
    """View each example's tokens as one value of bytes, so that gathering copies once per example."""
    offsets = pyarrow.array(rows.offsets.to_numpy() * 4)
    return pyarrow.BinaryArray.from_buffers(
        pyarrow.binary(), len(rows), [None, offsets.buffers()[1], rows.values.buffers()[1]]
    )


def list_column(sizes: np.ndarray, flat: np.ndarray) -> pyarrow.ListArray:
    """Return the examples as a column of lists."""
    offsets = pyarrow.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(flat))


def trl_side(rows: pyarrow.ListArray) -> Callable[[], Sized] | None:
    """Return a function that packs the same examples with TRL, or None if TRL is not installed."""
    if importlib.util.find_spec("trl") is None:
        return None
    import datasets
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    table = pyarrow.table({"input_ids": rows})
    options = {"batch_size": EXAMPLES, "keep_in_memory": True, "load_from_cache_file": False}
    return lambda: pack_dataset(datasets.Dataset(table), CAPACITY, "bfd", map_kwargs=options)


def main() -> None:
    """Print the filled fraction, and the times."""
    arguments = make_parser(__doc__).parse_args()
    sizes = lengths()
    flat = np.arange(sizes.sum(), dtype=np.int32)
    rows = list_column(sizes, flat)
    values = as_bytes(rows)
    packed, bins = ours(sizes, values)
    assert np.array_equal(np.sort(packed), flat)
    fewest = -(-len(flat) // CAPACITY)
    full = len(flat) / CAPACITY / len(bins)
    print(f"{len(bins)} rows for {EXAMPLES} examples, {full:.4%} full (at least {fewest} rows)")
    seconds = sorted(time_call(lambda: best_fit_decreasing(sizes, CAPACITY)) for _ in range(arguments.pairs))
    median, least_time, most_time = (1e3 * seconds[i] for i in (len(seconds) // 2, 0, -1))
    print(f"lengths alone: {median:.0f} ms ({least_time:.0f}-{most_time:.0f})")
    peer = trl_side(rows)
    if peer is None:
        print("TRL is not installed, so there is no peer; pip install trl to compare")
        return
    print(f"TRL: {len(peer())} rows")
    print_header()
    print_row(
        "packing with the tokens",
        time_pairs(lambda: ours(sizes, values), peer, pairs=arguments.pairs),
        target=10.0,
    )


if __name__ == "__main__":
    main()
