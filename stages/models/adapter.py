"""Attach adapters to a model for training, and write them in PEFT's format (`adapter_folder` reads it).

A run with --lora may start from the adapters of an earlier run (SFT, then DPO). Both are then saved as one
joined adapter over the root model, the base of the earlier adapters; its rank is the sum of both. PEFT, which
supports one adapter over one base, thus loads the folder with the same result.
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
from pure.parallel.rows import gather
from pure.types import Model, Tree
from stages.models import folder as model_folder
from stages.models.adapter_folder import BASE, CONFIG, WEIGHTS
from stages.models.gguf import is_gguf
from stages.models.identity import hash_weights
from stages.models.initial_adapters import InitialAdapters
from stages.models.jax_params import find
from stages.models.language_model import Pretrained


class Adapter(NamedTuple):
    """A model with adapters, and its frozen base.

    Fields:
        model: the model whose params are the adapters.
        config: rank, scale and matrices of the adapters.
        base: the frozen params, perhaps with NF4 nodes.
        path: of the base model; with earlier adapters, of the root model.
        dtype: of the frozen base.
        quantized: whether the base is stored in four bits (NF4).
        digest: hash of the base's weights before quantization.
        earlier: adapters that the run starts from, joined with its own when they are saved; or None.
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
        earlier: adapters that the run starts from, to be joined with the new ones; None if there are none.

    Returns:
        Adapter.

    Raises:
        ValueError: if the targets do not fit the base, or the earlier adapters cannot be joined with these.
    """
    if earlier is not None:
        return _attach_over_earlier(model, params, config, dtype, quantize, earlier)
    base = tree.cast(params, dtype)
    if quantize:
        base = quantize_layers(base)
    return Adapter(bind(model, base, config), config, base, _absolute(path), dtype, quantize, digest)


def describe(adapter: Adapter, params: Tree) -> str:
    """Describes adapters in one line: trainable parameters, their share of the base, and the NF4 memory."""
    trained = tree.count(params)
    total = sum(site.shape[0] * site.shape[1] for site in sites(adapter.base, LoRAConfig()).values())
    stored, bfloat16 = nf4_bytes(adapter.base)
    share = f"{trained / total:.2%} of the {total:,} in the layers' matrices"
    line = f"adapters: {trained:,} trainable parameters, {share}"
    if is_gguf(adapter.path) or find(adapter.path):
        base = "a GGUF file" if is_gguf(adapter.path) else "params that JAX wrote"
        line += f"; PEFT cannot load their base, {base}; for PEFT, train on the output of intro2llm import"
    if stored:
        line += f"; these take {stored / 1e6:.1f} MB in four bits, {stored / bfloat16:.2f} of bfloat16"
    return line


def save(
    folder: str | Path, adapter: Adapter, params: Tree, tokenizer: Tokenizer, texts: Mapping[str, str]
) -> Path:
    """Writes the adapters as a folder in PEFT's format, atomically.

    Args:
        folder: created or replaced.
        adapter: from `attach`.
        params: the adapters' params.
        tokenizer: of the base.
        texts: further small files by name.

    Returns:
        The folder, which PEFT reads.

    Raises:
        OSError: if the folder cannot be written; an older one is kept.
    """
    fields = peft.to_config(adapter.config, adapter.base, base_name=adapter.path)
    tensors = peft.to_weights(params)
    if adapter.earlier is not None:
        # The earlier adapters are on the CPU; all are small.
        own = tree.map(lambda x: x.detach().cpu(), gather(params))
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


def merge_reward_model(adapter: Adapter | None, reward_model: Pretrained) -> Pretrained:
    """Merges the adapters of a reward model into its base.

    Args:
        adapter: holds the frozen base; None returns the reward model unchanged.
        reward_model: its params are {"model": adapters, "score": the head}.

    Returns:
        The reward model without adapters, float32.
    """
    if adapter is None:
        return reward_model
    base = tree.cast(materialize(adapter.base), torch.float32)
    merged = merge(base, gather(reward_model.params["model"]), adapter.config)
    return reward_model._replace(params={**reward_model.params, "model": merged})


def add_frozen_adapters(base: Tree, adapters: Adapters, dtype: torch.dtype) -> Tree:
    """Replaces adapted matrices of a quantized base by LoRA nodes (matrix, A, B), since it cannot be merged.

    Args:
        base: params.
        adapters: low-rank changes only.
        dtype: of A and B.

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
    """Replacement of a leaf: (path, leaf) -> node."""

    def __call__(self, path: str, leaf: Tree, /) -> Tree: ...


def _map_nodes(replace: _Replace, node: Tree, path: str = "") -> Tree:
    """Maps `replace(path, leaf)` over a tree's tensors and nodes."""
    if isinstance(node, dict):
        return {name: _map_nodes(replace, x, f"{path}/{name}" if path else name) for name, x in node.items()}
    if isinstance(node, list):
        return [_map_nodes(replace, x, f"{path}/{i}") for i, x in enumerate(node)]
    return replace(path, node)


def _attach_over_earlier(
    model: Model,
    params: Tree,
    config: LoRAConfig,
    dtype: torch.dtype,
    quantize: bool,
    earlier: InitialAdapters,
) -> Adapter:
    """Attaches adapters to a model that has earlier ones.

    With `quantize` the earlier adapters stay frozen nodes over the quantized root; else `params` already
    contain them.
    """
    if config.use_dora or not is_low_rank(earlier.adapters):
        which = "DoRA (--use_dora)" if config.use_dora else f"those in {earlier.path}"
        raise ValueError(
            f"new adapters are joined with those at --model_path when they are saved, and {which} cannot be "
            f"joined; run intro2llm merge --model_path {earlier.path} --output_dir MERGED, and use "
            "--model_path MERGED"
        )
    root_dtype = earlier.base.dtype if earlier.base.quantized else dtype
    if quantize:
        device = tree.leaves(params)[0].device
        root = tree.map(lambda x: x.to(device, root_dtype), earlier.params)
        base = add_frozen_adapters(quantize_layers(root), earlier.adapters, dtype)
    else:
        base = tree.cast(params, dtype)
    return Adapter(
        bind(model, base, config),
        config,
        base,
        _absolute(earlier.root),
        root_dtype,
        quantize or earlier.base.quantized,
        hash_weights(earlier.params),
        earlier.adapters,
    )


def _absolute(path: str) -> str:
    """Returns the absolute path of a model folder (a run's final_model); a name on a hub is unchanged."""
    folder = model_folder.find_final_model(path)
    return str(folder.resolve()) if folder.exists() else path
