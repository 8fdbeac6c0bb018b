"""From flags to a run: text, tokenizer, model, optimizer, stage, pipe and validation.

Everything here is a function of PretrainOptions and the data, so that `resume` and `replay` build the same again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_pipes import embedded as python_library
from data_pipes import filter as filters
from data_pipes import tokenizer as tokenizers
from data_pipes.duplicates import exact_duplicates, near_duplicates
from data_pipes.pretrain import PretrainPipe, pretrain_pipe
from data_pipes.source.path import documents
from data_pipes.store import open_store
from data_pipes.tokenize import tokenize
from data_pipes.tokens import TokenStore
from data_pipes.types import BadRow, Document, stop
from data_pipes.windows import windows
from pure import optim, random, tree
from pure.config import ModelConfig, from_dict, preset
from pure.nn.transformer import transformer
from pure.types import GradientTransformation, Model, Schedule, Tree
from stages.options import PretrainOptions
from stages.pretrain import pretrain
from stages.run.validation import bits_per_byte
from stages.stage import Stage
from stages.state import TrainState

DTYPES = (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16))
END = "<|endoftext|>"


class Corpus(NamedTuple):
    """The data of a run, on disk.

    Fields:
        tokenizer: trained or loaded.
        train, held_out: token stores.
        held_out_bytes: UTF-8 bytes of the held-out text.
    """

    tokenizer: tokenizers.Tokenizer
    train: TokenStore
    held_out: TokenStore
    held_out_bytes: int


class Experiment(NamedTuple):
    """All that a run needs; a pure function of the options and the corpus."""

    config: ModelConfig
    model: Model
    stage: Stage
    pipe: PretrainPipe
    validate: Callable[[Tree], dict[str, float]]
    schedule: Schedule
    key: torch.Tensor


def prepare(options: PretrainOptions, say: Callable[[str], None] = print) -> Corpus:
    """Reads the text once, trains a tokenizer on it unless one is given, and writes the tokens into the run's folder.

    Done before, it is only opened again.

    Args:
        options: data_path, tokenizer_path, held_out, filter, on_bad, output_dir, config.
        say: takes a line for the person who waits.

    Raises:
        ValueError, FileNotFoundError: for data that cannot be read or split; the message names the file.
    """
    folder = Path(options.output_dir)
    facts = folder / "data" / "held_out.json"
    if facts.exists():
        tokenizer = tokenizers.load(folder / "tokenizer.json")
        stores = [open_store(folder / "data" / part, verify=False) for part in ("train", "held_out")]
        return Corpus(tokenizer, *stores, json.loads(facts.read_text())["bytes"])
    (folder / "data").mkdir(parents=True, exist_ok=True)
    read = partial(_documents, options, folder)
    tokenizer = _tokenizer(options, folder, read, say)
    held_out_bytes = sum(len(document.text.encode()) for document in read("held_out"))
    stores = [_store(folder / "data" / part, read(part), tokenizer) for part in ("train", "held_out")]
    say(f"data: {len(stores[0].tokens):,} tokens to train on, {len(stores[1].tokens):,} held out")
    facts.write_text(json.dumps({"bytes": held_out_bytes}))
    return Corpus(tokenizer, *stores, held_out_bytes)


def build(options: PretrainOptions, corpus: Corpus) -> Experiment:
    """Builds model, stage, pipe and validation.

    Raises:
        ValueError: if options contradict each other or the corpus.
    """
    config = model_config(options, corpus.tokenizer)
    if options.max_length > config.max_position_embeddings:
        raise ValueError(
            f"--max_length {options.max_length} exceeds the model's max_position_embeddings "
            f"{config.max_position_embeddings}; shorten the rows or raise it in --config"
        )
    device = pick_device(options.device)
    model = transformer(config)
    pipe = pretrain_pipe(
        corpus.train,
        batch_size=options.batch_size,
        length=options.max_length,
        key=options.seed,
        epochs=options.num_epochs,
        boundaries=options.boundaries,
    )
    pipe = pipe[: options.max_steps] if options.max_steps else pipe
    schedule = make_schedule(options, len(pipe))
    dtype = dict(DTYPES)[options.dtype]
    stage = pretrain(
        model,
        make_optimizer(options, schedule),
        compute=dtype,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        accumulation=options.gradient_accumulation,
        ema=options.ema,
    )
    held_out = windows(
        corpus.held_out, batch_size=options.batch_size, length=options.max_length, stride=(options.max_length + 1) // 2
    )
    validate = bits_per_byte(model, held_out, corpus.held_out_bytes, dtype=dtype)
    return Experiment(config, model, stage, pipe, validate, schedule, random.key(options.seed, device=device))


def model_config(options: PretrainOptions, tokenizer: tokenizers.Tokenizer) -> ModelConfig:
    """Reads --config, and takes the special ids from the tokenizer.

    Raises:
        ValueError: for a Python file, a JSON file that is none, or a vocabulary smaller than the tokenizer's.
    """
    config = read_config(options.config)
    size = tokenizers.vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, but --config {options.config} only vocab_size {config.vocab_size}; raise "
            "it in a JSON file, or let a tokenizer be trained on the data"
        )
    special = tokenizers.special_tokens(tokenizer)
    return dataclasses.replace(config, eos_token_id=special.get(END), pad_token_id=special.get("<|pad|>"))


def read_config(name: str) -> ModelConfig:
    """A preset's name or a JSON file -> ModelConfig.

    Raises:
        ValueError: for anything else, with what to type instead.
    """
    path = Path(name)
    if path.suffix != ".json":
        return preset(name)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--config {name}: there is no such file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"--config {name}: not valid JSON, line {error.lineno}: {error.msg}") from None
    return from_dict(fields)


def make_schedule(options: PretrainOptions, steps: int) -> Schedule:
    """The learning rate over `steps` optimizer updates, as --schedule, --warmup and --final_learning_rate say."""
    warmup = int(options.warmup * steps if options.warmup < 1 else options.warmup)
    peak, end = options.learning_rate, options.learning_rate * options.final_learning_rate
    steps = max(steps, warmup + 1)
    if options.schedule == "constant":
        return optim.warmup_constant_schedule(0.0, peak, max(warmup, 1))
    if options.schedule == "linear":
        return optim.warmup_linear_decay_schedule(0.0, peak, max(warmup, 1), steps, end)
    if options.schedule == "wsd":
        decay = max(1, steps // 5)
        return optim.wsd_schedule(peak, max(warmup, 1), max(steps - warmup - decay, 1), decay, end_value=end)
    return optim.warmup_cosine_decay_schedule(0.0, peak, max(warmup, 1), steps, end)


def make_optimizer(options: PretrainOptions, schedule: Schedule) -> GradientTransformation:
    """The optimizer that the flags describe, behind clipping."""
    decay, mask = options.weight_decay, optim.decay_mask
    made = {
        "adamw": lambda: optim.adamw(schedule, b2=0.95, weight_decay=decay, mask=mask),
        "lion": lambda: optim.lion(schedule, weight_decay=decay, mask=mask),
        "muon": lambda: optim.muon(
            schedule,
            adam_b2=0.95,
            weight_decay=decay,
            consistent_rms=0.2,  # so that a rate means the same as AdamW's
            muon_weight_dimension_numbers=optim.hidden_matrices,
        ),
        "sgd": lambda: optim.sgd(schedule, momentum=0.9, nesterov=True),
    }[options.optimizer]()
    return optim.chain(optim.clip_by_global_norm(options.max_grad_norm), made) if options.max_grad_norm else made


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU where there is one.

    Raises:
        ValueError: if a GPU is asked for and torch sees none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA build of torch")
    return torch.device(name)


def _documents(options: PretrainOptions, folder: Path, part: str) -> Iterator[Document]:
    """The documents of one part, filtered if asked for."""
    if options.data_path == "embedded":
        found: Iterable[Document] = python_library.embedded(part)  # type: ignore[arg-type]
    else:
        found = _split(documents(options.data_path, on_bad=_on_bad(options, folder)), options.held_out, part)
    return iter(found) if not options.filter else _filtered(found, folder, part)


def _split(found: Iterable[Document], share: float, part: str) -> Iterator[Document]:
    """By the hash of each document's name; a single document gives its last share instead."""
    stream = iter(found)
    first, second = next(stream, None), next(stream, None)
    if first is not None and second is None:
        cut = first.text.find("\n", int(len(first.text) * (1 - share))) + 1 or int(len(first.text) * (1 - share))
        yield first._replace(text=first.text[:cut] if part == "train" else first.text[cut:])
        return
    for document in (first, second, *()) if first is not None else ():
        if document is not None and python_library.is_held_out(document.name, share) == (part == "held_out"):
            yield document
    for document in stream:
        if python_library.is_held_out(document.name, share) == (part == "held_out"):
            yield document


def _filtered(found: Iterable[Document], folder: Path, part: str) -> Iterator[Document]:
    """Drops what the default filters name, and writes down what and why."""
    drops: list[Any] = []
    rules = (filters.length(50), filters.binary(), filters.repetition(), exact_duplicates(), near_duplicates())
    yield from filters.keep(found, rules, on_drop=drops.append)
    (folder / "data" / f"dropped_{part}.txt").write_text(filters.table(filters.report(drops)) + "\n", encoding="utf-8")


def _on_bad(options: PretrainOptions, folder: Path) -> Callable[[BadRow], None]:
    """Stops at a bad row, or notes it and goes on."""
    if options.on_bad == "stop":
        return stop

    def note(bad: BadRow) -> None:
        with (folder / "bad_rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(bad._asdict()) + "\n")

    return note


def _tokenizer(
    options: PretrainOptions, folder: Path, read: Callable[[str], Iterator[Document]], say: Callable[[str], None]
) -> tokenizers.Tokenizer:
    """Loads or trains the tokenizer; the run keeps a copy."""
    target = folder / "tokenizer.json"
    given = options.tokenizer_path or (options.model_path and str(Path(options.model_path) / "tokenizer.json"))
    if given and not target.exists():
        tokenizers.save(tokenizers.load(given), target)
    if not target.exists():
        size = read_config(options.config).vocab_size
        say(f"tokenizer: learning {size:,} tokens from {options.data_path}")
        tokenizers.save(tokenizers.train((document.text for document in read("train")), size), target)
    return tokenizers.load(target)


def _store(path: Path, found: Iterator[Document], tokenizer: tokenizers.Tokenizer) -> TokenStore:
    """Tokens on disk; an unfinished folder of a killed run is replaced."""
    if path.exists():
        shutil.rmtree(path)
    return tokenize(
        found,
        tokenizer,
        path,
        vocab_size=tokenizers.vocabulary_size(tokenizer),
        separator_id=tokenizers.special_id(tokenizer, END),
        fingerprint=tokenizers.fingerprint(tokenizer),
    )


def resolved(options: PretrainOptions, config: ModelConfig) -> Mapping[str, Any]:
    """What goes into config.json: every flag, the model, and the versions it ran with."""
    return {
        "options": dataclasses.asdict(options),
        "model": dataclasses.asdict(config),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def learning_rate(state: TrainState, *, schedule: Schedule) -> dict[str, float]:
    """The rate of the last update, by the optimizer's own count, which a skipped step does not advance."""
    paths = tree.paths(state.opt_state)
    counts = [x for path, x in zip(paths, tree.leaves(state.opt_state), strict=True) if path.endswith("count")]
    return {"learning_rate": float(schedule((counts[0] - 1).clamp(min=0)))} if counts else {}
