"""`intro2llm import`, `export` and `merge`: read a model in one form, write it in another."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.cli.notice import say_waiting
from stages.run.options.groups import ModelFlags, NewTokensFlags

if TYPE_CHECKING:
    from stages.models.gguf_writer import Kind
    from stages.models.language_model import Pretrained


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(NewTokensFlags, ModelFlags):
    """Flags of the three subcommands."""

    output_dir: str
    """Folder to write; it must not exist yet."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """Data type of the weights; keep writes them as they are (those of a GGUF file in float32)."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(ConvertOptions):
    """Convert a published model to a folder in Hugging Face's layout, which every other subcommand reads."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ConvertOptions):
    """Write a model in Hugging Face's layout, which transformers loads, for JAX, or for llama.cpp."""

    format: Literal["safetensors", "orbax", "msgpack", "gguf"] = "safetensors"
    """Form of the weights: safetensors, Hugging Face's layout; orbax, an Orbax folder OUTPUT_DIR/params;
    msgpack, the bytes of flax.serialization in OUTPUT_DIR/params.msgpack; gguf, OUTPUT_DIR/model.gguf for
    llama.cpp."""
    gguf_type: Literal["f32", "f16", "bf16", "q8_0"] | None = None
    """Type of the matrices in a GGUF file (default: f16); q8_0 has 8.5 bits a number."""
    state: bool = False
    """Also write the whole state of the newest checkpoint of the run at --model_path (orbax and msgpack)."""


@dataclass(frozen=True, kw_only=True)
class MergeOptions(ConvertOptions):
    """Merge adapters into the model that they were trained on, and write the result."""


def run(options: ConvertOptions) -> int:
    """Reads the model and writes it.

    Args:
        options: MergeOptions require adapters.

    Returns:
        The exit code.

    Raises:
        ValueError: for MergeOptions if the model has no adapters; for `state` without a checkpoint, or with
            safetensors; for a model that a GGUF file cannot carry.
        FileExistsError: if the output folder exists.
    """
    folder = Path(options.output_dir)
    if folder.exists():
        raise FileExistsError(
            f"--output_dir {folder} exists already; choose another, so that nothing is lost"
        )
    say_waiting(f"loading {options.model_path}")
    from pure import tree
    from stages.models import adapter_folder, hardware, language_model, new_tokens

    if isinstance(options, MergeOptions) and adapter_folder.find_adapters(options.model_path) is None:
        raise ValueError(
            f"--model_path {options.model_path} holds no adapters (adapter_config.json); a whole model has "
            "nothing to merge: use intro2llm export"
        )
    if isinstance(options, ExportOptions):
        _check_format(options.format, options.state, options.gguf_type, options.dtype)
    new_tokens.check_flags(options.add_tokens, options.vocabulary_multiple)
    model = language_model.load(options.model_path, dtype=dict(hardware.DTYPES).get(options.dtype))
    if options.add_tokens:
        multiple = options.vocabulary_multiple
        model = new_tokens.add_tokens(model, options.add_tokens, multiple=multiple, say=print)
    if isinstance(options, ExportOptions) and options.format == "gguf":
        code = _write_gguf(folder, model, options.gguf_type or "f16")
        _report_card(options.model_path)
        return code
    if isinstance(options, ExportOptions) and options.format in ("orbax", "msgpack"):
        state = _read_state(options.model_path, options.format) if options.state else None
        path = language_model.save_for_jax(folder, model, options.format, state)
    else:
        path = language_model.save(folder, model)
    if isinstance(options, ExportOptions):
        is_same = options.format == "safetensors" and options.dtype == "keep" and not options.add_tokens
        _copy_card(options.model_path, path, is_same)
    leaves = tree.leaves(model.params)
    dtype = str(leaves[0].dtype).removeprefix("torch.")
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    print(f"{path}: {tree.count(model.params):,} parameters in {dtype}, {size / 1e6:,.1f} MB")
    return 0


def _check_format(form: str, state: bool, gguf_type: str | None, dtype: str) -> None:
    """Refuses flags that belong to another format."""
    if state and form not in ("orbax", "msgpack"):
        layout = "a GGUF file" if form == "gguf" else "Hugging Face's layout"
        raise ValueError(f"--state: a training state is no part of {layout}; add --format orbax")
    if gguf_type and form != "gguf":
        raise ValueError(f"--gguf_type {gguf_type} needs --format gguf, got {form}")
    if form == "gguf" and dtype != "keep":
        raise ValueError(
            f"--dtype {dtype}: a GGUF file has types of its own; take --gguf_type f32, f16, bf16 or q8_0"
        )


def _copy_card(model_path: str, path: Path, is_same: bool) -> None:
    """Copies the model card of a model that is written as it is; of another one, says that it was not."""
    from stages.models import adapter_folder
    from stages.models.folder import CARD

    card = _find_card(model_path)
    if card is None:
        return
    if is_same and adapter_folder.find_adapters(model_path) is None:
        shutil.copyfile(card, path / CARD)
    else:
        print(f"{card} was not copied: it describes the model before this change")


def _report_card(model_path: str) -> None:
    """Says that the model card stays beside the model of which a GGUF file was written."""
    card = _find_card(model_path)
    if card is not None:
        print(f"{card} stays where it is: a GGUF file has no model card")


def _find_card(model_path: str) -> Path | None:
    """The model card of a model; None if it has none."""
    from stages.models import hub
    from stages.models.folder import CARD, find_final_model

    card = find_final_model(hub.find(model_path)) / CARD
    return card if card.is_file() else None


def _write_gguf(folder: Path, model: Pretrained, kind: Kind) -> int:
    """Writes FOLDER/model.gguf, and says so; returns the exit code."""
    from pure import tree
    from stages.models import gguf_writer

    path = gguf_writer.write(folder, model, kind)
    print(f"{path}: {tree.count(model.params):,} parameters in {kind}, {path.stat().st_size / 1e6:,.1f} MB")
    return 0


def _read_state(model_path: str, form: str) -> Any:
    """The state of the run's newest checkpoint, verified; for msgpack the folder, of which it is written."""
    from stages.checkpoint import checkpoint
    from stages.models import jax_params

    if checkpoint.latest(model_path) is None:
        raise ValueError(
            f"--state: {model_path} holds no checkpoint; expected a run's folder with checkpoints/step-*"
        )
    if form == "msgpack":
        return Path(model_path)
    return jax_params.as_lists(checkpoint.load(model_path, None).state)
