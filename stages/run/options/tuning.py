"""What runs after pretraining are made from: frozen dataclasses whose fields are the flags of the command
line.

Plain values only, so that they are written to `config.json` and read back, and import nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """What all rungs after pretraining have in common."""

    model_path: str
    """The model to start from: a run's folder, its final_model, any folder in Hugging Face's layout, a name
    at huggingface.co, or a GGUF file."""
    data_path: str = "embedded"
    """Rows to learn from: JSONL, JSON, CSV, Parquet, Arrow, a folder of them, a data set's name; "embedded"
    needs no download."""
    subset: str | None = None
    """Configuration of a data set that has several; of a folder one that its README.md lists, or a folder in
    it."""
    split: str = "train"
    """Part of a data set, or of a folder in one of the hub's layouts, such as train.jsonl beside
    test.jsonl."""
    examples: int = 8000
    """Number of generated rows (only with --data_path embedded)."""
    output_dir: str = "runs/tuned"
    """Folder of the run: checkpoints, metrics.jsonl, final_model."""
    chat_template: str | None = None
    """File of a jinja2 chat template, or one of ours: qwen2.5, qwen3, llama3, deepseek-r1, chatml; None takes
    the model's own, or ChatML."""
    template_kwargs: str | None = None
    """Variables of the chat template, as a JSON object: '{"enable_thinking": false}'; strftime_now is a
    date."""
    add_tokens: tuple[str, ...] = ()
    """Control tokens to add to tokenizer and embedding, such as "<|im_start|>" "<|im_end|>" for a base model;
    their rows begin at the mean of all others. Not with adapters, which would not train them."""
    vocabulary_multiple: int = 1
    """The embedding is padded to a multiple of this many rows, where tokens are added."""
    batch_size: int = 16
    """Rows, pairs or prompts a step."""
    num_epochs: int = 1
    """Times that the data is seen."""
    max_steps: int | None = None
    """Steps to take, whatever the epochs."""
    max_length: int = 256
    """Tokens a row; of prompts for reinforcement learning, tokens of the prompt."""
    learning_rate: float = 3e-4
    """Peak learning rate, per update."""
    warmup: float = 0.05
    """Warm-up: below 1 a share of all updates, else a number of them."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "linear"
    """Shape of the learning rate after the warm-up."""
    final_learning_rate: float = 0.1
    """Where the schedule ends, as a share of the peak."""
    optimizer: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    """Muon moves the matrices of the layers and leaves the rest to AdamW."""
    weight_decay: float = 0.0
    """Decay of matrices, per unit of learning rate (of sgd: added to the gradient); norms, biases and
    embeddings have none."""
    max_grad_norm: float = 1.0
    """Norm that longer gradients are shortened to; 0 leaves them."""
    gradient_accumulation: int = 1
    """Pieces that a batch is cut into, to save memory; must divide batch_size."""
    ema: float | None = None
    """Decay of an average of the weights, such as 0.999; the final model is then the average."""
    lora: Literal["conservative", "balanced", "aggressive"] | None = None
    """Train adapters of this size, and leave the model as it is; final_model then holds adapters in PEFT's
    format, joined with those at --model_path, if there are any."""
    qlora: bool = False
    """Adapters over a model whose matrices are stored in four bits a number."""
    lora_rank: int | None = None
    """Rank of the adapters, the number of rows of A; None takes the preset's, like the next three."""
    lora_alpha: float | None = None
    """Numerator of their scale, a factor: alpha / rank."""
    lora_targets: tuple[str, ...] = ()
    """Matrices that get one, such as q v, patterns of paths, or PEFT's names: q_proj, lm_head, all-linear."""
    lora_dropout: float | None = None
    """Share of their inputs that is dropped."""
    use_rslora: bool = False
    """Scale by alpha / √rank."""
    use_dora: bool = False
    """Learn the length of each row apart from its direction."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the products; the weights stay in float32. "auto": bfloat16 where the processor multiplies
    in it."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a GPU where there is one."""
    compile: bool = True
    """Compile the step; needs a C++ compiler, takes 1 to 3 minutes the first time."""
    seed: int = 0
    """Seed of everything random."""
    held_out: int = 128
    """Validation rows, taken at even spacing; at most a fifth of all."""
    on_bad: Literal["stop", "skip"] = "stop"
    """At a row that cannot be read: stop, or note it in bad_rows.jsonl and go on."""
    save_every: int = 100
    """Steps between checkpoints; 0 saves only the end."""
    keep_last: int = 2
    """Checkpoints to keep, besides the best."""
    eval_every: int = 0
    """Steps between validations; 0 validates only the end."""
    patience: int = 0
    """Validations without improvement before the run stops; 0 never stops it."""
    resume: bool = True
    """Go on from the newest good checkpoint in output_dir; otherwise a folder with checkpoints is refused."""
    wandb: str | None = None
    """Project name in Weights & Biases; WANDB_MODE=offline needs no network."""
    tensorboard: bool = False
    """Write event files too."""


@dataclass(frozen=True, kw_only=True)
class SFTOptions(TuningOptions):
    """Supervised fine-tuning on conversations, of which only the assistant's turns are learned."""

    output_dir: str = "runs/sft"
    """Folder of the run: checkpoints, metrics.jsonl, final_model."""
    packing: bool = True
    """Put several conversations side by side in a row, none of them cut that would fit, none seeing
    another."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class RewardOptions(TuningOptions):
    """A reward model, from pairs of answers of which one was preferred."""

    output_dir: str = "runs/reward"
    """Folder of the run: checkpoints, metrics.jsonl, final_model."""
    center: float = 0.01
    """Weight of the pull of scores towards 0."""
    disable_dropout: bool = True
    """Leave out the dropout of the model and of adapters while learning."""


@dataclass(frozen=True, kw_only=True)
class DPOOptions(TuningOptions):
    """Direct preference optimization, from pairs of answers of which one was preferred."""

    output_dir: str = "runs/dpo"
    """Folder of the run: checkpoints, metrics.jsonl, final_model."""
    learning_rate: float = 1e-4
    """Peak learning rate, per update."""
    beta: float = 0.1
    """Weight of the pull to the model that training starts from; 2 is usual for simpo."""
    variant: Literal["sigmoid", "conservative", "robust", "ipo", "hinge", "simpo", "orpo"] = "sigmoid"
    """Which loss; see pure/loss/dpo.py and pure/loss/orpo.py."""
    label_smoothing: float = 0.0
    """Share of pairs whose label is taken to be wrong; for conservative and robust."""
    disable_dropout: bool = True
    """Leave out the dropout of the model and of adapters while learning; the reference never drops out."""


@dataclass(frozen=True, kw_only=True)
class OnlineOptions(TuningOptions):
    """What learning from one's own answers has in common."""

    max_length: int = 64
    """Tokens of a prompt at most; longer ones are shortened from the left."""
    learning_rate: float = 1e-4
    """Peak learning rate, per update."""
    reward: tuple[str, ...] = ("correct",)
    """Reward functions, added up: `correct` (the answer is the row's column "answer"), FILE.py:FUNCTION with
    a function (prompt, completion, row) -> float of your own or one of TRL's form, (prompts, completions,
    **columns) -> list, or the folder of a reward model."""
    reward_weights: tuple[float, ...] = ()
    """What each reward counts in the sum, one number a reward; none given: each counts 1."""
    on_bad_reward: Literal["stop", "skip"] = "stop"
    """At a reward function that raises or gives no finite number: stop, or leave that reward out. None is no
    error: that reward does not apply, and the others count."""
    max_new_tokens: int = 64
    """Tokens of an answer at most."""
    temperature: float = 1.0
    """Sampling temperature, a factor: logits are divided by it."""
    top_k: int | None = None
    """Sample among this many likeliest tokens; None among all."""
    top_p: float | None = None
    """Sample among the likeliest tokens that have this probability together, in (0, 1]; None among all."""
    mask_truncated: bool = False
    """Leave answers that were cut off at --max_new_tokens out of the loss; their rewards still count in the
    group."""
    table_every: int = 10
    """Steps between tables of answers with their rewards, on the screen and in completions.jsonl; 0 shows
    none."""


@dataclass(frozen=True, kw_only=True)
class GRPOOptions(OnlineOptions):
    """Group relative policy optimization: several answers to each prompt, compared with each other."""

    output_dir: str = "runs/grpo"
    """Folder of the run: checkpoints, metrics.jsonl, completions.jsonl, final_model."""
    samples: int = 8
    """Number of answers to each prompt."""
    beta: float = 0.02
    """Weight of the divergence from the model that training starts from; 0 needs no second model."""
    kl: Literal["k1", "k2", "k3", "k3+"] = "k3+"
    """Estimator of the divergence; see pure/loss/kl.py."""
    variant: Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"] = "dapo"
    """Which loss; see pure/loss/grpo.py."""
    scale: Literal["group", "batch", "none", "leave_one_out"] = "group"
    """What advantages are divided by."""
    iterations: int = 1
    """Number of updates from the same answers."""


@dataclass(frozen=True, kw_only=True)
class PPOOptions(OnlineOptions):
    """Proximal policy optimization: a value function judges every token."""

    output_dir: str = "runs/ppo"
    """Folder of the run: checkpoints, metrics.jsonl, completions.jsonl, final_model."""
    batch_size: int = 128
    """Number of prompts a step, each answered once."""
    beta: float = 0.02
    """Weight of the divergence from the model that training starts from, to begin with."""
    target_kl: float | None = None
    """Divergence, nats an answer, that the weight is steered to; None keeps the weight."""
    epochs: int = 2
    """Times that a round's answers are used."""
    minibatches: int = 1
    """Number of pieces into which they are cut."""
    value_weight: float = 0.5
    """Weight of the value function's loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy, a reward for staying undecided."""


def samples_of(options: OnlineOptions) -> int:
    """Answers to each prompt."""
    return options.samples if isinstance(options, GRPOOptions) else 1


def updates_of(options: OnlineOptions) -> int:
    """Optimizer updates a step."""
    if isinstance(options, PPOOptions):
        return options.epochs * options.minibatches
    return options.iterations if isinstance(options, GRPOOptions) else 1


RUNGS: Sequence[type[TuningOptions]] = (SFTOptions, RewardOptions, DPOOptions, GRPOOptions, PPOOptions)
"""The options of every rung."""
