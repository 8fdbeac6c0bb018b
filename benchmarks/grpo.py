"""A GRPO step beside TRL's GRPOTrainer: drawing, scoring and learning.

8 prompts of 16 tokens, 8 answers each of 64 tokens, the model of 5.8M parameters, bfloat16, beta 0.04 against
a copy of the start, one update. The reward is a function of the text's length on both sides; no answer ends
early. Ours is compiled (its first step is printed), TRL runs as it is.

    python benchmarks/grpo.py [--pairs N]
"""

from __future__ import annotations

import time
from collections.abc import Callable

import _timing
import _trl
import torch

from data_pipes.tokenizer.spec import vocabulary_size
from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.transform.jit import jit
from stages.grpo import grpo
from stages.run.allocator import keep_freed_memory
from stages.score import text_score

PROMPTS, SAMPLES, WIDTH, NEW = 8, 8, 16, 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def reward(prompt: str, completion: str, row: object) -> float:
    """Something cheap that differs between answers."""
    return float(len(completion) % 7)


def our_side(keep: bool = True) -> Callable[[], object]:
    """A function that takes a step."""
    if keep:
        keep_freed_memory()
    model, params, tokenizer = _trl.start()
    params = tree.map(lambda x: x.to(DEVICE), params)
    size = vocabulary_size(tokenizer)
    score = text_score(
        {"length": reward},
        decode=lambda ids: tokenizer.decode([i % size for i in ids]),
        prompts=[""] * PROMPTS,
        rows=[{}] * PROMPTS,
    )
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4))
    stage = grpo(
        model,
        optimizer,
        score=score,
        samples=SAMPLES,
        sampling=Sampling(max_new_tokens=NEW),
        reference=params,
        beta=0.04,
        compute=torch.bfloat16,
        compile=stepper(model),
    )
    prompts = random.randint(random.key(1), (PROMPTS, WIDTH), 5, 290).long().to(DEVICE)
    batch = {
        "prompts": prompts,
        "lengths": torch.full((PROMPTS,), WIDTH, device=DEVICE),
        "row": torch.arange(PROMPTS, device=DEVICE),
    }
    step, box = jit(stage.step, donate=True, regions=True), [stage.init(random.key(0, device=DEVICE), params)]

    def take() -> object:
        box[0] = step(box[0], batch)
        return box[0].metrics["loss"]

    return take


def peer_side() -> Callable[[], None]:
    """The same with TRL."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    place = _trl.folder()
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = random.randint(random.key(1), (PROMPTS, WIDTH), 5, 290).tolist()
    texts = [tokenizer.decode(row) for row in ids]
    arguments = GRPOConfig(
        **_trl.common(per_device_train_batch_size=PROMPTS * SAMPLES),
        num_generations=SAMPLES,
        beta=0.04,
        max_completion_length=NEW,
        temperature=1.0,
        generation_kwargs={"min_new_tokens": NEW},
        mask_truncated_completions=False,
        model_init_kwargs={"dtype": torch.float32},
    )

    def judge(completions: list[str], **_: object) -> list[float]:
        return [reward("", text, {}) for text in completions]

    return _trl.stepping(
        lambda gate: GRPOTrainer(
            model=place,
            reward_funcs=judge,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            callbacks=[gate],
        )
    )


def main() -> None:
    """Prints the table."""
    arguments = _timing.parser(__doc__, pairs=20).parse_args()
    print(
        f"{torch.get_num_threads()} threads, {DEVICE}, torch {torch.__version__}, {_trl.count():,} parameters"
    )
    ours, peer = our_side(), peer_side()
    begun = time.perf_counter()
    ours()
    print(f"first step, which compiles: {time.perf_counter() - begun:.1f} s")
    _timing.header()
    tokens = PROMPTS * SAMPLES * NEW
    _timing.row(
        "a GRPO step", _timing.paired(ours, peer, arguments.pairs, warmup=2), 4.0, items=tokens, unit="tok"
    )
    memory = [
        _timing.peak_memory(side, *given, warmup=2) for side, given in ((our_side, (False,)), (peer_side, ()))
    ]
    mine, theirs = (m.peak - m.rest for m in memory)
    print(
        f"peak memory above rest: ours {mine / 2**20:.0f} MiB, TRL {theirs / 2**20:.0f} MiB ({theirs / mine:.2f}x)"
    )


if __name__ == "__main__":
    main()
