"""The demo's stages after pretraining: SFT, DPO, GRPO and PPO, each evaluated before and after.

DPO, GRPO and PPO all start from the fine-tuned model, so that the table shows the effect of each stage
alone. All questions and completions are kept with the run: RUN/evaluation/{before,after}/samples.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from data_pipes import files
from data_pipes.answers.match import QuestionAnswer
from data_pipes.embedded import tuning_rows
from data_pipes.record_encoding import encode_preferences
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
from stages.run.train import Outcome

KL_BOUND = 0.5
"""Bound on the KL divergence of GRPO's policy from its start, in nats per token, averaged over a step."""

DIVERGENCE = "kl/log_ratio"
"""Metric that is compared with KL_BOUND: the unbiased estimator that no single token dominates."""

QUESTIONS = 128
"""Held-out questions of an evaluation."""

LONGEST_ANSWER = 24
"""Maximum tokens of an answer to a question of the fine-tuning tasks."""


class DemoStage(NamedTuple):
    """A stage of the demo: its flags and its evaluation.

    Fields:
        name: the subcommand's name.
        options: its flags.
        measure: the metric's name in the table.
        task: (experiment, params) -> Task on held-out data, whose first metric is the measure.
    """

    name: str
    options: flags.TuningOptions
    measure: str
    task: Callable[[Experiment, Tree], Task]


class Train(Protocol):
    """Trains a stage; see `stages.run.train.train`."""

    def __call__(
        self, options: flags.TuningOptions, *, before_first_step: Callable[[Experiment], object]
    ) -> Outcome: ...


def demo_stages(folder: Path, *, seed: int, compile: bool, scale: float = 1.0) -> list[DemoStage]:
    """Builds the flags and the evaluation of every stage.

    Args:
        folder: the pretrained run's folder; each stage has a folder in it.
        seed: random seed of every stage.
        compile: compile the steps.
        scale: fraction of the steps to run and of the questions to answer, for tests.

    Returns:
        Four stages, in the order in which they run.
    """
    count = max(4, round(QUESTIONS * min(1.0, scale)))
    flags_of = partial(_common_flags, folder, seed=seed, compile=compile, scale=scale)
    online: dict[str, Any] = {"max_new_tokens": 16, "table_every": 40}
    return [
        DemoStage(
            "sft",
            flags.SFTOptions(**flags_of("sft", folder, 16, 130, 128), learning_rate=4e-3),
            "exact match, held-out tasks",
            partial(instruction_task, count=count),
        ),
        DemoStage(
            "dpo",
            flags.DPOOptions(**flags_of("dpo", folder / "sft", 32, 64, 32), learning_rate=4e-4),
            "preference accuracy, held-out pairs",
            partial(preference_task, count=count),
        ),
        DemoStage(
            "grpo",
            flags.GRPOOptions(**flags_of("grpo", folder / "sft", 16, 70, 16), learning_rate=5e-4, **online),
            "mean reward, held-out prompts",
            partial(reward_task, count=count),
        ),
        DemoStage(
            "ppo",
            flags.PPOOptions(**flags_of("ppo", folder / "sft", 128, 35, 16), learning_rate=5e-4, **online),
            "mean reward, held-out prompts",
            partial(reward_task, count=count),
        ),
    ]


def run_stage(stage: DemoStage, train: Train, results: Path) -> dict[str, float] | int:
    """Trains one stage, or resumes it, and evaluates it before and after; a saved result is returned.

    Args:
        stage: the stage's flags and evaluation.
        train: `stages.run.train.train`.
        results: JSON file of the results of all stages, to which this one's are added.

    Returns:
        {"before", "after", "low", "high", "count"}: the measure, the 95% confidence interval of its
        difference, and the number of questions; of GRPO also "kl"; the number of the signal, if one
        interrupted the run.
    """
    saved = files.read_json(results) if results.exists() else {}
    if stage.name in saved:
        return saved[stage.name]
    folder = Path(stage.options.output_dir)
    before, after = folder / "evaluation" / "before", folder / "evaluation" / "after"
    outcome = train(
        stage.options,
        before_first_step=lambda experiment: evaluate_policy(stage, experiment, experiment.params, before),
    )
    if outcome.signal is not None:
        return outcome.signal
    evaluate_policy(stage, outcome.experiment, outcome.state.params, after)
    (change,) = compare(record.read_samples(before), record.read_samples(after))
    result = {
        "before": change.first,
        "after": change.second,
        "low": change.low,
        "high": change.high,
        "count": change.count,
    }
    rows = list(read_lines(folder / "metrics.jsonl"))
    if rows and DIVERGENCE in rows[-1]:
        result["kl"] = max(float(row[DIVERGENCE]) for row in rows)
    files.write_json(results, {**saved, stage.name: result})
    return result


def evaluate_policy(stage: DemoStage, experiment: Experiment, params: Tree, folder: Path) -> None:
    """Evaluates the policy, and writes every question and completion.

    Args:
        stage: the stage, whose task is evaluated.
        experiment: the stage's run.
        params: the stage's params, the policy among them, which is cast to the dtype that the device
            multiplies fast.
        folder: folder for the completions; those that it already has are not generated again.
    """
    dtype = hardware.pick_dtype("auto", experiment.key.device)
    policy = policy_of(params)
    task = stage.task(experiment, tree.cast(policy, dtype))
    about = {"rung": stage.name, "dtype": str(dtype), "model_sha256": build.hash_params(policy)}
    record.evaluate([task], folder, about=about, quiet=True)


def instruction_task(experiment: Experiment, params: Tree, *, count: int = QUESTIONS) -> Task:
    """Returns a task on held-out instructions with one right answer, decoded greedily.

    Args:
        experiment: model, tokenizer, template.
        params: the policy's params.
        count: number of questions.
    """
    sampling = Sampling(LONGEST_ANSWER, temperature=0.0)
    return _question_task(experiment, params, build.demo_questions(count), sampling)


def reward_task(experiment: Experiment, params: Tree, *, count: int = QUESTIONS) -> Task:
    """Returns a task on held-out prompts of reinforcement learning, each sampled once at its temperature.

    Args:
        experiment: model, tokenizer, template.
        params: the policy's params.
        count: number of prompts.

    Returns:
        Task; the reward of an answer is 1 if it is right, else 0.
    """
    rows = tuning_rows.prompts(count, key=1, part="held_out")
    questions = [QuestionAnswer(row.values["prompt"], row.values["answer"], row.name) for row in rows]
    return _question_task(experiment, params, questions, Sampling(16, temperature=1.0))


def preference_task(experiment: Experiment, params: Tree, *, count: int = QUESTIONS) -> Task:
    """Returns a task on held-out preference pairs; the reference is the model that the stage started from.

    Args:
        experiment: model, tokenizer, template; its base is the reference.
        params: the policy's params.
        count: number of pairs.
    """
    assert experiment.template is not None  # only pretraining has none
    base = experiment.base
    rows = records.read_preferences(tuning_rows.preferences(count, key=1, part="held_out"))
    pairs = encode_preferences(experiment.template, base.tokenizer, rows)
    reference = tree.cast(base.params, tree.leaves(params)[0].dtype)
    return preference.preference(base.model, params, base.tokenizer, pairs, reference=reference)


def table(results: Sequence[tuple[DemoStage, Mapping[str, float]]]) -> str:
    """Formats one line per stage; the number of questions is empty for a result of an earlier version.

    Example:
        >>> result = {"before": 0.0, "after": 0.7, "low": 0.62, "high": 0.78, "count": 128}
        >>> print(table([(DemoStage("sft", None, "exact match", None), result)]))
        stage measure                              questions  before  after  gain, 95% interval
        sft   exact match                                128   0.000  0.700  +0.62 .. +0.78
    """
    lines = [f"{'stage':<5} {'measure':<36} questions  before  after  gain, 95% interval"]
    for stage, result in results:
        line = f"{stage.name:<5} {stage.measure:<36} {result.get('count', ''):>9}"
        line += f" {result['before']:>7.3f} {result['after']:>6.3f}"
        line += f"  {result['low']:+.2f} .. {result['high']:+.2f}"
        if stage.name == "grpo" and "kl" in result:
            line += f"  (KL to the start at most {result['kl']:.2f}, bound {KL_BOUND})"
        lines.append(line)
    return "\n".join(lines)


def _common_flags(
    folder: Path,
    name: str,
    start: Path,
    batch_size: int,
    steps: int,
    examples_per_step: int,
    *,
    seed: int,
    compile: bool,
    scale: float,
) -> dict[str, Any]:
    """Returns the flags that all stages have."""
    steps = max(1, round(steps * scale))
    return {
        "model_path": str(start),
        "output_dir": str(folder / name),
        "batch_size": batch_size,
        "max_steps": steps,
        "examples": steps * examples_per_step,
        "optimizer": "muon",
        "warmup": 0.1,
        "save_every": 50,
        "seed": seed,
        "compile": compile,
        "held_out": 128,
    }


def _question_task(
    experiment: Experiment, params: Tree, questions: Sequence[QuestionAnswer], sampling: Sampling
) -> Task:
    """Returns an exact-match task whose questions are rendered by the chat template."""
    base = experiment.base
    chat = chat_prompt(base, template=experiment.template)
    return exact_match.exact_match(
        base.model,
        params,
        base.tokenizer,
        questions,
        decoding=Decoding(sampling._replace(stop_tokens=chat.stop_tokens)),
        judges=exact_match.JUDGES["text"],
        encode=chat.encode,
        form=chat.form,
        chunk=len(questions),
    )
