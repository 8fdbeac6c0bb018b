"""Fine-tuning with packing beside the same without: useful tokens a second.

Examples of mixed length (log-normal, median 90 tokens, a half of each the assistant's), rows of 256 places,
16 rows a step, the model of 5.8M parameters, bfloat16, compiled. Both sides take steps of the same shape; a
useful token is one that is read or learned, no padding.

    python benchmarks/sft_packing.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _timing
import _trl
import numpy as np
import torch

from data_pipes.chat.chat import Encoded
from data_pipes.sft import fullness, sft_pipe
from pure import optim, random, tree
from pure.transform.jit import jit
from stages.run.allocator import keep_freed_memory
from stages.sft import sft

ROWS, LENGTH, EXAMPLES = 16, 256, 4000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def examples() -> list[Encoded]:
    """Conversations of mixed length."""
    drawn = random.normal(random.key(0), (EXAMPLES,)).numpy()
    sizes = np.clip(np.exp(np.log(90) + 0.6 * drawn), 8, LENGTH + 1).astype(int)
    return [Encoded(np.arange(n) % 4000 + 5, np.arange(n) >= n // 2) for n in sizes]


def side(packing: bool) -> tuple[Callable[[], object], Any]:
    """A function that takes the next step, and its pipe."""
    keep_freed_memory()
    model, params, _ = _trl.start()
    params = tree.map(lambda x: x.to(DEVICE), params)
    pipe = sft_pipe(examples(), batch_size=ROWS, length=LENGTH, key=0, packing=packing)
    stage = sft(model, optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4)), compute=torch.bfloat16)
    step, box = jit(stage.step, donate=True, regions=True), [stage.init(random.key(0, device=DEVICE), params)]
    number = [0]

    def take() -> object:
        batch = tree.map(lambda x: x.to(DEVICE), pipe[number[0] % len(pipe)])
        number[0] += 1
        box[0] = step(box[0], batch)
        return box[0].metrics["loss"]

    return take, pipe


def main() -> None:
    """Prints the table."""
    arguments = _timing.parser(__doc__, pairs=20).parse_args()
    print(
        f"{torch.get_num_threads()} threads, {DEVICE}, torch {torch.__version__}, {_trl.count():,} parameters"
    )
    (packed, one), (alone, other) = side(True), side(False)
    full = [fullness(pipe) for pipe in (one, other)]
    print(
        f"rows are {full[0]:.1%} full with packing, {full[1]:.1%} without; {len(one)} steps an epoch and {len(other)}"
    )
    _timing.header()
    found = _timing.paired(packed, alone, arguments.pairs)
    _timing.row("a step (rows of the same shape)", found)
    ratio = found.ratio * full[0] / full[1]
    print(
        f"useful tokens a second: {ratio:.2f}x with packing (aim 1.6x: {'reached' if ratio >= 1.6 else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
