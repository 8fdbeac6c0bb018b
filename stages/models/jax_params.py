"""Read a model's params that JAX wrote, an Orbax folder or Flax's msgpack; write them for JAX.

    FOLDER/config.json, tokenizer.json, ...    as in Hugging Face's layout
    FOLDER/params/                             an Orbax folder, or
    FOLDER/params.msgpack                      the bytes of flax.serialization

The leaves have our names ("layers/0/attention/q"); matrices are [out, in]. Params that were trained in JAX
may be saved beside these, under any name: configuration and tokenizer are looked up in the folders above.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from data_pipes import tokenizer as tokenizers
from pure import tree
from pure.config import ModelConfig
from pure.interop.hf import list_names
from pure.nn.transformer import transformer
from pure.plural import count_noun
from pure.serial import serial
from pure.serial.writer import SerialError
from pure.types import Tree
from stages.checkpoint import join, orbax, orbax_folder, state_file
from stages.models import folder as model_folder

Form = Literal["orbax", "msgpack"]
CONFIG, PARAMS, SUFFIX = "config.json", "params", ".msgpack"
NEEDED = (CONFIG, tokenizers.files.NAME)
WEIGHTS = (model_folder.WEIGHTS, model_folder.INDEX)
_CHECKPOINT = re.compile(r"checkpoint_\d+")  # flax.training.checkpoints, before it wrote with Orbax
_ABOVE = 3  # folders between an item of a CheckpointManager and the model's folder: item, step, manager
_VARIABLE = "value"  # under which flax.nnx stores the array of a variable


class Found(NamedTuple):
    """Params on disk.

    Fields:
        path: Orbax folder, or file.
        folder: folder with config.json and tokenizer.json.
    """

    path: Path
    folder: Path


def find(path: str | Path) -> Found | None:
    """Finds params that JAX wrote.

    Args:
        path: a file of Flax's msgpack (NAME.msgpack, checkpoint_7); an Orbax folder, a step's or a
            CheckpointManager's; or a folder with config.json and `params` or `params.msgpack` instead of
            Hugging Face's weights.

    Returns:
        Found, or None if there is something else at the path.

    Raises:
        FileNotFoundError: if config.json or tokenizer.json is neither beside the params nor above them.
        ValueError: if an Orbax folder was not finished, or holds several trees of which none is named params.
    """
    path = Path(path)
    if path.is_file():
        is_flax = path.suffix == SUFFIX or _CHECKPOINT.fullmatch(path.name)
        return Found(path, _find_configuration(path.parent, path)) if is_flax else None
    if (path / "final_model").is_dir() or any((path / name).is_file() for name in WEIGHTS):
        return None
    inside = path / (PARAMS + SUFFIX)
    if inside.is_file() and not (path / PARAMS).is_dir():
        return Found(inside, _find_configuration(path, inside))
    if not orbax_folder.is_orbax(path):
        return None
    item = orbax_folder.find_item(path, prefer=PARAMS)
    return Found(item, _find_configuration(item, item))


def read(found: Found, config: ModelConfig, dtype: torch.dtype | None = None) -> Tree:
    """Reads params, and checks every leaf against the configuration.

    Args:
        found: from `find`.
        config: the model's configuration.
        dtype: dtype of the params; None keeps that of the file, or the widest if there are several.

    Returns:
        Params with the structure of the model's spec.

    Edge cases: of a training state its `params` are taken, of PPO's params the policy. A tied head is ignored
    if it equals the embedding.

    Raises:
        ValueError: if the file is damaged; if a leaf is missing, unknown, of another shape or no
            floating-point tensor; it is named by its path.
    """
    try:
        leaves = dict(_leaves(_select(_read_tree(found.path)), ()))
        _check_count(leaves, config)
        spec = transformer(config).spec
        _check(leaves, spec, config)
        widest = functools.reduce(torch.promote_types, {x.dtype for x in leaves.values()})
        return tree.map_with_path(lambda path, _: leaves[path].to(dtype or widest), spec)
    except ValueError as error:
        text = str(error).removeprefix(f"{found.path}: ")
        raise model_folder.one_line_error(found.path, ValueError(text)) from None


def write(
    folder: str | Path,
    texts: Mapping[str, str],
    tokenizer: tokenizers.Tokenizer,
    trees: Mapping[str, Tree | Path],
    form: Form,
) -> Path:
    """Writes a model's folder for JAX, atomically.

    Args:
        folder: the folder to make; it must not exist.
        texts: contents of the small files, by name; config.json among them.
        tokenizer: written as tokenizer.json.
        trees: {name: tree}; "params" among them. For "msgpack" a tree may be the folder of a run, whose
            newest checkpoint is written leaf by leaf.
        form: "orbax" makes a folder of each tree, "msgpack" a file NAME.msgpack.

    Returns:
        The folder.

    Raises:
        OSError: if the disk refuses.
        SerialError: if a leaf cannot be written; it is named.
        ImportError: for "orbax", if orbax-checkpoint is not installed.
    """

    def fill(partial: Path) -> None:
        for name, values in trees.items():
            if isinstance(values, Path):
                join.to_msgpack(values, partial / f"{name}{SUFFIX}")
            elif form == "orbax":
                orbax.write(partial / name, values)
            else:
                state_file.write(partial / f"{name}{SUFFIX}", values)

    return model_folder.write_with(folder, texts, tokenizer, fill)


def as_lists(state: Any) -> Any:
    """Turns the dicts with the keys "0", "1", ... of a state dict into lists, as Orbax stores sequences.

    Example:
        >>> as_lists({"layers": {"0": {"w": 1}, "1": {"w": 2}}})
        {'layers': [{'w': 1}, {'w': 2}]}
    """
    if not isinstance(state, dict):
        return state
    children = {key: as_lists(child) for key, child in state.items()}
    is_sequence = children and list(children) == [str(i) for i in range(len(children))]
    return list(children.values()) if is_sequence else children


def _find_configuration(start: Path, params: Path) -> Path:
    """The nearest folder, from `start` upwards, with config.json and tokenizer.json."""
    start = start.absolute()
    folders = [start, *start.parents][: _ABOVE + 1]
    for folder in folders:
        if all((folder / name).is_file() for name in NEEDED):
            return folder
    nearest = next((x for x in folders if (x / CONFIG).is_file()), params.absolute().parent)
    missing = " and ".join(name for name in NEEDED if not (nearest / name).is_file())
    raise FileNotFoundError(
        f"{params}: JAX's params have no {missing} beside them; copy it from the model that was trained into "
        f"{nearest} (intro2llm export --format orbax writes both with the params)"
    )


def _read_tree(path: Path) -> Any:
    """The tree of an Orbax folder or of a msgpack file."""
    if path.is_dir():
        return orbax.read(path)
    with path.open("rb") as file:
        try:
            return serial.from_stream(None, file, path.stat().st_size)
        except SerialError as error:
            raise ValueError(f"not sound msgpack of Flax ({error}); copy it again from its source") from None


def _select(state: Any) -> Any:
    """The params in a training state, or in flax's {"params": ...}; of PPO's the policy."""
    while isinstance(state, dict) and isinstance(state.get("params"), dict):
        state = state["params"]
    return state["policy"] if isinstance(state, dict) and set(state) == {"policy", "value"} else state


def _leaves(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(path, leaf) pairs; of a variable of flax.nnx its array."""
    if isinstance(node, dict) and list(node) == [_VARIABLE] and isinstance(node[_VARIABLE], Tensor):
        node = node[_VARIABLE]
    if isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in pairs:
            yield from _leaves(child, (*keys, str(key)))
    else:
        yield "/".join(keys), node


def _check_count(leaves: Mapping[str, Any], config: ModelConfig) -> None:
    """Compares the number of layers before a model is built: a damaged config.json can ask for 10^9."""
    numbers = {path.split("/")[1] for path in leaves if path.startswith("layers/")}
    if len(numbers) != config.num_hidden_layers:
        raise ValueError(
            f"layers: {CONFIG} says num_hidden_layers {config.num_hidden_layers}, got "
            f"{count_noun(len(numbers), 'layer')}; the tree has "
            f"{list_names({path.split('/')[0] for path in leaves})}"
        )


def _check(leaves: Mapping[str, Any], spec: Tree, config: ModelConfig) -> None:
    """Refuses leaves that are missing, unknown, of another shape, or no floating-point tensors."""
    shapes = {path: tuple(part.shape) for path, part in zip(tree.paths(spec), tree.leaves(spec), strict=True)}
    unknown = set(leaves) - set(shapes)
    if config.tie_word_embeddings and "head" in unknown and "embedding" in leaves:
        if not torch.equal(torch.as_tensor(leaves["head"]), torch.as_tensor(leaves["embedding"])):
            raise ValueError(
                "head: differs from embedding, and tie_word_embeddings is true; set it to false in "
                f"{CONFIG}, or leave the head out"
            )
        unknown.remove("head")
    if missing := set(shapes) - set(leaves):
        raise ValueError(
            f"missing {list_names(missing)}; not understood {list_names(unknown)}; expected the names that "
            "intro2llm export --format orbax writes"
        )
    if unknown:
        raise ValueError(f"not understood {list_names(unknown)}; check {CONFIG}, or leave them out")
    for path, shape in shapes.items():
        leaf = leaves[path]
        dtype = str(getattr(leaf, "dtype", type(leaf).__name__)).removeprefix("torch.")
        if not isinstance(leaf, Tensor) or leaf.dtype not in model_folder.FLOATING:
            raise ValueError(f"{path}: expected float32, bfloat16, float16 or float64, got {dtype}")
        if tuple(leaf.shape) != shape:
            turned = "; matrices are [out, in]: transpose it" if tuple(leaf.shape) == shape[::-1] else ""
            raise ValueError(
                f"{path}: expected shape {list(shape)} by {CONFIG}, got {list(leaf.shape)}{turned}"
            )
