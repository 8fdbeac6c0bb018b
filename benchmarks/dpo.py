"""A DPO step beside TRL's DPOTrainer.

16 pairs of 128 tokens, half of each the answer, the model of 5.8M parameters, bfloat16. The first line
computes the reference's log-probabilities in every step, as TRL does; the second takes them from the batch,
where `with_reference` has put them once for all epochs. Ours is compiled (its first step is printed), TRL
runs as it is.

    python benchmarks/dpo.py [--pairs N]
"""

from __future__ import annotations

import time
from collections.abc import Callable

import _timing
import _trl
import torch

from pure import optim, random, tree
from pure.transform.jit import jit
from stages.dpo import dpo
from stages.run.allocator import keep_freed_memory

PAIRS, LENGTH = 16, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def our_side(inside: bool = True, keep: bool = True) -> Callable[[], object]:
    """A function that takes a step."""
    if keep:
        keep_freed_memory()
    model, params, _ = _trl.start()
    params = tree.map(lambda x: x.to(DEVICE), params)
    answer = torch.arange(LENGTH, device=DEVICE) >= LENGTH // 2
    batch: dict = {}
    for number, side in enumerate(("chosen", "rejected")):
        drawn = random.randint(random.key(number), (PAIRS, LENGTH + 1), 5, 290).long().to(DEVICE)
        batch |= {f"{side}_tokens": drawn[:, :-1], f"{side}_labels": torch.where(answer, drawn[:, 1:], -100)}
    if not inside:
        batch |= {f"reference_{side}": torch.zeros(PAIRS, device=DEVICE) for side in ("chosen", "rejected")}
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4))
    stage = dpo(model, optimizer, reference=params if inside else None, compute=torch.bfloat16)
    step, box = jit(stage.step, donate=True, regions=True), [stage.init(random.key(0, device=DEVICE), params)]

    def take() -> object:
        box[0] = step(box[0], batch)
        return box[0].metrics["loss"]

    return take


def peer_side() -> Callable[[], None]:
    """The same with TRL: texts longer than the rows, so that every row is full."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    place = _trl.folder()
    tokenizer = AutoTokenizer.from_pretrained(place)
    texts = [
        [_letters(7 * n + side, LENGTH // 2 if side == 0 else 400) for side in range(3)] for n in range(PAIRS)
    ]
    rows = Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in texts])
    arguments = DPOConfig(
        **_trl.common(per_device_train_batch_size=PAIRS),
        max_length=LENGTH,
        beta=0.1,
        model_init_kwargs={"dtype": torch.float32},
    )

    def make(gate: object) -> DPOTrainer:
        return DPOTrainer(
            model=place, args=arguments, processing_class=tokenizer, train_dataset=rows, callbacks=[gate]
        )

    return _trl.stepping(make)


def _letters(seed: int, count: int) -> str:
    """Letters, so many."""
    return "".join(chr(97 + i) for i in random.randint(random.key(seed), (count,), 0, 26).tolist())


def main() -> None:
    """Prints the table."""
    arguments = _timing.parser(__doc__, pairs=20).parse_args()
    print(
        f"{torch.get_num_threads()} threads, {DEVICE}, torch {torch.__version__}, {_trl.count():,} parameters"
    )
    ours, given, peer = our_side(), our_side(inside=False), peer_side()
    for side in (ours, given):
        begun = time.perf_counter()
        side()
        print(f"first step, which compiles: {time.perf_counter() - begun:.1f} s")
    _timing.header()
    tokens = 2 * PAIRS * LENGTH
    _timing.row("a DPO step", _timing.paired(ours, peer, arguments.pairs), 1.5, items=tokens, unit="tok")
    _timing.row(
        "the reference computed before",
        _timing.paired(given, peer, arguments.pairs),
        items=tokens,
        unit="tok",
    )
    memory = [
        _timing.peak_memory(side, *extra, warmup=2)
        for side, extra in ((our_side, (True, False)), (peer_side, ()))
    ]
    mine, theirs = (m.peak - m.rest for m in memory)
    print(
        f"peak memory above rest: ours {mine / 2**20:.0f} MiB, TRL {theirs / 2**20:.0f} MiB ({theirs / mine:.2f}x)"
    )


if __name__ == "__main__":
    main()
