"""Fine-tuning with packing against fine-tuning without: useful tokens per second.

Examples of mixed length (log-normal, median 90 tokens; the second half of each is the assistant's answer),
rows of 256 positions, 16 rows a step, the model of 5.8M parameters, bfloat16, compiled. Both runs take steps
of the same shape; a useful token is one that is not padding.

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


def make_examples() -> list[Encoded]:
    """Make conversations of mixed length."""
    noise = random.normal(random.key(0), (EXAMPLES,)).numpy()
    sizes = np.clip(np.exp(np.log(90) + 0.6 * noise), 8, LENGTH + 1).astype(int)
    return [Encoded(np.arange(n) % 4000 + 5, np.arange(n) >= n // 2) for n in sizes]


def make_run(packing: bool) -> tuple[Callable[[], object], Pipe]:
    """Make a function that takes the next training step, and its data pipe."""
    keep_freed_memory()
    model, params, _ = _trl.new_model()
    pipe = sft_pipe(make_examples(), batch_size=ROWS, length=LENGTH, key=0, packing=packing)
    stage = sft(model, optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4)), compute=torch.bfloat16)
    indices = itertools.cycle(range(len(pipe)))
    return step_fn(stage, _trl.move_to_device(params), lambda: _trl.move_to_device(pipe[next(indices)])), pipe


def main() -> None:
    """Print the table."""
    arguments = _timing.make_parser(__doc__, pairs=20).parse_args()
    print(describe_setup())
    (packed_step, packed_pipe), (unpacked_step, unpacked_pipe) = make_run(True), make_run(False)
    packed_fullness, unpacked_fullness = fullness(packed_pipe), fullness(unpacked_pipe)
    print(f"with packing: rows are {packed_fullness:.1%} full, {len(packed_pipe)} steps an epoch")
    print(f"without packing: rows are {unpacked_fullness:.1%} full, {len(unpacked_pipe)} steps an epoch")
    _timing.print_header()
    result = _timing.time_pairs(packed_step, unpacked_step, arguments.pairs)
    _timing.print_row("a step (rows of the same shape)", result)
    ratio = result.ratio * packed_fullness / unpacked_fullness
    verdict = "reached" if ratio >= 1.6 else "MISSED"
    print(f"useful tokens per second: {ratio:.2f}x with packing (target 1.6x: {verdict})")


if __name__ == "__main__":
    main()
