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
from stages.models import (
    adapter_folder,
    checksums,
    gguf,
    hub,
    jax_params,
    special_tokens,
    template_files,
    trained_length,
)
from stages.models import folder as model_folder
from stages.models.folder import INDEX, SHARD_BYTES, WEIGHTS
from stages.models.special_tokens import GENERATION, NONE, SpecialTokens
from stages.models.template_files import Templates

CONFIG = "config.json"

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
"""Tokens that begin and end a turn in ChatML."""


class Pretrained(NamedTuple):
    """A model with its weights and its tokenizer.

    Fields:
        model: the transformer, with its configuration.
        params: the model's parameters.
        tokenizer: the model's tokenizer.
        chat_template: jinja2 source; None is ChatML, if the tokenizer has its tokens.
        special: the model's special tokens, and the ids that end an answer.
        other_templates: (name, jinja2) pairs of further templates, such as "tool_use".
        trained_length: tokens of the longest rows that the model was pretrained on; None: unknown.
    """

    model: Model
    params: Tree
    tokenizer: tokenizers.Tokenizer
    chat_template: str | None = None
    special: SpecialTokens = NONE
    other_templates: tuple[tuple[str, str], ...] = ()
    trained_length: int | None = None


def save(folder: str | Path, pretrained: Pretrained, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes the folder atomically: an older one stays until the new one is complete.

    Args:
        folder: the folder to make or replace.
        pretrained: the model, with float32, bfloat16 or float16 params.
        shard_bytes: largest size of a file of weights; larger models become several files and an index.

    Returns:
        The folder, with config.json, generation_config.json, model.safetensors (or its shards),
        tokenizer.json, tokenizer_config.json, and, if the model has a template or its tokenizer has
        ChatML's tokens, chat_template.jinja. Fields that were read from a model's small files are kept.

    Raises:
        ValueError: if the params are not those of the model, whose first weight that differs is named; if the
            tokenizer has more ids than the embedding has rows.
        OSError: if the disk refuses; an older folder stays.
    """
    check_fit(pretrained.tokenizer, pretrained.model.config)
    weights = hf.to_weights(pretrained.params)
    hf.from_weights(transformer(pretrained.model.config).spec, weights)  # else it could not be loaded
    return model_folder.write(
        folder,
        small_files(pretrained),
        weights,
        pretrained.tokenizer,
        shard_bytes=shard_bytes,
    )


def small_files(pretrained: Pretrained) -> dict[str, str]:
    """Renders the folder's JSON and template files: all but weights and tokenizer.json.

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
        GENERATION: special_tokens.generation_fields(special, _ids(config), added.get(CHATML_TOKENS[1])),
        special_tokens.TOKENIZER: {
            **special_tokens.tokenizer_fields(special, config.max_position_embeddings),
            **named_tokens(pretrained),
            **trained_length.render(pretrained.trained_length),
            "tokenizer_class": "PreTrainedTokenizerFast",
            **field,
        },
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()} | texts


def tokenizer_files(pretrained: Pretrained) -> dict[str, str]:
    """Renders the small files for a folder of adapters: all but config.json."""
    return {name: text for name, text in small_files(pretrained).items() if name != CONFIG}


def named_tokens(pretrained: Pretrained) -> dict[str, str]:
    """Returns {"bos_token": text, ...} by the model's files, or else by the configuration's ids."""
    return special_tokens.names_of(pretrained.special, pretrained.tokenizer, _ids(pretrained.model.config))


def has_chatml(pretrained: Pretrained) -> bool:
    """Tells whether the tokenizer has ChatML's tokens."""
    return set(CHATML_TOKENS) <= {token.content for token in pretrained.tokenizer.spec.added_tokens}


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` or transformers wrote, or a run's folder that has a `final_model`.

    Args:
        path: a model's folder; a folder of adapters (`stages.models.adapter`), which are merged into their
            base; a GGUF file; params that JAX wrote (`stages.models.jax_params`); or a name at
            huggingface.co, such as "HuggingFaceTB/SmolLM2-135M", which is downloaded once.
        dtype: dtype of the params; None keeps that of the file (GGUF: float32). Files are memory-mapped: a
            weight is read when it is first used; converted weights are read one by one.

    Returns:
        Pretrained.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if the configuration is not understood, or weights or tokenizer do not fit it.
    """
    if (adapters := adapter_folder.find_adapters(path)) is not None:
        return _load_merged(adapters, dtype)
    if (found := jax_params.find(path)) is not None:
        return _load_from_jax(found, dtype)
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
    return assemble(folder, model, params, tokenizer, special, templates)


def assemble(
    folder: Path,
    model: Model,
    params: Tree,
    tokenizer: tokenizers.Tokenizer,
    special: SpecialTokens,
    templates: Templates,
) -> Pretrained:
    """Returns the parts of a model as one, with the length of its training rows.

    Args:
        folder: of the model, for the message.
        model, params, tokenizer, special: of the model.
        templates: its chat templates.

    Raises:
        ValueError: if tokenizer_config.json gives an impossible length of the training rows.
    """
    try:
        length = trained_length.read(special, model.config.max_position_embeddings)
    except ValueError as error:
        raise model_folder.one_line_error(folder, error) from None
    return Pretrained(model, params, tokenizer, templates.default, special, templates.others, length)


def save_for_jax(
    folder: str | Path, pretrained: Pretrained, form: jax_params.Form, state: Tree | Path = None
) -> Path:
    """Writes a folder with the params as JAX users read them, beside configuration and tokenizer.

    Args:
        folder: the folder to make; it must not exist.
        pretrained: the model.
        form: "orbax": FOLDER/params is an Orbax folder; "msgpack": FOLDER/params.msgpack has the bytes of
            `flax.serialization.to_bytes`.
        state: a further tree, written as `state`; None writes none. For "msgpack" it may be the folder of a
            run, whose newest checkpoint is written leaf by leaf.

    Returns:
        The folder, which `load` reads.

    Raises:
        ValueError: if the tokenizer has more ids than the embedding has rows.
        OSError, SerialError, ImportError: as `jax_params.write`.
    """
    check_fit(pretrained.tokenizer, pretrained.model.config)
    trees = {jax_params.PARAMS: pretrained.params} | ({} if state is None else {"state": state})
    return jax_params.write(folder, small_files(pretrained), pretrained.tokenizer, trees, form)


def with_tokenizer_of(new: Pretrained, base: Pretrained) -> Pretrained:
    """Returns a model with the tokenizer, special tokens and chat templates of its base.

    Args:
        new: the model after training.
        base: the model before training; if its vocabulary is another one, `new` is returned as it is.
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


def _load_from_jax(found: jax_params.Found, dtype: torch.dtype | None) -> Pretrained:
    """Loads params that JAX wrote; configuration, tokenizer and templates stand beside or above them."""
    config = read_config(found.folder)
    tokenizer, special, templates = model_folder.read_tokenizer(found.folder, config.vocab_size)
    try:
        check_fit(tokenizer, config)
    except ValueError as error:
        raise model_folder.one_line_error(found.folder, error) from None
    params = jax_params.read(found, config, dtype)
    return assemble(found.folder, transformer(config), params, tokenizer, special, templates)


def _load_merged(folder: Path, dtype: torch.dtype | None) -> Pretrained:
    """Loads the base of adapters and merges them; tokenizer and templates are those of the adapters' folder.

    The sum is computed in the wider of the base's dtype and `dtype`, and rounded once; with several folders
    of adapters it is computed in float32 at least.
    """
    path, folders = adapter_folder.follow_bases(folder)
    base = load(path)
    stored = tree.leaves(base.params)[0].dtype
    result_dtype = dtype or stored
    sum_dtype = torch.promote_types(stored, result_dtype)
    if len(folders) > 1:
        sum_dtype = torch.promote_types(sum_dtype, torch.float32)
    base = base._replace(params=tree.cast(base.params, sum_dtype))
    for adapters in folders:
        base = _merge_into(adapters, base, path)
    return base._replace(params=tree.cast(base.params, result_dtype))


def _merge_into(folder: Path, base: Pretrained, path: str) -> Pretrained:
    """Merges one folder of adapters into the model that they were trained on."""
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
    return assemble(folder, transformer(config), params, tokenizer, special, templates)


def check_fit(tokenizer: tokenizers.Tokenizer, config: ModelConfig) -> None:
    """Refuses a tokenizer with more ids than the embedding has rows.

    Raises:
        ValueError: if it has more; the message names both numbers.
    """
    size = tokenizers.vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the embedding {config.vocab_size} rows; they belong to different "
            "models"
        )


def read_config(path: str | Path) -> ModelConfig:
    """Reads only the configuration of a model, from any path that `load` takes.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not understood.
    """
    if (adapters := adapter_folder.find_adapters(path)) is not None:
        return read_config(adapter_folder.follow_bases(adapters)[0])
    if gguf.is_gguf(path):
        return gguf.read_config(path)
    found = None if (Path(path) / CONFIG).is_file() else jax_params.find(path)
    file = _folder(found.folder if found else path, (CONFIG,)) / CONFIG
    fields = files.read_json(file)
    try:
        return hf.from_hf_config(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise model_folder.one_line_error(file, error) from None


def _folder(path: str | Path, names: tuple[str, ...]) -> Path:
    """The folder itself, or its final_model; raises unless it has these files."""
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
    """Returns the folder of a model and its tensors by Hugging Face's names, memory-mapped or converted.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if a file is damaged, or differs from its sha256 in SHA256SUMS.
    """
    folder = _folder(path, (CONFIG, tokenizers.files.NAME))
    checksums.verify(folder)
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
