"""What a pretraining run is made from: one frozen dataclass, whose fields are the flags of the command line.

Plain values only, so that it is written to `config.json` and read back, and imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Pretraining on text, from a tokenizer to a model that transformers loads."""

    config: str | None = None
    """The model's shape: a preset's name, or a JSON file of ModelConfig's fields; None takes tiny_config."""
    data_path: str = "embedded"
    """Text to train on: a file, a folder, rows (JSONL, CSV, Parquet, Arrow), a data set's name; "embedded" is
    Python's own source."""
    field: str = "text"
    """Column that holds the text, where the data has rows."""
    encoding: str = "utf-8"
    """Of text files."""
    subset: str | None = None
    """Configuration of a data set that has several; of a folder one that its README.md lists, or a folder in
    it."""
    split: str = "train"
    """Part of a data set, or of a folder in one of the hub's layouts, such as train.jsonl beside
    test.jsonl."""
    output_dir: str = "runs/pretrain"
    """Folder of the run: data, checkpoints, metrics.jsonl, final_model."""
    tokenizer_path: str | None = None
    """A tokenizer.json to use; by default one is trained on the data, as large as the model's vocabulary."""
    model_path: str | None = None
    """A run's folder, or one in Hugging Face's layout, to start from with its shape, weights and
    tokenizer."""
    batch_size: int = 32
    """Rows a step."""
    num_epochs: int = 1
    """Times that the data is seen."""
    max_steps: int | None = None
    """Steps to take, whatever the epochs."""
    max_length: int = 256
    """Tokens a row."""
    learning_rate: float = 1e-3
    """Peak learning rate, per update."""
    warmup: float = 0.05
    """Warm-up: below 1 a share of all steps, else a number of steps."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    final_learning_rate: float = 0.1
    """Where the schedule ends, as a share of the peak."""
    optimizer: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    """Muon moves the matrices of the layers and leaves the rest to AdamW."""
    weight_decay: float = 0.1
    """Decay of matrices, per unit of learning rate (of sgd: added to the gradient); norms, biases and
    embeddings have none."""
    max_grad_norm: float = 1.0
    """Norm that longer gradients are shortened to; 0 leaves them."""
    gradient_accumulation: int = 1
    """Pieces that a batch is cut into, to save memory; must divide batch_size."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the vocabulary."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser; PaLM used 1e-4."""
    ema: float | None = None
    """Decay of an average of the weights, such as 0.999; the final model is then the average."""
    boundaries: Literal["ignore", "mask"] = "ignore"
    """Whether a token may look into the document before its own in the same row."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the products; the weights stay in float32. "auto": bfloat16 where the processor multiplies
    in it."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a GPU where there is one."""
    compile: bool = True
    """Compile the step; needs a C++ compiler, takes 1 to 3 minutes the first time."""
    seed: int = 0
    """Seed of everything random."""
    held_out: float = 0.05
    """Share of the documents held out for validation, chosen by their names, of few documents their ends; 10
    MB at most."""
    filter: bool = False
    """Drop documents that are too short, repetitive, binary or seen before, and write down why."""
    on_bad: Literal["stop", "skip"] = "stop"
    """At a row or file that cannot be read: stop, or note it in bad_rows.jsonl and go on."""
    save_every: int = 500
    """Steps between checkpoints; 0 saves only the end."""
    keep_last: int = 2
    """Checkpoints to keep, besides the best."""
    eval_every: int = 500
    """Steps between validations; 0 validates only the end."""
    patience: int = 0
    """Validations without improvement before the run stops; 0 never stops it."""
    resume: bool = True
    """Go on from the newest good checkpoint in output_dir; otherwise a folder with checkpoints is refused."""
    wandb: str | None = None
    """Project name in Weights & Biases; WANDB_MODE=offline needs no network."""
    tensorboard: bool = False
    """Write event files too."""
