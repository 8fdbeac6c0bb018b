"""Read the tensors of PEFT adapters as updates of a base; `peft_apply` merges them into it.

Shape letters: O output width, I input width, R rank, V vocabulary, D width.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pure.interop import hf
from pure.interop.peft_config import AdapterFields
from pure.interop.peft_targets import is_saved, is_targeted, rank, scale

PREFIX = "base_model.model."
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
VOCABULARY = frozenset((f"{EMBEDDING}.weight", f"{HEAD}.weight"))
TOKEN_BASE, TOKEN_ROWS = "token_adapter.base_layer", "token_adapter.trainable_tokens_delta"
ENDINGS = (
    "lora_A.default.weight", "lora_B.default.weight", "lora_B.default.bias", "lora_embedding_A.default",
    "lora_embedding_B.default", "lora_magnitude_vector.default.weight", "lora_magnitude_vector.default",
    "lora_magnitude_vector.weight",
)  # fmt: skip
"""Endings of names that hold the adapter's name or a part that PEFT omits on saving; PEFT loads them too."""


class Patch(NamedTuple):
    """A low-rank update of one matrix.

    Fields:
        module: the module's name in transformers.
        a: [R, I]; for the embedding [R, V].
        b: [O, R]; for the embedding [D, R].
        scale: factor of the update B A.
        magnitude: [O], the norm of each row (DoRA), or None.
        bias: [O], scaled and added to the module's bias, or None.
        transposed: the matrix is the embedding, stored as [V, D].
    """

    module: str
    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None
    transposed: bool = False


class Adapters(NamedTuple):
    """All updates of a folder of adapters.

    Fields:
        patches: low-rank updates.
        replaced: {name of a weight: its replacement}.
        rows: {module: (numbers of rows, their replacements [n, D])}.
        init: "", "pissa" or "olora": the initialisation, which PEFT first subtracts from the base.
    """

    patches: tuple[Patch, ...]
    replaced: Mapping[str, Tensor]
    rows: Mapping[str, tuple[tuple[int, ...], Tensor]]
    init: str = ""


def is_low_rank(adapters: Adapters) -> bool:
    """Returns True if all updates are plain products B A, so that adapters can be concatenated by rank."""
    simple = all(p.magnitude is None and p.bias is None and not p.transposed for p in adapters.patches)
    return simple and not adapters.replaced and not adapters.rows and not adapters.init


def read(fields: AdapterFields, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Adapters:
    """Reads the tensors of adapter_model.safetensors.

    Args:
        fields: of adapter_config.json.
        tensors: {name: tensor} of the file.
        base: weights of the base by their names in transformers; one without a head has a tied head.

    Returns:
        Adapters.

    Raises:
        ValueError: for a tensor that is missing, unknown, or of another shape or dtype; it is named. And for
            fields that do not fit the base.

    Steps:
        1. Remove PEFT's prefix and the adapter's name from the names.
        2. Read replaced weights.
        3. Read low-rank updates of the selected modules.
        4. Read trained rows of the embedding.
        5. Refuse other tensors.
    """
    # 1. Names.
    unread = _strip_names(tensors)
    # 2. Replaced weights.
    modules, token_rows = _targets(fields, base), _token_rows(fields, unread, base)
    if both := set(token_rows) & set(modules):
        raise ValueError(
            f"trainable_token_indices and target_modules both name {hf.list_names(both)}; that is not "
            "supported"
        )
    wrapped = dict.fromkeys(modules, "base_layer") | dict.fromkeys(token_rows, TOKEN_BASE)
    replaced = _replaced_weights(fields, unread, base, wrapped)
    # 3. Low-rank updates.
    patches = tuple(_patch(fields, module, unread, {**base, **replaced}) for module in modules)
    # 4. Rows.
    rows = {}
    for module, indices in token_rows.items():
        matrix = replaced.get(f"{module}.weight", _weight(base, module))
        if max(indices, default=0) >= matrix.shape[0]:
            raise ValueError(
                f"trainable_token_indices: expected indices below {matrix.shape[0]}, the rows of the base's "
                f"{module}, got {max(indices)}; the adapter belongs to another model"
            )
        rows[module] = indices, _take(unread, f"{module}.{TOKEN_ROWS}", (len(indices), matrix.shape[1]))
    # 5. Refuse.
    if unread:
        raise ValueError(
            f"the adapter does not fit the base: not understood: "
            f"{hf.list_names({PREFIX + x for x in unread})}; it belongs to another model"
        )
    return Adapters(patches, replaced, rows, fields.init)


def _strip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns {name without the prefix and the adapter's name: tensor}."""
    unread: dict[str, Tensor] = {}
    for name, x in tensors.items():
        short = name.removeprefix(PREFIX)
        for ending in ENDINGS:
            if short.endswith(f".{ending}"):
                new_ending = ending.replace(".default", "")
                if new_ending.startswith("lora_magnitude"):
                    new_ending = "lora_magnitude_vector"
                short = short.removesuffix(ending) + new_ending
                break
        if not name.startswith(PREFIX):
            raise ValueError(
                f"{name}: expected a name that begins with {PREFIX}; PEFT would not load it either"
            )
        if short in unread:
            raise ValueError(f"{name}: the file has the same tensor under two names")
        if not x.is_floating_point():
            raise ValueError(
                f"{name}: expected floating-point numbers, got {str(x.dtype).removeprefix('torch.')}"
            )
        unread[short] = x
    return unread


def _targets(fields: AdapterFields, base: Mapping[str, Tensor]) -> list[str]:
    """Lists the modules with an adapter."""
    tied = f"{HEAD}.weight" not in base
    matrices = [name.removesuffix(".weight") for name, x in base.items() if x.ndim == 2]
    if tied:
        matrices.append(HEAD)
    targets = [m for m in matrices if is_targeted(fields, m, linear=m not in (EMBEDDING, HEAD))]
    if fields.ensure_weight_tying and tied and {EMBEDDING, HEAD} & set(targets):
        targets = [m for m in matrices if m in targets or m in (EMBEDDING, HEAD)]
    if not targets:
        names = getattr(fields.target_modules, "source", fields.target_modules)
        names = "all-linear" if fields.all_linear else names
        raise ValueError(f"target_modules {names!r:.200} matches no matrix of the base")
    if fields.use_dora and EMBEDDING in targets:
        raise ValueError(
            "use_dora together with target_modules that name embed_tokens is not supported; merge it with "
            "PEFT"
        )
    if fields.init and (EMBEDDING in targets or (tied and HEAD in targets)):
        raise ValueError(
            f"init_lora_weights {fields.init!r} over an embedding, or over a tied head, is not supported"
        )
    return targets


def _token_rows(
    fields: AdapterFields, unread: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """Returns {module: indices of its trained rows}.

    PEFT stores the rows of a tied embedding for the head as well, or only for the embedding if both have the
    same indices.
    """
    modules = {"embed_tokens": EMBEDDING, "lm_head": HEAD}
    rows = {modules[ending]: numbers for ending, numbers in fields.token_indices.items()}
    if f"{HEAD}.weight" not in base and EMBEDDING in rows:
        if f"{HEAD}.{TOKEN_ROWS}" in unread:
            rows.setdefault(HEAD, rows[EMBEDDING])
        elif rows.get(HEAD) == rows[EMBEDDING]:
            del rows[HEAD]
    return rows


def _weight(base: Mapping[str, Tensor], module: str) -> Tensor:
    """Returns a module's matrix; that of a tied head is the embedding."""
    return base[f"{module}.weight"] if f"{module}.weight" in base else base[f"{EMBEDDING}.weight"]


def _take(unread: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Removes a tensor from `unread`, checks its shape, and returns it."""
    if name not in unread:
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        near = difflib.get_close_matches(name, [other for other in unread if kind in other], 1, 0.0)
        has = f"the file has {PREFIX}{near[0]}" if near else f"the file has no {kind}"
        raise ValueError(
            f"the adapter does not fit the base: missing: {PREFIX}{name}; {has}; it belongs to another "
            "model, or to another adapter_config.json"
        )
    if tuple(unread[name].shape) != shape:
        got = tuple(unread[name].shape)
        raise ValueError(
            f"{PREFIX}{name}: expected shape {shape}, got {got}; the adapter belongs to another base, or "
            "to another rank"
        )
    return unread.pop(name)


def _patch(
    fields: AdapterFields, module: str, unread: dict[str, Tensor], base: Mapping[str, Tensor]
) -> Patch:
    """Reads the update of one module."""
    out, into = (int(n) for n in _weight(base, module).shape)
    size, factor = rank(fields, module), scale(fields, module)
    if module == EMBEDDING:
        if fields.lora_bias:
            raise ValueError("lora_bias together with target_modules that name embed_tokens is not supported")
        a = _take(unread, f"{module}.lora_embedding_A", (size, out))
        b = _take(unread, f"{module}.lora_embedding_B", (into, size))
        return Patch(module, a, b, factor, transposed=True)
    a = _take(unread, f"{module}.lora_A.weight", (size, into))
    b = _take(unread, f"{module}.lora_B.weight", (out, size))
    if fields.init and not (size <= min(out, into) and factor > 0):
        raise ValueError(
            f"init_lora_weights {fields.init!r} needs an alpha above 0 and ranks of at most the matrices' "
            f"sizes; {module} is {out} x {into}"
        )
    bias = _take(unread, f"{module}.lora_B.bias", (out,)) if fields.lora_bias else None
    if bias is not None and f"{module}.bias" not in base:
        raise ValueError(f"lora_bias: {module} of the base has no bias to add the adapter's bias to")
    magnitude = _take(unread, f"{module}.lora_magnitude_vector", (out,)) if fields.use_dora else None
    return Patch(module, a, b, factor, magnitude, bias)


def _replaced_weights(
    fields: AdapterFields, unread: dict[str, Tensor], base: Mapping[str, Tensor], wrapped: Mapping[str, str]
) -> dict[str, Tensor]:
    """Reads weights that replace the base's: modules_to_save, trained biases, and resized embeddings.

    `wrapped` maps modules that PEFT wraps in an adapter module to their names inside it.
    """
    names = {*base, f"{HEAD}.weight"}  # a tied head may get its own weights
    name_of = {}  # name in the file -> name in the base
    for name in names:
        module, kind = name.rsplit(".", 1)
        name_of[f"{module}.{wrapped[module]}.{kind}" if module in wrapped else name] = name
    replaced = {}
    for stored in [name for name in unread if name in name_of]:
        name = name_of[stored]
        shape = tuple(base[name if name in base else f"{EMBEDDING}.weight"].shape)
        if name in VOCABULARY and unread[stored].ndim == 2:
            shape = (unread[stored].shape[0], shape[1])
        replaced[name] = _take(unread, stored, shape)
        _take_copies(unread, name, replaced[name])
    tied = f"{HEAD}.weight" not in base
    if tied and f"{EMBEDDING}.weight" in replaced and not is_saved(fields, EMBEDDING):
        replaced.setdefault(f"{HEAD}.weight", replaced[f"{EMBEDDING}.weight"])
    needed = {name for name in names if is_saved(fields, name.rsplit(".", 1)[0])}
    if fields.ensure_weight_tying and tied and needed & VOCABULARY:
        needed |= VOCABULARY
    for module, pattern in fields.modules_to_save:
        only = fields._replace(modules_to_save=((module, pattern),))
        if not any(is_saved(only, name.rsplit(".", 1)[0]) for name in needed):
            raise ValueError(f"modules_to_save: the base has no module {module!r}")
    biases = {name for name in base if name.endswith(".bias") and fields.bias != "none"}
    needed |= {name for name in biases if fields.bias == "all" or name.removesuffix(".bias") in wrapped}
    if missing := needed - set(replaced):
        raise ValueError(
            f"the adapter lacks {hf.list_names({PREFIX + name for name in missing})}, which its fields "
            "(modules_to_save, bias) require"
        )
    _check_rows(replaced, base)
    return replaced


def _take_copies(unread: dict[str, Tensor], name: str, x: Tensor) -> None:
    """Removes PEFT's copies of a resized embedding in modules_to_save: the new and the original weight."""
    module, kind = name.rsplit(".", 1)
    copy, original = f"{module}.modules_to_save.{kind}", f"{module}.original_module.{kind}"
    if copy not in unread:
        return
    if not torch.equal(_take(unread, copy, tuple(x.shape)), x):
        raise ValueError(f"{PREFIX}{copy}: differs from {PREFIX}{name}, and both are the same weight")
    if original in unread:
        _take(unread, original, tuple(unread[original].shape))


def _check_rows(replaced: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Refuses an embedding and a head of different vocabulary sizes."""
    sizes = {m: replaced.get(f"{m}.weight", _weight(base, m)).shape[0] for m in (EMBEDDING, HEAD)}
    if sizes[EMBEDDING] != sizes[HEAD]:
        raise ValueError(
            f"the adapter's embedding has {sizes[EMBEDDING]} rows and its head {sizes[HEAD]}, the base "
            f"{base[f'{EMBEDDING}.weight'].shape[0]}; they must be of one vocabulary"
        )
