"""Adapters of a run: made from its flags, and written in PEFT's format (`adapter_folder` reads it).

Adapters over adapters (SFT, then DPO, both with --lora) are joined when they are written: one adapter whose
rank is the sum of both, over the whole model at the bottom. So the folder means the same in PEFT, which knows
one base and one adapter, as here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pure import tree
from pure.adapt.attach import whole
from pure.adapt.lora import bind, merge
from pure.adapt.lora_config import LoRAConfig, lora_config, sites
from pure.adapt.qlora import quantize_layers
from pure.interop import hf, peft
from pure.interop.peft_weights import Adapters, plain
from pure.nn.linear import LoRA
from pure.nn.nf4 import nf4_bytes
from pure.types import Model, Tree
from stages.models import folder as model_folder
from stages.models.adapter_folder import BASE, CONFIG, WEIGHTS
from stages.models.gguf import is_gguf
from stages.models.identity import hash_weights
from stages.models.initial_adapters import InitialAdapters
from stages.run.options.tuning import TuningOptions


class Adapter(NamedTuple):
    """What a run with adapters needs besides them.

    Fields:
        model: whose params are adapters.
        config: where they stand.
        base: the frozen params, perhaps with NF4 nodes.
        path: of the base model; of adapters over adapters, the whole model at the bottom.
        dtype: of the frozen base.
        quantized: the base is stored in four bits a number.
        digest: of the base before that.
        earlier: adapters that the run started from, to be joined with its own.
    """

    model: Model
    config: LoRAConfig
    base: Tree
    path: str
    dtype: torch.dtype
    quantized: bool
    digest: str
    earlier: Adapters | None = None


def asked(options: TuningOptions) -> LoRAConfig | None:
    """Reads the flags: the preset, and what overrules it; None if no adapters are asked for.

    Raises:
        ValueError: if adapters are described, but neither --lora nor --qlora is given.
    """
    targets = peft.own_targets(options.lora_targets) or None
    changes: dict[str, Any] = {
        "rank": options.lora_rank,
        "alpha": options.lora_alpha,
        "targets": targets,
        "dropout": options.lora_dropout,
        "use_rslora": options.use_rslora or None,
        "use_dora": options.use_dora or None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.lora is None and not options.qlora:
        if changes:
            raise ValueError(
                f"flags of adapters ({', '.join(changes)}) need --lora balanced or --qlora; give one"
            )
        return None
    return lora_config(options.lora or "balanced", **changes)


def build(
    options: TuningOptions,
    model: Model,
    params: Tree,
    dtype: torch.dtype,
    params_digest: str,
    earlier: InitialAdapters | None = None,
) -> Adapter | None:
    """Makes the adapted model that the flags ask for.

    Args:
        options: the flags.
        model: the base's.
        params: the base's, float32; adapters that the run starts from are merged into them.
        dtype: of the products, and so of the frozen base.
        params_digest: `stages.models.identity.hash_weights` of the params.
        earlier: those adapters, if the run's own are to be joined with them.

    Returns:
        Adapter, or None if no adapters are asked for.

    Raises:
        ValueError: if the flags do not fit the base, or the run's adapters cannot be joined with the earlier
            ones.
    """
    config = asked(options)
    if config is None:
        return None
    if earlier is not None:
        return _above(options, model, params, dtype, config, earlier)
    frozen = tree.cast(params, dtype)
    base = quantize_layers(frozen) if options.qlora else frozen
    return Adapter(
        bind(model, base, config),
        config,
        base,
        _whole_path(options.model_path),
        dtype,
        options.qlora,
        params_digest,
    )


def _above(
    options: TuningOptions,
    model: Model,
    params: Tree,
    dtype: torch.dtype,
    config: LoRAConfig,
    earlier: InitialAdapters,
) -> Adapter:
    """Adapters over adapters: beside the earlier ones where the base is quantised now, else over the merged
    base."""
    if config.use_dora or not plain(earlier.adapters):
        which = "--use_dora" if config.use_dora else f"the adapters in {earlier.path}"
        raise ValueError(
            f"adapters over adapters are saved as one, and {which} cannot be joined with others; run intro2llm merge "
            f"--model_path {earlier.path} --output_dir MERGED, and take --model_path MERGED"
        )
    known = hash_weights(earlier.params)
    root = _whole_path(earlier.root)
    if not options.qlora:
        base, stored = tree.cast(params, dtype), earlier.base.dtype if earlier.base.quantized else dtype
        quantized = earlier.base.quantized
    else:
        stored, quantized = earlier.base.dtype if earlier.base.quantized else dtype, True
        below = tree.map(lambda x: x.to(tree.leaves(params)[0].device, stored), earlier.params)
        base = with_patches(quantize_layers(below), earlier.adapters, dtype)
    return Adapter(bind(model, base, config), config, base, root, stored, quantized, known, earlier.adapters)


def with_patches(base: Tree, adapters: Adapters, dtype: torch.dtype) -> Tree:
    """Puts earlier adapters beside their matrices, frozen: as nodes, since the base is quantised.

    Args:
        base: params.
        adapters: low-rank changes alone.
        dtype: of their matrices.
    """
    found = {patch.module: patch for patch in adapters.patches}

    def put(path: str, leaf: Tree) -> Tree:
        patch = found.get(hf.weight_name(path).removesuffix(".weight"))
        if patch is None or path.endswith("_bias"):
            return leaf
        device = tree.leaves(base)[0].device
        return LoRA(leaf, patch.a.to(device, dtype), (patch.scale * patch.b.float()).to(device, dtype))

    return _walk(put, base)


def _walk(put: Callable[[str, Tree], Tree], node: Tree, path: str = "") -> Tree:
    """The tree with `put(path, leaf)` for its tensors and the nodes in their place."""
    if isinstance(node, dict):
        return {name: _walk(put, x, f"{path}/{name}" if path else name) for name, x in node.items()}
    return (
        [_walk(put, x, f"{path}/{i}") for i, x in enumerate(node)]
        if isinstance(node, list)
        else put(path, node)
    )


def told(adapter: Adapter, params: Tree) -> str:
    """One line: how many numbers are trained, of how many, and what the base takes."""
    few = tree.count(params)
    every = sum(site.shape[0] * site.shape[1] for site in sites(adapter.base, LoRAConfig()).values())
    took, wide = nf4_bytes(adapter.base)
    line = f"adapters: {few:,} numbers to train, {few / every:.2%} of the {every:,} in the layers' matrices"
    if is_gguf(adapter.path):
        line += (
            "; PEFT loads no GGUF file as their base: for PEFT, run intro2llm import first and train on that"
        )
    return line + (
        f"; these take {took / 1e6:.1f} MB in four bits, {took / wide:.2f} of bfloat16" if took else ""
    )


def save(
    folder: str | Path, adapter: Adapter, params: Tree, tokenizer: Any, texts: Mapping[str, str]
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
    fields, tensors = (
        peft.to_config(adapter.config, adapter.base, base_name=adapter.path),
        peft.to_weights(params),
    )
    if adapter.earlier is not None:
        own = tree.map(lambda x: x.detach().cpu(), params)  # the earlier ones were read there
        both = peft.join(adapter.earlier, peft.to_adapters(own, adapter.config, adapter.base))
        fields = peft.joined_config(
            both, base_name=adapter.path, dropout=adapter.config.dropout, layers=len(adapter.base["layers"])
        )
        tensors = peft.joined_weights(both)
    beside = {
        "path": adapter.path,
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "quantized": adapter.quantized,
        "digest": adapter.digest,
    }
    files = {**texts, CONFIG: json.dumps(fields, indent=2) + "\n", BASE: json.dumps(beside, indent=2) + "\n"}
    return model_folder.write(folder, files, tensors, tokenizer, name=WEIGHTS)


def _whole_path(path: str) -> str:
    """The base's folder as others can load it: whole, and the final_model of a run; a hub's name stays."""
    folder = model_folder.find_final_model(path)
    return str(folder.resolve()) if folder.exists() else path


def without(adapter: Adapter | None, scored: Any) -> Any:
    """A reward model whose params {"model": adapters, "score"} are made whole; without adapters it is as it
    was."""
    if adapter is None:
        return scored
    base = tree.cast(whole(adapter.base), torch.float32)
    return scored._replace(
        params={**scored.params, "model": merge(base, scored.params["model"], adapter.config)}
    )
