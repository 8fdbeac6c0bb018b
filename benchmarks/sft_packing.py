"""Fine-tuning with packing against fine-tuning without: useful tokens per second.

Examples of mixed length (log-normal, median 90 tokens, half of each the assistant's), rows of 256 positions,
16 rows a step, the model of 5.8M parameters, bfloat16, compiled. Both sides take steps of the same shape; a
useful token is one that is not padding.

    python benchmarks/sft_packing.py [--pairs N]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import _timing
import _trl
import numpy as np
import torch
from _model import describe_setup, step_fn

from data_pipes.chat.chat import Encoded
from data_pipes.sft import fullness, sft_pipe
from data_pipes.types import Pipe
from pure import optim, random
from stages.run.allocator import keep_freed_memory
from stages.sft import sft

ROWS, LENGTH, EXAMPLES = 16, 256, 4000


def examples() -> list[Encoded]:
    """Conversations of mixed length."""
    drawn = random.normal(random.key(0), (EXAMPLES,)).numpy()
    sizes = np.clip(np.exp(np.log(90) + 0.6 * drawn), 8, LENGTH + 1).astype(int)
    return [Encoded(np.arange(n) % 4000 + 5, np.arange(n) >= n // 2) for n in sizes]


def make_side(packing: bool) -> tuple[Callable[[], object], Pipe]:
    """A function that takes the next step, and its data pipe."""
    keep_freed_memory()
    model, params, _ = _trl.new_model()
    pipe = sft_pipe(examples(), batch_size=ROWS, length=LENGTH, key=0, packing=packing)
    stage = sft(model, optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4)), compute=torch.bfloat16)
    numbers = itertools.cycle(range(len(pipe)))
    return step_fn(stage, _trl.move_to_device(params), lambda: _trl.move_to_device(pipe[next(numbers)])), pipe


def main() -> None:
    """Print the table."""
    arguments = _timing.make_parser(__doc__, pairs=20).parse_args()
    print(describe_setup())
    (packed, packed_pipe), (unpacked, unpacked_pipe) = make_side(True), make_side(False)
    full, other = fullness(packed_pipe), fullness(unpacked_pipe)
    print(
        f"rows are {full:.1%} full with packing, {other:.1%} without; {len(packed_pipe)} steps an epoch and "
        f"{len(unpacked_pipe)}"
    )
    _timing.print_header()
    result = _timing.time_pairs(packed, unpacked, arguments.pairs)
    _timing.print_row("a step (rows of the same shape)", result)
    ratio = result.ratio * full / other
    verdict = "reached" if ratio >= 1.6 else "MISSED"
    print(f"useful tokens per second: {ratio:.2f}x with packing (target 1.6x: {verdict})")


if __name__ == "__main__":
    main()
