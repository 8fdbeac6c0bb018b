"""DPO step: ours against TRL's DPOTrainer.

16 pairs of 128 tokens, the second half of each row being the answer, the model of 5.8M parameters, bfloat16.
The table's first line computes the reference's log-probabilities in every step, as TRL does; its second line
takes them from the batch, to which `with_reference` adds them once for all epochs. Ours is compiled (the time
of its first step is printed), TRL runs with its defaults. N counts pairs of timed steps, ours and TRL's.

    python benchmarks/dpo.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable

import _timing
import _trl
import torch
from _model import DEVICE, describe_setup, step_fn

from pure import optim, random
from stages.dpo import dpo
from stages.run.allocator import keep_freed_memory

PAIRS, LENGTH = 16, 128


def our_side(reference_in_step: bool = True, keep_memory: bool = True) -> Callable[[], object]:
    """Return a function that takes a step.

    Args:
        reference_in_step: compute the reference's log-probabilities in the step, not taken from the batch.
        keep_memory: keep freed memory in the process, as training runs do.
    """
    if keep_memory:
        keep_freed_memory()
    model, params, _ = _trl.new_model()
    params = _trl.move_to_device(params)
    answer = torch.arange(LENGTH, device=DEVICE) >= LENGTH // 2
    batch: dict[str, torch.Tensor] = {}
    for number, side in enumerate(("chosen", "rejected")):
        tokens = random.randint(random.key(number), (PAIRS, LENGTH + 1), 5, 290).long().to(DEVICE)
        batch |= {
            f"{side}_tokens": tokens[:, :-1],
            f"{side}_labels": torch.where(answer, tokens[:, 1:], -100),
        }
    if not reference_in_step:
        batch |= {f"reference_{side}": torch.zeros(PAIRS, device=DEVICE) for side in ("chosen", "rejected")}
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4))
    stage = dpo(model, optimizer, reference=params if reference_in_step else None, compute=torch.bfloat16)
    return step_fn(stage, params, lambda: batch)


def peer_side() -> Callable[[], None]:
    """Return TRL's step; its texts are longer than the rows, so that every row is full."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder = _trl.save_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for n in range(0, 7 * PAIRS, 7):
        sides = _random_text(n, LENGTH // 2), _random_text(n + 1, 400), _random_text(n + 2, 400)
        rows.append(dict(zip(("prompt", "chosen", "rejected"), sides, strict=True)))
    arguments = DPOConfig(
        **_trl.make_trainer_arguments(per_device_train_batch_size=PAIRS),
        max_length=LENGTH,
        beta=0.1,
        model_init_kwargs={"dtype": torch.float32},
    )

    def make_trainer(callback: object) -> DPOTrainer:
        return DPOTrainer(
            model=folder,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[callback],
        )

    return _trl.make_trainer_step(make_trainer)


def _random_text(seed: int, count: int) -> str:
    """Return a text of `count` random letters."""
    return "".join(chr(97 + i) for i in random.randint(random.key(seed), (count,), 0, 26).tolist())


def main() -> None:
    """Print the table."""
    arguments = _timing.make_parser(__doc__, pairs=20).parse_args()
    print(describe_setup())
    ours, precomputed, peer = our_side(), our_side(reference_in_step=False), peer_side()
    for side in (ours, precomputed):
        _timing.print_first_call(side)
    _timing.print_header()
    tokens = 2 * PAIRS * LENGTH
    result = _timing.time_pairs(ours, peer, arguments.pairs)
    _timing.print_row("a DPO step", result, target=1.5, items=tokens, unit="tok")
    result = _timing.time_pairs(precomputed, peer, arguments.pairs)
    _timing.print_row("the reference precomputed", result, items=tokens, unit="tok")
    reference_in_step, keep_memory = True, False
    ours_memory = _timing.peak_memory(our_side, reference_in_step, keep_memory, warmup=2)
    _timing.print_peak_memory("TRL", ours_memory, _timing.peak_memory(peer_side, warmup=2))


if __name__ == "__main__":
    main()
