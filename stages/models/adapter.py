"""Attach adapters to a model for training, and write them in PEFT's format (`adapter_folder` reads it).

Adapters over adapters (SFT, then DPO, both with --lora) are joined when they are written: one adapter whose
rank is the sum of both, over the whole model at the bottom. So the folder means the same in PEFT, which knows
one base and one adapter, as here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from data_pipes.tokenizer.spec import Tokenizer
from pure import tree
from pure.adapt.attach import materialize
from pure.adapt.lora import bind, merge
from pure.adapt.lora_config import LoRAConfig, sites
from pure.adapt.qlora import quantize_layers
from pure.interop import hf, peft
from pure.interop.peft_weights import Adapters, is_low_rank
from pure.nn.linear import LoRA
from pure.nn.nf4 import nf4_bytes
from pure.types import Model, Tree
from stages.models import folder as model_folder
from stages.models.adapter_folder import BASE, CONFIG, WEIGHTS
from stages.models.gguf import is_gguf
from stages.models.identity import hash_weights
from stages.models.initial_adapters import InitialAdapters
from stages.models.language_model import Pretrained


class Adapter(NamedTuple):
    """A model with adapters, and its frozen base.

    Fields:
        model: whose params are adapters.
        config: rank, scale and matrices of the adapters.
        base: the frozen params, perhaps with NF4 nodes.
        path: of the base model; of adapters over adapters, the whole model at the bottom.
        dtype: of the frozen base.
        quantized: the base is stored in four bits a number.
        digest: of the base before that.
        earlier: adapters that the run starts from, to be joined with its own.
    """

    model: Model
    config: LoRAConfig
    base: Tree
    path: str
    dtype: torch.dtype
    quantized: bool
    digest: str
    earlier: Adapters | None = None


def attach(
    model: Model,
    params: Tree,
    config: LoRAConfig,
    *,
    path: str,
    dtype: torch.dtype,
    quantize: bool,
    digest: str,
    earlier: InitialAdapters | None = None,
) -> Adapter:
    """Attaches adapters to a model, whose own params are frozen.

    Args:
        model: the base's.
        params: the base's, float32; adapters that the run starts from are merged into them.
        config: rank, scale and matrices of the adapters.
        path: of the base.
        dtype: compute dtype, and so that of the frozen base.
        quantize: store the matrices of the base in four bits (NF4).
        digest: `stages.models.identity.hash_weights` of the params.
        earlier: adapters that the run starts from, if its own are joined with them.

    Returns:
        Adapter.

    Raises:
        ValueError: if the targets do not fit the base, or the earlier adapters cannot be joined with these.
    """
    if earlier is not None:
        return _attach_above(model, params, config, dtype, quantize, earlier)
    base = tree.cast(params, dtype)
    if quantize:
        base = quantize_layers(base)
    return Adapter(bind(model, base, config), config, base, _absolute(path), dtype, quantize, digest)


def describe(adapter: Adapter, params: Tree) -> str:
    """Describes adapters in one line: their size, that of the base, and its memory in four bits."""
    trained = tree.count(params)
    total = sum(site.shape[0] * site.shape[1] for site in sites(adapter.base, LoRAConfig()).values())
    stored, bfloat16 = nf4_bytes(adapter.base)
    share = f"{trained / total:.2%} of the {total:,} in the layers' matrices"
    line = f"adapters: {trained:,} numbers to train, {share}"
    if is_gguf(adapter.path):
        line += (
            "; PEFT loads no GGUF file as their base: for PEFT, run intro2llm import first and train on that"
        )
    if stored:
        line += f"; these take {stored / 1e6:.1f} MB in four bits, {stored / bfloat16:.2f} of bfloat16"
    return line


def save(
    folder: str | Path, adapter: Adapter, params: Tree, tokenizer: Tokenizer, texts: Mapping[str, str]
) -> Path:
    """Writes the folder, whole or not at all.

    Args:
        folder: is made or replaced.
        adapter: what the params belong to.
        params: adapters.
        tokenizer: of the base.
        texts: further small files by name.

    Returns:
        The folder, which PEFT reads.

    Raises:
        OSError: if the disk refuses; an older folder stays.
    """
    fields = peft.to_config(adapter.config, adapter.base, base_name=adapter.path)
    tensors = peft.to_weights(params)
    if adapter.earlier is not None:
        own = tree.map(lambda x: x.detach().cpu(), params)  # the earlier ones were read there
        joined = peft.join(adapter.earlier, peft.to_adapters(own, adapter.config, adapter.base))
        fields = peft.joined_config(
            joined,
            base_name=adapter.path,
            dropout=adapter.config.dropout,
            layers=len(adapter.base["layers"]),
        )
        tensors = peft.joined_weights(joined)
    base = {
        "path": adapter.path,
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "quantized": adapter.quantized,
        "digest": adapter.digest,
    }
    files = {**texts, CONFIG: json.dumps(fields, indent=2) + "\n", BASE: json.dumps(base, indent=2) + "\n"}
    return model_folder.write(folder, files, tensors, tokenizer, name=WEIGHTS)


def merge_reward_model(adapter: Adapter | None, scored: Pretrained) -> Pretrained:
    """Merges the adapters of a reward model into its base.

    Args:
        adapter: the frozen base; None returns the model as it is.
        scored: its params are {"model": adapters, "score"}.

    Returns:
        The whole reward model.
    """
    if adapter is None:
        return scored
    base = tree.cast(materialize(adapter.base), torch.float32)
    merged = merge(base, scored.params["model"], adapter.config)
    return scored._replace(params={**scored.params, "model": merged})


def with_patches(base: Tree, adapters: Adapters, dtype: torch.dtype) -> Tree:
    """Puts earlier adapters beside their matrices, frozen: as nodes, since the base is quantised.

    Args:
        base: params.
        adapters: low-rank changes alone.
        dtype: of their matrices.

    Returns:
        The params with LoRA nodes.
    """
    patches = {patch.module: patch for patch in adapters.patches}
    device = tree.leaves(base)[0].device

    def replace(path: str, leaf: Tree) -> Tree:
        patch = patches.get(hf.weight_name(path).removesuffix(".weight"))
        if patch is None or path.endswith("_bias"):
            return leaf
        return LoRA(leaf, patch.a.to(device, dtype), (patch.scale * patch.b.float()).to(device, dtype))

    return _map_nodes(replace, base)


class _Replace(Protocol):
    """(path, leaf) -> the node in its place."""

    def __call__(self, path: str, leaf: Tree, /) -> Tree: ...


def _map_nodes(replace: _Replace, node: Tree, path: str = "") -> Tree:
    """The tree with `replace(path, leaf)` for its tensors and nodes."""
    if isinstance(node, dict):
        return {name: _map_nodes(replace, x, f"{path}/{name}" if path else name) for name, x in node.items()}
    if isinstance(node, list):
        return [_map_nodes(replace, x, f"{path}/{i}") for i, x in enumerate(node)]
    return replace(path, node)


def _attach_above(
    model: Model,
    params: Tree,
    config: LoRAConfig,
    dtype: torch.dtype,
    quantize: bool,
    earlier: InitialAdapters,
) -> Adapter:
    """Adapters over adapters: beside the earlier ones where the base is quantised now, else over the merged
    base."""
    if config.use_dora or not is_low_rank(earlier.adapters):
        which = "--use_dora" if config.use_dora else f"the adapters in {earlier.path}"
        raise ValueError(
            f"adapters over adapters are saved as one, and {which} cannot be joined with others; run "
            f"intro2llm merge --model_path {earlier.path} --output_dir MERGED, and take --model_path MERGED"
        )
    stored = earlier.base.dtype if earlier.base.quantized else dtype
    if quantize:
        below = tree.map(lambda x: x.to(tree.leaves(params)[0].device, stored), earlier.params)
        base = with_patches(quantize_layers(below), earlier.adapters, dtype)
    else:
        base = tree.cast(params, dtype)
    return Adapter(
        bind(model, base, config),
        config,
        base,
        _absolute(earlier.root),
        stored,
        quantize or earlier.base.quantized,
        hash_weights(earlier.params),
        earlier.adapters,
    )


def _absolute(path: str) -> str:
    """The base's folder as others can load it: absolute, and the final_model of a run; a hub's name stays."""
    folder = model_folder.find_final_model(path)
    return str(folder.resolve()) if folder.exists() else path
