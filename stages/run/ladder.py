"""The ladder of the demo: after pretraining SFT, DPO, GRPO and PPO, each measured on held-out data before and after.

DPO, GRPO and PPO all start from the fine-tuned model, so that each rung shows what it does by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import lessons, messages
from data_pipes.prompts import encode_prompts, prompt_pipe
from data_pipes.tasks import OPEN
from pure import random
from pure.types import Tree
from stages import tuning_options as flags
from stages.run import hardware, json_file, tuning, validation
from stages.run.log import read_lines
from stages.run.rewards import score_of

KL_BOUND = 0.5
"""Nats a token that GRPO may go from where it started, in the mean of a step."""

DIVERGENCE = "kl/log_ratio"
"""The metric that is held against it: of the unbiased estimators the one that no single token can blow up."""

QUESTIONS = 126
"""Held-out questions of an exam."""

LONGEST_ANSWER = 24


class Rung(NamedTuple):
    """One rung: its flags, and what is measured.

    Fields:
        name: of the subcommand.
        options: its flags.
        measure: what the number is called.
        value: (what the run was built of, params) -> the number, on held-out data.
    """

    name: str
    options: flags.TuningOptions
    measure: str
    value: Callable[[tuning.Tuning, Tree], float]


def rungs(folder: Path, *, seed: int, compile: bool, scale: float = 1.0) -> list[Rung]:
    """Describes the ladder.

    Args:
        folder: of the pretrained run; each rung has a folder in it.
        seed: of everything random.
        compile: compile the steps.
        scale: share of the steps to take, for tests.

    Returns:
        Four Rungs, in the order in which they are run.
    """

    def common(name: str, start: Path, rows: int, steps: int, each: int) -> dict[str, Any]:
        steps = max(1, round(steps * scale))
        return {
            "model_path": str(start), "output_dir": str(folder / name), "batch_size": rows, "max_steps": steps,
            "examples": steps * each, "optimizer": "muon", "warmup": 0.1, "save_every": 50, "seed": seed,
            "compile": compile, "held_out": 128,
        }  # fmt: skip

    tuned = folder / "sft"
    asked: dict[str, Any] = {"max_new_tokens": 16, "table_every": 40}
    return [
        Rung("sft", flags.SFTOptions(**common("sft", folder, 16, 130, 128), learning_rate=4e-3),
             "exact match, held-out tasks", exact_match),
        Rung("dpo", flags.DPOOptions(**common("dpo", tuned, 32, 64, 32), learning_rate=4e-4),
             "preference accuracy, held-out pairs", _of("val_rewards/accuracies")),
        Rung("grpo", flags.GRPOOptions(**common("grpo", tuned, 16, 70, 16), learning_rate=5e-4, **asked),
             "mean reward, held-out prompts", _of("val_reward")),
        Rung("ppo", flags.PPOOptions(**common("ppo", tuned, 128, 35, 16), learning_rate=5e-4, **asked),
             "mean reward, held-out prompts", _of("val_reward")),
    ]  # fmt: skip


def climb(rung: Rung, run: Callable[..., Any], results: Path) -> dict[str, float] | None:
    """Runs one rung, or goes on with it, and measures it; done before, its result is read.

    Args:
        rung: see Rung.
        run: (options, before=...) -> (outcome, Tuning), `stages.cli.tune.run`.
        results: file of results of the ladder, which gets this one's.

    Returns:
        {"before", "after"}, of GRPO also "kl"; None if a signal interrupted it.
    """
    known = json_file.read(results) if results.exists() else {}
    if rung.name in known:
        return known[rung.name]
    started = f"{rung.name}/start"

    def before(built: tuning.Tuning) -> None:
        if started not in known:
            known[started] = rung.value(built, built.params)
            json_file.write(results, known)

    outcome, built = run(rung.options, before=before)
    if outcome.status == "interrupted":
        return None
    found = {"before": known[started], "after": rung.value(built, outcome.state.params)}
    log = list(read_lines(Path(rung.options.output_dir) / "metrics.jsonl"))
    if log and DIVERGENCE in log[-1]:
        found["kl"] = max(float(row[DIVERGENCE]) for row in log)
    json_file.write(results, {**known, rung.name: found})
    return found


def exact_match(built: tuning.Tuning, params: Tree) -> float:
    """Asks held-out questions of every family that has one right answer, and counts the answers that are right.

    Args:
        built: model, tokenizer, template.
        params: of the policy.

    Returns:
        Share in [0, 1]; answers are the likeliest ones (temperature 0).
    """
    families = [family for family in lessons.SFT_FAMILIES if family not in OPEN]
    rows = lessons.questions(QUESTIONS, key=0, part="held_out", families=families)
    prompts = list(messages.prompts(rows))
    ids = encode_prompts(built.template, built.base.tokenizer, prompts)
    pipe = prompt_pipe(ids, batch_size=len(ids), length=max(map(len, ids)), key=None, shuffle=False)
    score = score_of(["correct"], tokenizer=built.base.tokenizer, prompts=[p.messages[-1].content for p in prompts],
                     rows=[p.row for p in prompts])  # fmt: skip
    device = built.key.device
    check = validation.mean_reward(
        built.base.model, pipe, score, first=0, key=random.key(0, device=device),
        dtype=hardware.pick_dtype("auto", device),
        max_new_tokens=LONGEST_ANSWER, temperature=0.0, stop_tokens=(tuning.turn_end(built.template, built.base),),
    )  # fmt: skip
    return check(params)["val_reward"]


def table(results: Sequence[tuple[Rung, Mapping[str, float]]]) -> str:
    """Writes one row a rung.

    Example:
        >>> print(table([(Rung("sft", None, "exact match", None), {"before": 0.0, "after": 0.7})]))
        rung  measure                               before  after
        sft   exact match                            0.000  0.700
    """
    lines = [f"{'rung':<5} {'measure':<36} {'before':>7} {'after':>6}"]
    for rung, found in results:
        line = f"{rung.name:<5} {rung.measure:<36} {found['before']:>7.3f} {found['after']:>6.3f}"
        far = f"  (KL to the start at most {found['kl']:.2f}, bound {KL_BOUND})" if rung.name == "grpo" else ""
        lines.append(line + (far if "kl" in found else ""))
    return "\n".join(lines)


def _of(name: str) -> Callable[[tuning.Tuning, Tree], float]:
    """A number of the run's own validation."""
    return lambda built, params: float(built.validate(params)[name])
