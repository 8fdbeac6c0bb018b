"""A finished model on disk, in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.

transformers loads the folder as it is, and so does every later stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from data_pipes import files
from data_pipes import tokenizer as tokenizers
from data_pipes.chat.chat import CHATML
from pure import tree
from pure.config import ModelConfig
from pure.interop import hf
from pure.nn.transformer import transformer
from pure.types import Model, Tree
from stages.models import adapter_folder, gguf, hub, special_tokens, template_files
from stages.models import folder as model_folder
from stages.models.folder import INDEX, SHARD_BYTES, WEIGHTS
from stages.models.special_tokens import GENERATION, NONE, SpecialTokens
from stages.models.template_files import Templates

CONFIG = "config.json"

TURN = ("<|im_start|>", "<|im_end|>")
"""ChatML's tokens."""


class Pretrained(NamedTuple):
    """A model with its weights and its tokenizer.

    Fields:
        model: bound to its configuration.
        params: of the model.
        tokenizer: of the same vocabulary.
        chat_template: jinja2; None is ChatML, if the tokenizer has its tokens.
        special: the model's special tokens, and the ids that end an answer.
        other_templates: (name, jinja2) pairs of further templates, such as "tool_use".
    """

    model: Model
    params: Tree
    tokenizer: tokenizers.Tokenizer
    chat_template: str | None = None
    special: SpecialTokens = NONE
    other_templates: tuple[tuple[str, str], ...] = ()


def save(folder: str | Path, pretrained: Pretrained, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes the folder, whole or not at all: an older one stays until the new one is complete.

    Args:
        folder: to make or replace.
        pretrained: float32, bfloat16 or float16 params.
        shard_bytes: of a file of weights at most; larger models are written in several, with an index.

    Returns:
        The folder, with config.json, generation_config.json, model.safetensors (or its shards),
        tokenizer.json, tokenizer_config.json, and, if the model has a template or its tokenizer ChatML's
        tokens, chat_template.jinja. What was read from a model's small files is written again.

    Raises:
        OSError: if the disk refuses; an older folder stays.
    """
    return model_folder.write(
        folder,
        small_files(pretrained),
        hf.to_weights(pretrained.params),
        pretrained.tokenizer,
        shard_bytes=shard_bytes,
    )


def small_files(pretrained: Pretrained) -> dict[str, str]:
    """Renders the small files of the folder.

    Args:
        pretrained: a model; its special tokens keep their names.

    Returns:
        {name: text}.
    """
    config, special = pretrained.model.config, pretrained.special
    added = {token.content: token.id for token in pretrained.tokenizer.spec.added_tokens}
    fields = hf.to_hf_config(config)
    dtype = str(tree.leaves(pretrained.params)[0].dtype).removeprefix("torch.")
    fields |= {"dtype": dtype, "torch_dtype": dtype}  # transformers 4 reads the second name
    if len(special.config_ends) > 1:
        fields["eos_token_id"] = list(special.config_ends)
    template = pretrained.chat_template
    if not template and has_chatml(pretrained) and not pretrained.other_templates:
        template = CHATML
    texts, field = template_files.render(Templates(template, pretrained.other_templates))
    contents = {
        CONFIG: fields,
        GENERATION: special_tokens.generation_fields(special, _ids(config), added.get(TURN[1])),
        special_tokens.TOKENIZER: {
            **special_tokens.tokenizer_fields(special, config.max_position_embeddings),
            **named_tokens(pretrained),
            "tokenizer_class": "PreTrainedTokenizerFast",
            **field,
        },
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()} | texts


def tokenizer_files(pretrained: Pretrained) -> dict[str, str]:
    """Renders the small files for a folder of adapters: all but config.json."""
    return {name: text for name, text in small_files(pretrained).items() if name != CONFIG}


def named_tokens(pretrained: Pretrained) -> dict[str, str]:
    """Returns {"bos_token": text, ...}: as the model's files name them, or else by the configuration's
    ids."""
    return special_tokens.names_of(pretrained.special, pretrained.tokenizer, _ids(pretrained.model.config))


def has_chatml(pretrained: Pretrained) -> bool:
    """Tells whether the tokenizer has ChatML's tokens."""
    return set(TURN) <= {token.content for token in pretrained.tokenizer.spec.added_tokens}


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` or transformers wrote, or a run's folder that has a `final_model`.

    Args:
        path: such a folder; one with adapters (`stages.models.adapter`), which are merged into their base; a
            GGUF file; or a name at huggingface.co, such as "HuggingFaceTB/SmolLM2-135M", which is downloaded
            once.
        dtype: of the params; None keeps that of the file (GGUF: float32). Files are mapped, and a weight is
            read when it is first used; converted weights are read one by one.

    Returns:
        Pretrained.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if the configuration is not understood, or weights or tokenizer do not fit it.
    """
    if (found := adapter_folder.find_adapters(path)) is not None:
        return _merged(found, dtype)
    if gguf.is_gguf(path):
        folder = Path(path)
        config, weights, tokenizer, special, templates = gguf.read(path, dtype or torch.float32)
    else:
        config = read_config(path)
        folder, weights = read_weights(path, dtype)
        tokenizer, special, templates = model_folder.read_tokenizer(folder, config.vocab_size)
    try:
        check_fit(tokenizer, config)
        hf.check_sizes(config, weights)
        model = transformer(config)
        params = hf.from_weights(model.spec, weights)
    except ValueError as error:
        raise model_folder.one_line_error(folder, error) from None
    return Pretrained(model, params, tokenizer, templates.default, special, templates.others)


def with_tokenizer_of(new: Pretrained, base: Pretrained) -> Pretrained:
    """Returns a model with the tokenizer, special tokens and chat templates of its base.

    Args:
        new: after training.
        base: before training; nothing is taken from one with another vocabulary.
    """
    if new.tokenizer.spec.vocab != base.tokenizer.spec.vocab:
        return new
    return new._replace(
        tokenizer=base.tokenizer,
        chat_template=base.chat_template,
        special=base.special,
        other_templates=base.other_templates,
    )


def move_to(pretrained: Pretrained, device: torch.device) -> Pretrained:
    """Moves the params to a device."""
    return pretrained._replace(params=tree.map(lambda x: x.to(device), pretrained.params))


def _merged(folder: Path, dtype: torch.dtype | None) -> Pretrained:
    """The base of adapters with them merged; tokenizer and templates are those of the adapters' folder.

    The sum is computed in the wider of both dtypes, and rounded once. Adapters over adapters are merged into
    the sum in float32.
    """
    path, folders = adapter_folder.follow_bases(folder)
    base = load(path)
    stored = tree.leaves(base.params)[0].dtype
    wanted = dtype or stored
    wide = torch.promote_types(
        torch.promote_types(stored, wanted), torch.float32 if len(folders) > 1 else wanted
    )
    base = base._replace(params=tree.cast(base.params, wide))
    for above in folders:
        base = _above(above, base, path)
    return base._replace(params=tree.cast(base.params, wanted))


def _above(folder: Path, base: Pretrained, path: str) -> Pretrained:
    """One folder of adapters merged into the model below it."""
    config, params = adapter_folder.merge_adapters(folder, base.model.config, base.params, path)
    tokenizer, special, templates = base.tokenizer, base.special, template_files.read(folder)
    if (folder / tokenizers.files.NAME).is_file():
        tokenizer, special, templates = model_folder.read_tokenizer(folder, config.vocab_size, base.special)
    try:
        check_fit(tokenizer, config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    if templates == template_files.NONE:
        templates = Templates(base.chat_template, base.other_templates)
    return Pretrained(transformer(config), params, tokenizer, templates.default, special, templates.others)


def check_fit(tokenizer: tokenizers.Tokenizer, config: ModelConfig) -> None:
    """Refuses a tokenizer with more ids than the embedding has rows.

    Raises:
        ValueError: if it has; both numbers are named.
    """
    size = tokenizers.vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the embedding {config.vocab_size} rows; they belong to different "
            "models"
        )


def read_config(path: str | Path) -> ModelConfig:
    """Reads the configuration of such a folder alone.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not understood.
    """
    if (found := adapter_folder.find_adapters(path)) is not None:
        return read_config(adapter_folder.follow_bases(found)[0])
    if gguf.is_gguf(path):
        return gguf.read_config(path)
    file = _folder(path, (CONFIG,)) / CONFIG
    fields = files.read_json(file)
    try:
        return hf.from_hf_config(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise model_folder.one_line_error(file, error) from None


def _folder(path: str | Path, names: tuple[str, ...]) -> Path:
    """The folder itself, or its final_model; these files must be there."""
    folder = model_folder.find_final_model(hub.find(path))
    for name in names:
        if not (folder / name).is_file():
            is_tokenizer = name == tokenizers.files.NAME
            legacy = tokenizers.files.explain_legacy(folder) if is_tokenizer else ""
            raise FileNotFoundError(
                legacy
                or f"{folder / name} is missing; expected a run's folder with a final_model (a run has it "
                f"once it is complete), or one with {CONFIG}, {WEIGHTS} and {tokenizers.files.NAME}"
            )
    return folder


def _ids(config: ModelConfig) -> dict[str, int | None]:
    """{"bos_token": id, ...} of a configuration."""
    return {f"{part}_token": getattr(config, f"{part}_token_id") for part in ("bos", "eos", "pad")}


def read_weights(path: str | Path, dtype: torch.dtype | None = None) -> tuple[Path, dict[str, torch.Tensor]]:
    """Returns the folder of a model, and all its tensors by Hugging Face's names: mapped, or converted to
    another dtype.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if a file is damaged.
    """
    folder = _folder(path, (CONFIG, tokenizers.files.NAME))
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and not any((folder / name).is_file() for name in (INDEX, WEIGHTS)):
        raise ValueError(
            f"{pickles[0]}: pickled weights are never read, they can run code; open the model in "
            f"transformers and call save_pretrained, which writes {WEIGHTS}"
        )
    folder = folder if (folder / INDEX).is_file() else _folder(path, (WEIGHTS,))
    weights = model_folder.read_weights(folder, dtype)
    try:
        return folder, hf.with_prefix(weights)
    except ValueError as error:
        raise model_folder.one_line_error(folder, error) from None
