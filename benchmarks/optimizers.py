"""Compare optimizers by the steps to a target loss of a small language model, over seeds, with p-values.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py [--steps 150] [--seeds 8] [--only adamw,soap]

The model (2 layers of width 64) predicts Python's own library, in tokens of a vocabulary of 512. All optimizers
get the same treatment: a linear warm-up over a tenth of the steps and a constant rate, weight decay 0.1 of the
matrices, gradients clipped to norm 1, and a learning rate chosen among five, each twice the last, by the final
validation loss of two seeds that are not used again. The target is the loss that every seed of AdamW reaches; a
member that does not reach it counts with all steps. A seed sets initial params and order of the data, the same
for all optimizers: p is that of the exact sign-flip test of the paired differences, two-sided, not corrected
for the number of rows. All seeds of an optimizer are one `sweep`: one vmapped step.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_pipes import tokenizer as tokenizers
from data_pipes.embedded import python_library
from data_pipes.pretrain import pretrain_pipe
from data_pipes.tokenize import tokenize
from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.types import GradientTransformation, Model, Schedule, Tree
from stages.pretrain import pretrain
from stages.stage import Stage, loss_of
from stages.state import TrainState
from stages.sweep import sweep

VOCABULARY, LENGTH, ROWS, EVERY = 512, 32, 8, 10
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Learning rates that are tried, relative to the candidate's."""


class Candidate(NamedTuple):
    """An optimizer, the middle of its learning rates, and the figure that its paper gives.

    Fields:
        make: (schedule, steps) -> optimizer.
        rate: middle of the rates.
        published: the claim and its setting.
        params: state -> params to evaluate.
    """

    make: Callable[[Schedule, int], GradientTransformation]
    rate: float
    published: str
    params: Callable[[TrainState], Tree] = lambda state: state.params


class Data(NamedTuple):
    """Training batches of a seed and step, and the validation batch."""

    batch: Callable[[int, int], Tree]
    validation: Tree


class Result(NamedTuple):
    """Validation losses [P, evaluations] of P members, and seconds a step."""

    losses: Tensor
    seconds: float


DECAY: Mapping[str, Any] = {"weight_decay": 0.1, "mask": optim.decay_mask}
MUON: Mapping[str, Any] = {
    "weight_decay": 0.1,
    "consistent_rms": 0.2,
    "adam_b2": 0.95,
    "muon_weight_dimension_numbers": optim.hidden_matrices,
}


def schedule_free(rate: Schedule, steps: int) -> GradientTransformation:
    """Schedule-free AdamW: the average of the iterates stands for a decay of the learning rate."""
    base = optim.chain(
        optim.scale_by_rms(0.95, eps_in_sqrt=False, bias_correction=True),
        optim.add_decayed_weights(**DECAY),
        optim.scale_by_learning_rate(rate),
    )
    return optim.schedule_free(base, rate)


def average(state: TrainState) -> Tree:
    """The averaged params of `schedule_free`, the second link of the chain."""
    return optim.schedule_free_eval_params(state.opt_state[1], state.params)


def ademamix(rate: Schedule, steps: int) -> GradientTransformation:
    """AdEMAMix with the paper's two schedules over the whole run, and a memory that fits a short one."""
    schedules = {
        "b3": optim.half_life_schedule(0.9, 0.99, steps),
        "alpha": optim.linear_schedule(0.0, 5.0, steps),
    }
    return optim.ademamix(rate, b2=0.95, **schedules, **DECAY)


def adafactor(rate: Schedule, steps: int) -> GradientTransformation:
    """Adafactor with the decoupled decay of the others."""
    return optim.chain(
        optim.scale_by_factored_rms(min_dim_size_to_factor=32),
        optim.clip_by_block_rms(1.0),
        optim.ema(0.9, debias=False),
        optim.add_decayed_weights(**DECAY),
        optim.scale_by_learning_rate(rate),
    )


CANDIDATES: Mapping[str, Candidate] = {
    "adamw": Candidate(lambda r, n: optim.adamw(r, b2=0.95, **DECAY), 2e-3, "the baseline of all"),
    "lion": Candidate(
        lambda r, n: optim.lion(r, **DECAY),
        1e-3,
        "similar or better than Adam on language models (Chen 2023)",
    ),
    "adafactor": Candidate(adafactor, 2e-3, "comparable to Adam, WMT 2014 translation (Shazeer 2018)"),
    "schedule_free": Candidate(
        schedule_free,
        4e-3,
        "at least a tuned cosine schedule, 28 problems (Defazio 2024)",
        average,
    ),
    "ademamix": Candidate(
        ademamix, 2e-3, "1.3B on 101B tokens equals AdamW on 197B, 1.95x (Pagliardini 2024)"
    ),
    "cautious_adamw": Candidate(
        lambda r, n: optim.cautious_adamw(r, b2=0.95, **DECAY),
        2e-3,
        "up to 1.47x in samples, LLaMA pretraining (Liang 2024)",
    ),
    "cautious_decay_adamw": Candidate(
        lambda r, n: optim.cautious_decay_adamw(r, b2=0.95, **DECAY),
        2e-3,
        "lower final loss, 338M to 2B (Chen 2025)",
    ),
    "muon": Candidate(
        lambda r, n: optim.muon(r, **MUON), 8e-3, "AdamW's loss with 52% of the FLOPs, up to 1.5B (Liu 2025)"
    ),
    "normuon": Candidate(
        lambda r, n: optim.normuon(r, **MUON),
        8e-3,
        "21.7% more efficient than Adam, 11.3% than Muon, 1.1B (Li 2025)",
    ),
    "soap": Candidate(
        lambda r, n: optim.soap(r, max_precond_dim=128, **DECAY),
        4e-3,
        "40% fewer steps than AdamW, 360M and 660M, batches of 2M tokens (Vyas 2024)",
    ),
}


def warmed_up(count: Tensor, *, peak: Tensor, steps: int) -> Tensor:
    """A learning rate that rises linearly over `steps`, and then stays."""
    return peak * ((count + 1) / steps).clamp(max=1)


def build(rate: Tensor, *, candidate: Candidate, model: Model, steps: int) -> Stage:
    """The stage of one member."""
    schedule = partial(warmed_up, peak=rate, steps=max(1, steps // 10))
    return pretrain(model, optim.chain(optim.clip_by_global_norm(1.0), candidate.make(schedule, steps)))


def make_model() -> Model:
    """The language model."""
    return transformer(
        ModelConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=LENGTH,
        )
    )


def make_data() -> Data:
    """Tokens of Python's library; the validation rows are of files that are held out."""
    parts: tuple[Literal["train", "held_out"], ...] = ("train", "held_out")
    texts, held_out = (list(islice(python_library.documents(part), 60)) for part in parts)
    tokenizer = tokenizers.train((document.text for document in texts), VOCABULARY)
    size, end = tokenizers.vocabulary_size(tokenizer), tokenizers.special_id(tokenizer, "<|endoftext|>")
    stores = [tokenize(x, tokenizer, vocab_size=size, separator_id=end) for x in (texts, held_out)]
    pipes: dict[int, Sequence] = {}

    def batch(seed: int, step: int) -> Tree:
        if seed not in pipes:
            pipes[seed] = pretrain_pipe(stores[0], batch_size=ROWS, length=LENGTH, key=seed, epochs=10)
        return pipes[seed][step]

    validation = pretrain_pipe(stores[1], batch_size=32, length=LENGTH, key=0)[0]
    return Data(batch, validation)


def train(
    candidate: Candidate,
    rates: list[float],
    seeds: list[int],
    model: Model,
    data: Data,
    steps: int,
    every: int = EVERY,
) -> Result:
    """Train one member for each rate and seed, and evaluate all every few steps."""
    make = partial(build, candidate=candidate, model=model, steps=steps)
    stage = sweep(make, {"rate": torch.tensor(rates)}, seeds=seeds, shared_batch=False)
    loss = loss_of(make(rate=torch.tensor(rates[0])))
    state, losses, seconds = stage.init(random.key(0)), [], 0.0
    spec = tree.structure(state)

    def validate(leaves: list[Tensor]) -> Tensor:
        total, count, _ = loss(candidate.params(tree.unflatten(spec, leaves)), data.validation, None)
        return total / count

    for step in range(steps):
        batch = tree.stack([data.batch(seed, step) for seed in seeds])
        start = time.process_time()
        state = stage.step(state, batch)
        seconds += time.process_time() - start
        if (step + 1) % every == 0:
            losses.append(torch.func.vmap(validate)(tree.leaves(state)))
    return Result(torch.stack(losses, 1), seconds / steps)


def steps_to(target: float, losses: Tensor) -> Tensor:
    """Find the steps [P] at which each curve [P, evaluations] reaches the target, interpolated; else infinite."""
    found = []
    for curve in losses.tolist():
        reached = next((i for i, x in enumerate(curve) if x <= target), None)
        if reached is None:
            found.append(torch.inf)
        elif reached == 0:
            found.append(float(EVERY))
        else:
            before, after = curve[reached - 1], curve[reached]
            found.append(EVERY * (reached + (before - target) / (before - after)))
    return torch.tensor(found)


def sign_flip_p(differences: Tensor) -> float:
    """Compute the exact two-sided p-value of paired differences [P] whose mean is 0 under the null hypothesis.

    Then each sign is as likely as the other: p is the share of the 2^P sign patterns whose mean is at least as
    far from 0 as the one observed.
    """
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    means = (signs * differences).mean(1).abs()
    return float((means >= differences.mean().abs() * (1 - 1e-6)).float().mean())


def tune(candidate: Candidate, model: Model, data: Data, steps: int) -> tuple[float, str]:
    """Choose the learning rate by the mean final loss of two seeds; "edge" marks the first or last of them."""
    rates = [candidate.rate * factor for factor in FACTORS]
    result = train(
        candidate, [r for r in rates for _ in range(2)], [1000, 1001] * len(rates), model, data, steps, steps
    )
    final = result.losses[:, -1].view(len(rates), 2).mean(1).nan_to_num(torch.inf)
    best = int(final.argmin())
    return rates[best], "" if 0 < best < len(rates) - 1 else " (edge)"


def main() -> None:
    """Print one row an optimizer, in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150, help="steps of each run (default 150)")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of each optimizer (default 8)")
    parser.add_argument("--only", default=",".join(CANDIDATES), help="names, separated by commas")
    arguments = parser.parse_args()
    names = ["adamw", *(name for name in arguments.only.split(",") if name != "adamw")]
    if unknown := set(names) - set(CANDIDATES):
        parser.error(f"--only: expected names among {', '.join(CANDIDATES)}, got {', '.join(unknown)}")
    model, data, seeds = make_model(), make_data(), list(range(arguments.seeds))
    count = tree.count(model.spec)
    print(
        f"{count:,} parameters, {arguments.steps} steps of {ROWS} rows of {LENGTH} tokens, {len(seeds)} seeds,"
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| optimizer | rate | steps to target | of AdamW's | p | final loss | CPU ms a step | published |")
    print("|---|---|---|---|---|---|---|---|")
    target, baseline = 0.0, torch.zeros(0)
    for name in names:
        candidate = CANDIDATES[name]
        rate, edge = tune(candidate, model, data, arguments.steps)
        result = train(candidate, [rate] * len(seeds), seeds, model, data, arguments.steps)
        final = result.losses[:, -1]
        if name == "adamw":
            target = float(final.max())
        steps = steps_to(target, result.losses)
        missed = int(steps.isinf().sum())
        steps = steps.clamp(max=arguments.steps)
        baseline = steps if name == "adamw" else baseline
        p = "" if name == "adamw" else f"{sign_flip_p(steps - baseline):.3f}"
        note = f", {missed} not reached" if missed else ""
        print(
            f"| {name} | {rate:.1e}{edge} | {steps.mean():.0f} ± {steps.std():.0f}{note} "
            f"| {steps.mean() / baseline.mean():.2f} | {p} | {final.mean():.3f} ± {final.std():.3f} "
            f"| {1000 * result.seconds / len(seeds):.1f} | {candidate.published} |",
            flush=True,
        )
    print(f"\ntarget: {target:.3f} nats a token on files that are held out")


if __name__ == "__main__":
    main()
