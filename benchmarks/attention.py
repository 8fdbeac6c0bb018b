"""Time of each attention backend, and the backend that "auto" chooses.

    python benchmarks/attention.py [--pairs N] [--length 128 ...] [--packed]

One layer's attention (8 heads of 32, 4 key-value heads) on batches of 2048 tokens, forward and backward,
eager and compiled. Each of N rounds times every backend once. The last column is the fastest backend's time
over that of "auto": 1.00 means that auto chose the fastest. FlexAttention has no backward on a CPU and
is timed on CUDA only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from _timing import make_parser, time_call
from torch import Tensor

from pure import random
from pure.nn.backend import BACKENDS, choose

TOKENS, HEADS, KEY_HEADS, WIDTH = 2048, 8, 4, 32
LENGTHS = (128, 256, 512, 1024, 2048)


def main() -> None:
    """Print a line for each length, dtype and mode: milliseconds of each backend, and the choice of auto."""
    flags = make_parser(__doc__)
    flags.add_argument(
        "--length", type=int, nargs="*", default=LENGTHS, help="tokens a row (default %(default)s)"
    )
    flags.add_argument("--packed", action="store_true", help="four documents a row, by segment_ids")
    flags.add_argument("--mode", choices=("eager", "compiled"), nargs="*", default=("eager", "compiled"))
    flags.add_argument("--dtype", choices=("float32", "bfloat16"), nargs="*", default=("float32", "bfloat16"))
    options = flags.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = [name for name in BACKENDS if name != "flex" or device == "cuda"]
    print(
        f"{device}, {torch.get_num_threads()} threads; milliseconds forward and backward, median of "
        f"{options.pairs}"
    )
    columns = " ".join(f"{name:>8}" for name in names)
    print(f"{'T':>5} {'dtype':>9} {'mode':>9} {columns}   auto  best/auto")
    for length in options.length:
        for dtype in options.dtype:
            for mode in options.mode:
                time_backends(
                    length, getattr(torch, dtype), mode, names, device, options.packed, options.pairs
                )


def time_backends(
    length: int, dtype: torch.dtype, mode: str, names: list[str], device: str, packed: bool, rounds: int
) -> None:
    """Time the backends alternately, `rounds` times each, and print one line with their medians."""
    q, k, v, dy = make_inputs(length, dtype, device)
    segment_ids = None
    if packed:
        segment_ids = (torch.arange(length, device=device) * 4 // length).expand(q.shape[0], -1)
    calls = {
        name: partial(compute_gradients, get_backend(name, mode), q, k, v, dy, segment_ids) for name in names
    }
    for _ in range(2):  # warm-up
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        order = names if i % 2 else names[::-1]
        for name in order:
            times[name].append(time_call(calls[name]))
    median = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    auto = choose("auto", q, k).__name__
    cells = " ".join(f"{median[name]:8.2f}" for name in names)
    dtype_name = str(dtype).removeprefix("torch.")
    ratio = min(median.values()) / median[auto]
    print(f"{length:>5} {dtype_name:>9} {mode:>9} {cells} {auto:>6} {ratio:9.2f}x", flush=True)


def make_inputs(length: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Return q, k, v (which require gradients) and the cotangent of the output, 2048 tokens in all."""
    rows = max(TOKENS // length, 1)
    shapes = [(rows, length, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)]
    keys = random.split(random.key(0), 4)
    values = [random.normal(key, shape).to(device, dtype) for key, shape in zip(keys, shapes, strict=True)]
    return (*(x.requires_grad_() for x in values[:3]), values[3])


def get_backend(name: str, mode: str) -> Callable[..., Tensor]:
    """Return the backend named `name`, compiled if the mode is "compiled"."""
    function = BACKENDS[name]
    return torch.compile(function, dynamic=False, fullgraph=True) if mode == "compiled" else function


def compute_gradients(
    function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, dy: Tensor, segment_ids: Tensor | None
) -> tuple[Tensor, ...]:
    """Run forward and backward; return the gradients of q, k and v."""
    return torch.autograd.grad(function(q, k, v, segment_ids=segment_ids), (q, k, v), dy)


if __name__ == "__main__":
    main()
