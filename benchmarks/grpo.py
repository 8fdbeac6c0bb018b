"""GRPO step (rollout, reward, update): ours against TRL's GRPOTrainer.

8 prompts of 16 tokens, 8 completions each of 64 tokens, the model of 5.8M parameters, bfloat16, beta 0.04
against a copy of the initial model, one update per rollout. The reward is a function of the text's length on
both sides; no completion ends early. Ours is compiled (the time of its first step is printed), TRL runs with
its defaults.

    python benchmarks/grpo.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable

import _timing
import _trl
import torch
from _model import DEVICE, describe_setup, step_fn

from data_pipes.tokenizer.spec import vocabulary_size
from pure import optim, random
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from stages.grpo import grpo
from stages.run.allocator import keep_freed_memory
from stages.score import text_score

PROMPTS, SAMPLES, LENGTH, NEW = 8, 8, 16, 64


def reward(prompt: str, completion: str, row: object) -> float:
    """Return a cheap reward that differs between completions."""
    return float(len(completion) % 7)


def our_side(keep_memory: bool = True) -> Callable[[], object]:
    """Return a function that takes a step; `keep_memory`: keep freed memory, as training runs do."""
    if keep_memory:
        keep_freed_memory()
    model, params, tokenizer = _trl.new_model()
    params = _trl.move_to_device(params)
    size = vocabulary_size(tokenizer)
    score = text_score(
        {"length": reward},
        decode=lambda ids: tokenizer.decode([i % size for i in ids]),  # the model has more ids than that
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
    prompts = random.randint(random.key(1), (PROMPTS, LENGTH), 5, 290).long().to(DEVICE)
    batch = {
        "prompts": prompts,
        "lengths": torch.full((PROMPTS,), LENGTH, device=DEVICE),
        "row": torch.arange(PROMPTS, device=DEVICE),
    }
    return step_fn(stage, params, lambda: batch)


def peer_side() -> Callable[[], None]:
    """Return TRL's step."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    folder = _trl.save_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = random.randint(random.key(1), (PROMPTS, LENGTH), 5, 290).tolist()
    texts = [tokenizer.decode(row) for row in ids]
    arguments = GRPOConfig(
        **_trl.make_trainer_arguments(per_device_train_batch_size=PROMPTS * SAMPLES),
        num_generations=SAMPLES,
        beta=0.04,
        max_completion_length=NEW,
        temperature=1.0,
        generation_kwargs={"min_new_tokens": NEW},
        mask_truncated_completions=False,
        model_init_kwargs={"dtype": torch.float32},
    )

    def reward_lengths(completions: list[str], **_: object) -> list[float]:
        return [reward("", text, {}) for text in completions]

    return _trl.make_trainer_step(
        lambda callback: GRPOTrainer(
            model=folder,
            reward_funcs=reward_lengths,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            callbacks=[callback],
        )
    )


def main() -> None:
    """Print the table."""
    arguments = _timing.make_parser(__doc__, pairs=20).parse_args()
    print(describe_setup())
    ours, peer = our_side(), peer_side()
    _timing.print_first_call(ours)
    _timing.print_header()
    tokens = PROMPTS * SAMPLES * NEW
    _timing.print_row(
        "a GRPO step",
        _timing.time_pairs(ours, peer, arguments.pairs, warmup=2),
        4.0,
        items=tokens,
        unit="tok",
    )
    ours_memory = _timing.peak_memory(our_side, False, warmup=2)
    _timing.print_peak_memory("TRL", ours_memory, _timing.peak_memory(peer_side, warmup=2))


if __name__ == "__main__":
    main()
