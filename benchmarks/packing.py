"""Packing 100,000 examples (log-normal lengths, median 180) into rows of 2048: the time, and how full the
rows are.

The peer is TRL's `pack_dataset`, strategy "bfd", all examples in one batch (it packs 1,000 at a time by
default, which fills less). It moves the tokens as well, so ours gathers them too. TRL is no dependency: where
it is not installed, this says so and prints our time alone.

Usage: python benchmarks/packing.py [--pairs N]
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pyarrow
from _timing import header, paired, parser, row, seconds

from data_pipes.pack import best_fit_decreasing

EXAMPLES, MEDIAN, CAPACITY = 100_000, 180, 2048


def lengths() -> np.ndarray:
    """Log-normal with sigma 1, cut at the capacity."""
    drawn = np.exp(np.random.default_rng(0).normal(np.log(MEDIAN), 1, EXAMPLES))
    return np.clip(drawn.astype(np.int64), 1, CAPACITY)


def ours(sizes: np.ndarray, values: pyarrow.BinaryArray) -> tuple[np.ndarray, list[list[int]]]:
    """Packs the lengths, and puts the tokens in the order of the bins."""
    bins = best_fit_decreasing(sizes, CAPACITY)
    order = np.fromiter((example for members in bins for example in members), np.int64, len(sizes))
    return np.frombuffer(values.take(pyarrow.array(order)).buffers()[2], np.int32), bins


def values_of(rows: pyarrow.ListArray) -> pyarrow.BinaryArray:
    """The same buffers, each example's bytes as one value: taking it is one copy, where a list's is one a
    token."""
    offsets = pyarrow.array(rows.offsets.to_numpy() * 4)
    return pyarrow.BinaryArray.from_buffers(
        pyarrow.binary(), len(rows), [None, offsets.buffers()[1], rows.values.buffers()[1]]
    )


def rows_of(sizes: np.ndarray, flat: np.ndarray) -> pyarrow.ListArray:
    """The examples as a column."""
    offsets = pyarrow.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(flat))


def trl(rows: pyarrow.ListArray) -> Callable[[], object] | None:
    """TRL's packing of the same examples, or None where TRL is missing."""
    if importlib.util.find_spec("trl") is None:
        return None
    import datasets
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    table = pyarrow.table({"input_ids": rows})
    options = {"batch_size": EXAMPLES, "keep_in_memory": True, "load_from_cache_file": False}
    return lambda: pack_dataset(datasets.Dataset(table), CAPACITY, "bfd", map_kwargs=options)


def main() -> None:
    """Prints how full the rows are, and the times."""
    arguments = parser(__doc__).parse_args()
    sizes = lengths()
    flat = np.arange(sizes.sum(), dtype=np.int32)
    rows = rows_of(sizes, flat)
    values = values_of(rows)
    packed, bins = ours(sizes, values)
    assert np.array_equal(np.sort(packed), flat)
    least = -(-len(flat) // CAPACITY)
    print(
        f"{len(bins)} rows for {EXAMPLES} examples, {len(flat) / CAPACITY / len(bins):.4%} full (at least {least} rows)"
    )
    alone = sorted(seconds(lambda: best_fit_decreasing(sizes, CAPACITY)) for _ in range(arguments.pairs))
    print(
        f"lengths alone: {1e3 * alone[len(alone) // 2]:.0f} ms ({1e3 * alone[0]:.0f}-{1e3 * alone[-1]:.0f})"
    )
    peer = trl(rows)
    if peer is None:
        print("TRL is not installed, so there is no peer; pip install trl to compare")
        return
    print(f"TRL: {len(peer())} rows")  # type: ignore[arg-type]
    header()
    row(
        "packing with the tokens",
        paired(lambda: ours(sizes, values), peer, pairs=arguments.pairs),
        reach=10.0,
    )


if __name__ == "__main__":
    main()
