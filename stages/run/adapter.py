"""Adapters of a run: made from its flags, and written and read in PEFT's format.

The folder holds adapter_config.json, adapter_model.safetensors and the tokenizer, and beside them `base.json`: which
base it was, how it was stored, and a digest, so that adapters are never put upon another base unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pure import tree
from pure.adapt.attach import whole
from pure.adapt.lora import adapter_spec, bind, merge
from pure.adapt.lora_config import LoRAConfig, lora_config, sites
from pure.adapt.nf4 import nf4_bytes
from pure.adapt.qlora import quantize_layers
from pure.interop import peft
from pure.types import Model, Tree
from stages.run import json_file, model_folder
from stages.run.hardware import DTYPES
from stages.tuning_options import TuningOptions

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
SAMPLE = 64
"""Numbers of each weight that the digest looks at."""


class Adapter(NamedTuple):
    """What a run with adapters needs besides them.

    Fields:
        model: whose params are adapters.
        config: where they stand.
        base: the frozen params, perhaps with NF4 nodes.
        path: of the base model.
        dtype: of the products.
        quantized: the base is stored in four bits a number.
        digest: of the base before that.
    """

    model: Model
    config: LoRAConfig
    base: Tree
    path: str
    dtype: torch.dtype
    quantized: bool
    digest: str


def asked(options: TuningOptions) -> LoRAConfig | None:
    """Reads the flags: the preset, and what overrules it; None if no adapters are asked for.

    Raises:
        ValueError: if adapters are described, but neither --lora nor --qlora is given.
    """
    changes: dict[str, Any] = {
        "rank": options.lora_rank, "alpha": options.lora_alpha, "targets": options.lora_targets or None,
        "dropout": options.lora_dropout, "use_rslora": options.use_rslora or None, "use_dora": options.use_dora or None,
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.lora is None and not options.qlora:
        if changes:
            raise ValueError(f"flags of adapters ({', '.join(changes)}) need --lora balanced or --qlora; give one")
        return None
    return lora_config(options.lora or "balanced", **changes)


def build(options: TuningOptions, model: Model, params: Tree, dtype: torch.dtype) -> Adapter | None:
    """Makes the adapted model that the flags ask for.

    Args:
        options: the flags.
        model: the base's.
        params: the base's, float32.
        dtype: of the products, and so of the frozen base.

    Returns:
        Adapter, or None if no adapters are asked for.

    Raises:
        ValueError: if the flags do not fit the base.
    """
    config = asked(options)
    if config is None:
        return None
    frozen = tree.cast(params, dtype)
    base = quantize_layers(frozen) if options.qlora else frozen
    return Adapter(bind(model, base, config), config, base, _whole_path(options.model_path), dtype, options.qlora,
                   digest(params))  # fmt: skip


def told(adapter: Adapter, params: Tree) -> str:
    """One line: how many numbers are trained, of how many, and what the base takes."""
    few = tree.count(params)
    every = sum(site.shape[0] * site.shape[1] for site in sites(adapter.base, LoRAConfig()).values())
    took, wide = nf4_bytes(adapter.base)
    line = f"adapters: {few:,} numbers to train, {few / every:.2%} of the {every:,} in the layers' matrices"
    return line + (f"; these take {took / 1e6:.1f} MB in four bits, {took / wide:.2f} of bfloat16" if took else "")


def save(folder: str | Path, adapter: Adapter, params: Tree, tokenizer: Any, texts: Mapping[str, str]) -> Path:
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
    beside = {"path": adapter.path, "dtype": str(adapter.dtype).removeprefix("torch."),
              "quantized": adapter.quantized, "digest": adapter.digest}  # fmt: skip
    files = {**texts, CONFIG: json.dumps(fields, indent=2) + "\n", BASE: json.dumps(beside, indent=2) + "\n"}
    return model_folder.write(folder, files, peft.to_weights(params), tokenizer, name=WEIGHTS)


def base_path(folder: Path) -> str:
    """Returns the path or name of the base that a folder's adapters belong to.

    Raises:
        ValueError: if the file does not say.
        FileNotFoundError: if it names a path at which there is nothing.
    """
    path = json_file.read(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(path, str) or not path:
        raise ValueError(f"{folder / CONFIG}: base_model_name_or_path is missing; write the base's path or name there")
    if path.startswith(("/", ".")) and not Path(path).exists():
        raise FileNotFoundError(
            f"{path} is missing, the base of the adapters in {folder}; put it back, or write its new path into {CONFIG}"
        )
    return path


def merged(folder: Path, base: Tree, path: str) -> Tree:
    """Works the adapters of a folder into their base: the quantised one, if they were trained on that.

    Args:
        folder: with adapter_config.json.
        base: the params that they belong to.
        path: where these came from, for messages.

    Returns:
        Params of the base's structure and dtype.

    Raises:
        ValueError: if a file is damaged, asks for what is not here, or belongs to another base.
        FileNotFoundError: if a file is missing.
    """
    fields, known = json_file.read(folder / CONFIG), {}
    if (folder / BASE).is_file():
        known = json_file.read(folder / BASE)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS} is missing; a folder with {CONFIG} has the adapters beside it")
    if known.get("digest") not in (None, digest(base)):
        raise ValueError(
            f"{folder}: the adapters were trained on {known.get('path')}, and {path} has other weights now; put the "
            "base back that they belong to"
        )
    try:
        config = peft.from_config(fields, base)
        adapters = peft.from_weights(adapter_spec(base, config), model_folder.weights(folder, name=WEIGHTS))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder}: {error}") from None
    if known.get("quantized"):
        seen = quantize_layers(tree.cast(base, dict(DTYPES)[known["dtype"]]))
        return tree.cast(merge(tree.cast(whole(seen), torch.float32), adapters, config), tree.leaves(base)[0].dtype)
    return merge(base, adapters, config)


def _whole_path(path: str) -> str:
    """The base's folder as others can load it: whole, and the final_model of a run; a hub's name stays."""
    folder = model_folder.final(path)
    return str(folder.resolve()) if folder.exists() else path


def without(adapter: Adapter | None, scored: Any) -> Any:
    """A reward model whose params {"model": adapters, "score"} are made whole; without adapters it is as it was."""
    if adapter is None:
        return scored
    base = tree.cast(whole(adapter.base), torch.float32)
    return scored._replace(params={**scored.params, "model": merge(base, scored.params["model"], adapter.config)})


def digest(params: Tree) -> str:
    """Tells params apart by the shape, and a few numbers, of every weight."""
    found = hashlib.sha256()
    for path, x in zip(tree.paths(params), tree.leaves(params), strict=True):
        flat = x.detach().flatten()
        few = flat[:: max(1, flat.numel() // SAMPLE)][: SAMPLE + 1].float().cpu()
        found.update(f"{path} {tuple(x.shape)} {[round(float(v), 5) for v in few.to(torch.bfloat16)]}".encode())
    return found.hexdigest()
