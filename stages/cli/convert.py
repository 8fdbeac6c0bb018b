"""`intro2llm import`, `export` and `merge`: read a model in one form, write it in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.run.options.groups import ModelFlags, NewTokensFlags


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
    """Write a model as a folder in Hugging Face's layout, which transformers loads, or for JAX."""

    format: Literal["safetensors", "orbax", "msgpack"] = "safetensors"
    """Form of the weights: safetensors, Hugging Face's layout; orbax, an Orbax folder OUTPUT_DIR/params;
    msgpack, the bytes of flax.serialization in OUTPUT_DIR/params.msgpack."""
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
            safetensors.
        FileExistsError: if the output folder exists.
    """
    folder = Path(options.output_dir)
    if folder.exists():
        raise FileExistsError(
            f"--output_dir {folder} exists already; choose another, so that nothing is lost"
        )
    from pure import tree
    from stages.models import adapter_folder, hardware, language_model, new_tokens

    if isinstance(options, MergeOptions) and adapter_folder.find_adapters(options.model_path) is None:
        raise ValueError(
            f"--model_path {options.model_path} holds no adapters (adapter_config.json); a whole model has "
            "nothing to merge: use intro2llm export"
        )
    if isinstance(options, ExportOptions) and options.state and options.format == "safetensors":
        raise ValueError("--state: a training state is no part of Hugging Face's layout; add --format orbax")
    new_tokens.check_flags(options.add_tokens, options.vocabulary_multiple)
    model = language_model.load(options.model_path, dtype=dict(hardware.DTYPES).get(options.dtype))
    if options.add_tokens:
        multiple = options.vocabulary_multiple
        model = new_tokens.add_tokens(model, options.add_tokens, multiple=multiple, say=print)
    if isinstance(options, ExportOptions) and options.format != "safetensors":
        state = _read_state(options.model_path, options.format) if options.state else None
        path = language_model.save_for_jax(folder, model, options.format, state)
    else:
        path = language_model.save(folder, model)
    leaves = tree.leaves(model.params)
    dtype = str(leaves[0].dtype).removeprefix("torch.")
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    print(f"{path}: {tree.count(model.params):,} parameters in {dtype}, {size / 1e6:,.1f} MB")
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
