"""A finished model on disk, in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.

transformers loads the folder as it is, and so does every later stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from data_pipes import tokenizer as tokenizers
from data_pipes.chat import CHATML
from pure import tree
from pure.config import ModelConfig
from pure.interop import hf
from pure.nn.transformer import transformer
from pure.types import Model, Tree
from stages.run import adapter, gguf_file, hub_model, json_file, model_folder
from stages.run.model_folder import INDEX, SHARD_BYTES, WEIGHTS

CONFIG = "config.json"

TEMPLATE = "chat_template.jinja"
TURN = ("<|im_start|>", "<|im_end|>")
"""ChatML's tokens."""


class Pretrained(NamedTuple):
    """A model, its weights, and the tokenizer that both were made with.

    Fields:
        model: bound to its configuration.
        params: of the model.
        tokenizer: whose ids they know.
        chat_template: jinja2; None is ChatML, if the tokenizer has its tokens.
    """

    model: Model
    params: Tree
    tokenizer: tokenizers.Tokenizer
    chat_template: str | None = None


def save(folder: str | Path, pretrained: Pretrained, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes the folder, whole or not at all: an older one stays until the new one is complete.

    Args:
        folder: is made or replaced.
        pretrained: float32, bfloat16 or float16 params.
        shard_bytes: of a file of weights at most; larger models are written in several, with an index.

    Returns:
        The folder, with config.json, generation_config.json, model.safetensors (or its shards), tokenizer.json,
        tokenizer_config.json, and, if the tokenizer has ChatML's tokens, chat_template.jinja.

    Raises:
        OSError: if the disk refuses; an older folder stays.
    """
    return model_folder.write(folder, texts(pretrained), hf.to_weights(pretrained.params), pretrained.tokenizer,
                              shard_bytes=shard_bytes)  # fmt: skip


def texts(pretrained: Pretrained) -> dict[str, str]:
    """The small files of the folder, by name."""
    config, tokenizer = pretrained.model.config, pretrained.tokenizer
    fields = hf.to_hf_config(config)
    dtype = str(tree.leaves(pretrained.params)[0].dtype).removeprefix("torch.")
    fields |= {"dtype": dtype, "torch_dtype": dtype}  # by its new name, and by the one that transformers 4 reads
    special = tokenizers.special_tokens(tokenizer)
    names = {number: name for name, number in special.items()}
    ids = {part: getattr(config, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    found = {
        CONFIG: fields,
        "generation_config.json": {f"{part}_token_id": i for part, i in ids.items() if i is not None}
        | _ends(special, ids),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            **{f"{part}_token": names[i] for part, i in ids.items() if i in names},
        },
    }
    written = {name: json.dumps(content, indent=2) + "\n" for name, content in found.items()}
    template = pretrained.chat_template or (CHATML if set(TURN) <= set(special) else None)
    return written | ({TEMPLATE: template} if template else {})


def beside(pretrained: Pretrained) -> dict[str, str]:
    """The small files that stand beside adapters: those of the tokenizer, and the chat template."""
    return {name: text for name, text in texts(pretrained).items() if name in ("tokenizer_config.json", TEMPLATE)}


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` or transformers wrote, or a run's folder that has a `final_model`.

    Args:
        path: such a folder; one with adapters (`stages.run.adapter`), which are worked into their base; a GGUF file; or
            a name at huggingface.co, such as "HuggingFaceTB/SmolLM2-135M", which is downloaded once.
        dtype: of the params; None keeps that of the file (GGUF: float32). Files are mapped, and read where a weight is
            first used; converted weights are read one by one.

    Returns:
        Pretrained.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if the configuration is not understood, or weights or tokenizer do not fit it.
    """
    if (found := adapted(path)) is not None:
        return _merged(found, dtype)
    if gguf_file.is_gguf(path):
        config, weights, tokenizer, template = gguf_file.read(path, dtype or torch.float32)
        folder = Path(path)
    else:
        config = read_config(path)
        folder, weights = weights_of(path, dtype)
        tokenizer, template = tokenizers.load(folder), template_of(folder)
    try:
        check_fit(tokenizer, config)
        hf.check_sizes(config, weights)
        model = transformer(config)
        params = hf.from_weights(model.spec, weights)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return Pretrained(model, params, tokenizer, template)


def placed(pretrained: Pretrained, device: torch.device) -> Pretrained:
    """The same with its params on a device."""
    return pretrained._replace(params=tree.map(lambda x: x.to(device), pretrained.params))


def adapted(path: str | Path) -> Path | None:
    """The folder, or its final_model, if it holds adapters."""
    folder = model_folder.final(path)
    return folder if (folder / adapter.CONFIG).is_file() else None


def _merged(folder: Path, dtype: torch.dtype | None) -> Pretrained:
    """The base that the adapters name, with them worked in; tokenizer and template are those beside the adapters."""
    path = adapter.base_path(folder)
    base = load(path, dtype=dtype)
    params = adapter.merged(folder, base.params, path)
    has = (folder / tokenizers.files.NAME).is_file()
    tokenizer = tokenizers.load(folder) if has else base.tokenizer
    return Pretrained(base.model, params, tokenizer, template_of(folder) or base.chat_template)


def check_fit(tokenizer: tokenizers.Tokenizer, config: ModelConfig) -> None:
    """Refuses a tokenizer with more ids than the embedding has rows.

    Raises:
        ValueError: in that case.
    """
    size = tokenizers.vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the embedding {config.vocab_size} rows; they belong to different models"
        )


def read_config(path: str | Path) -> ModelConfig:
    """Reads the configuration of such a folder alone.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not understood.
    """
    if (found := adapted(path)) is not None:
        return read_config(adapter.base_path(found))
    if gguf_file.is_gguf(path):
        return gguf_file.read_config(path)
    file = _folder(path, (CONFIG,)) / CONFIG
    fields = json_file.read(file)
    try:
        return hf.from_hf_config(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: {error}") from None


def _folder(path: str | Path, names: tuple[str, ...]) -> Path:
    """The folder itself, or its final_model; these files must be there."""
    folder = model_folder.final(hub_model.find(path))
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; expected a run's folder with a final_model (a run has it once it is "
                f"complete), or one with {CONFIG}, {WEIGHTS} and {tokenizers.files.NAME}"
            )
    return folder


def template_of(folder: Path) -> str | None:
    """The chat template that came with a model, in a file of its own or in tokenizer_config.json."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = json_file.read(config).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None


def _ends(special: dict[str, int], ids: dict[str, int | None]) -> dict[str, list[int]]:
    """Where generation stops: behind a document, and behind a turn of a chat."""
    ends = [i for i in (ids["eos"], special.get(TURN[1])) if i is not None]
    return {"eos_token_id": ends} if len(ends) > 1 else {}


def weights_of(path: str | Path, dtype: torch.dtype | None = None) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a model, and all its tensors by Hugging Face's names: mapped, or, in another dtype, converted.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if a file is damaged.
    """
    folder = _folder(path, (CONFIG, tokenizers.files.NAME))
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and not any((folder / name).is_file() for name in (INDEX, WEIGHTS)):
        raise ValueError(
            f"{pickles[0]}: pickled weights are never read, they can run code; open the model in transformers and call "
            f"save_pretrained, which writes {WEIGHTS}"
        )
    folder = folder if (folder / INDEX).is_file() else _folder(path, (WEIGHTS,))
    weights = model_folder.weights(folder, dtype)
    try:
        return folder, hf.with_prefix(weights)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
