"""The ladder of the demo: after pretraining SFT, DPO, GRPO and PPO, each measured on held-out data before and
after.

DPO, GRPO and PPO all start from the fine-tuned model, so that each rung shows what it does by itself. Every
question of an exam, and what the model answered, is kept beside the run:
RUN/evaluation/{before,after}/samples.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files
from data_pipes.answers.match import QuestionAnswer
from data_pipes.embedded import tuning_rows
from data_pipes.preference import encode_preferences
from data_pipes.rows import records
from pure import tree
from pure.generation.sampling import Sampling
from pure.types import Tree
from stages.evaluate import build, exact_match, preference, record
from stages.evaluate.chat_prompt import chat_prompt
from stages.evaluate.compare import compare
from stages.evaluate.completion import Decoding
from stages.evaluate.task import Task
from stages.models import hardware
from stages.online import policy_of
from stages.run.experiment import Experiment
from stages.run.log import read_lines
from stages.run.options import tuning as flags

KL_BOUND = 0.5
"""Nats a token that GRPO may go from where it started, in the mean of a step."""

DIVERGENCE = "kl/log_ratio"
"""The metric that is held against it: of the unbiased estimators the one that no single token can blow up."""

QUESTIONS = 128
"""Held-out questions of an exam."""

LONGEST_ANSWER = 24


class Rung(NamedTuple):
    """One rung: its flags, and what is measured.

    Fields:
        name: of the subcommand.
        options: its flags.
        measure: what the number is called.
        exam: (what the run was built of, params) -> a Task on held-out data, whose first figure is the
            number.
    """

    name: str
    options: flags.TuningOptions
    measure: str
    exam: Callable[[Experiment, Tree], Task]


def rungs(folder: Path, *, seed: int, compile: bool, scale: float = 1.0) -> list[Rung]:
    """Describes the ladder.

    Args:
        folder: of the pretrained run; each rung has a folder in it.
        seed: of everything random.
        compile: compile the steps.
        scale: share of the steps to take, and of the questions to ask, for tests.

    Returns:
        Four Rungs, in the order in which they are run.
    """

    def common(name: str, start: Path, rows: int, steps: int, each: int) -> dict[str, Any]:
        steps = max(1, round(steps * scale))
        return {
            "model_path": str(start),
            "output_dir": str(folder / name),
            "batch_size": rows,
            "max_steps": steps,
            "examples": steps * each,
            "optimizer": "muon",
            "warmup": 0.1,
            "save_every": 50,
            "seed": seed,
            "compile": compile,
            "held_out": 128,
        }

    tuned = folder / "sft"
    count = max(4, round(QUESTIONS * min(1.0, scale)))
    asked: dict[str, Any] = {"max_new_tokens": 16, "table_every": 40}
    return [
        Rung(
            "sft",
            flags.SFTOptions(**common("sft", folder, 16, 130, 128), learning_rate=4e-3),
            "exact match, held-out tasks",
            partial(tasks_exam, count=count),
        ),
        Rung(
            "dpo",
            flags.DPOOptions(**common("dpo", tuned, 32, 64, 32), learning_rate=4e-4),
            "preference accuracy, held-out pairs",
            partial(pairs_exam, count=count),
        ),
        Rung(
            "grpo",
            flags.GRPOOptions(**common("grpo", tuned, 16, 70, 16), learning_rate=5e-4, **asked),
            "mean reward, held-out prompts",
            partial(prompts_exam, count=count),
        ),
        Rung(
            "ppo",
            flags.PPOOptions(**common("ppo", tuned, 128, 35, 16), learning_rate=5e-4, **asked),
            "mean reward, held-out prompts",
            partial(prompts_exam, count=count),
        ),
    ]


def climb(rung: Rung, run: Callable[..., Any], results: Path) -> dict[str, float] | None:
    """Runs one rung, or goes on with it, and examines it; done before, its result is read.

    Args:
        rung: see Rung.
        run: (options, before_first_step=...) -> Outcome: `stages.run.train.train`.
        results: file of results of the ladder, which gets this one's.

    Returns:
        {"before", "after", "low", "high"}: the number, and the 95% confidence interval of its difference; of
        GRPO also "kl"; None if a signal interrupted it.
    """
    known = files.read_json(results) if results.exists() else {}
    if rung.name in known:
        return known[rung.name]
    begin, end = (Path(rung.options.output_dir) / "evaluation" / name for name in ("before", "after"))
    outcome = run(rung.options, before_first_step=lambda built: examine(rung, built, built.params, begin))
    if outcome.status == "interrupted":
        return None
    examine(rung, outcome.experiment, outcome.state.params, end)
    (change,) = compare(record.read_samples(begin), record.read_samples(end))
    found = {"before": change.first, "after": change.second, "low": change.low, "high": change.high}
    log = list(read_lines(Path(rung.options.output_dir) / "metrics.jsonl"))
    if log and DIVERGENCE in log[-1]:
        found["kl"] = max(float(row[DIVERGENCE]) for row in log)
    files.write_json(results, {**known, rung.name: found})
    return found


def examine(rung: Rung, built: Experiment, params: Tree, folder: Path) -> None:
    """Examines the policy, and writes all answers down.

    Args:
        rung: whose exam it is.
        built: what the run was built of.
        params: of the stage, the policy among them; cast to what the device multiplies quickly.
        folder: for the answers; what is there already is not asked again.
    """
    dtype = hardware.pick_dtype("auto", built.key.device)
    task = rung.exam(built, tree.cast(policy_of(params), dtype))
    about = {"rung": rung.name, "dtype": str(dtype), "model_sha256": build.hash_params(policy_of(params))}
    record.evaluate([task], folder, about=about, quiet=True)


def tasks_exam(built: Experiment, params: Tree, *, count: int = QUESTIONS) -> Task:
    """The held-out tasks of every family with one right answer; the likeliest answer counts.

    Args:
        built: model, tokenizer, template.
        params: of the policy.
        count: questions.

    Returns:
        Task.
    """
    return _asked(built, params, build.demo_questions(count), Sampling(LONGEST_ANSWER, temperature=0.0))


def prompts_exam(built: Experiment, params: Tree, *, count: int = QUESTIONS) -> Task:
    """The held-out prompts of reinforcement learning, answered once each at its temperature.

    Args:
        built: as in `tasks_exam`.
        params: of the policy.
        count: questions.

    Returns:
        Task; the reward of an answer is whether it is right.
    """
    rows = tuning_rows.prompts(count, key=1, part="held_out")
    asked = [QuestionAnswer(row.values["prompt"], row.values["answer"], row.name) for row in rows]
    return _asked(built, params, asked, Sampling(max_new_tokens=16))


def pairs_exam(built: Experiment, params: Tree, *, count: int = QUESTIONS) -> Task:
    """Held-out preference pairs, against the model that the rung started from.

    Args:
        built: as in `tasks_exam`; its base is the reference.
        params: of the policy.
        count: pairs.

    Returns:
        Task.
    """
    assert built.template is not None  # pretraining alone has none
    rows = records.read_preferences(tuning_rows.preferences(count, key=1, part="held_out"))
    pairs = encode_preferences(built.template, built.base.tokenizer, rows)
    frozen = tree.cast(built.base.params, tree.leaves(params)[0].dtype)
    return preference.preference(built.base.model, params, built.base.tokenizer, pairs, reference=frozen)


def table(results: Sequence[tuple[Rung, Mapping[str, float]]]) -> str:
    """Writes one row a rung.

    Example:
        >>> found = {"before": 0.0, "after": 0.7, "low": 0.62, "high": 0.78}
        >>> print(table([(Rung("sft", None, "exact match", None), found)]))
        rung  measure                               before  after  gain, 95% interval
        sft   exact match                            0.000  0.700  +0.62 .. +0.78
    """
    lines = [f"{'rung':<5} {'measure':<36} {'before':>7} {'after':>6}  gain, 95% interval"]
    for rung, found in results:
        line = f"{rung.name:<5} {rung.measure:<36} {found['before']:>7.3f} {found['after']:>6.3f}"
        line += f"  {found['low']:+.2f} .. {found['high']:+.2f}"
        far = (
            f"  (KL to the start at most {found['kl']:.2f}, bound {KL_BOUND})" if rung.name == "grpo" else ""
        )
        lines.append(line + (far if "kl" in found else ""))
    return "\n".join(lines)


def _asked(built: Experiment, params: Tree, rows: Sequence[QuestionAnswer], sampling: Sampling) -> Task:
    """Questions in the chat's form."""
    chat = chat_prompt(built.base, template=built.template)
    return exact_match.exact_match(
        built.base.model,
        params,
        built.base.tokenizer,
        rows,
        decoding=Decoding(sampling._replace(stop_tokens=chat.stop_tokens)),
        judges=exact_match.JUDGES["text"],
        encode=chat.encode,
        form=chat.form,
        chunk=len(rows),
    )
