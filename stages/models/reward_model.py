"""Save and load a reward model: a language model's folder whose head gives one score per token.

The layout is that of transformers' classes for sequence classification with one label, which load it as it
is.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pure import tree
from pure.interop import hf
from pure.nn.scalar import scalar_model, without_head
from pure.nn.transformer import transformer
from stages.models import folder as model_folder
from stages.models import language_model
from stages.models.language_model import CONFIG, Pretrained


def save(folder: str | Path, scored: Pretrained) -> Path:
    """Writes the folder atomically.

    Args:
        folder: the folder to make or replace.
        scored: the reward model; its params are the scalar model's, {"model", "score"}.

    Returns:
        The folder.

    Raises:
        OSError: if the disk refuses; an older folder stays.
    """
    files = language_model.small_files(scored)
    fields = json.loads(files[CONFIG])
    names = [
        name.replace("ForCausalLM", "ForSequenceClassification") for name in fields.get("architectures", [])
    ]
    fields |= {"architectures": names, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    files[CONFIG] = json.dumps(fields, indent=2) + "\n"
    weights = {**hf.to_weights(scored.params["model"]), hf.SCORE: scored.params["score"]}
    return model_folder.write(folder, files, weights, scored.tokenizer)


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` wrote, or a run's folder that has it as its final_model.

    Args:
        path: the folder.
        dtype: dtype of the params; None keeps that of the file.

    Returns:
        Pretrained, with the scalar model's params.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if it is not a reward model, or the weights do not fit the configuration.
    """
    config = language_model.read_config(path)
    folder, weights = language_model.read_weights(path)
    if hf.SCORE not in weights:
        raise ValueError(
            f"{folder}: a language model, expected a reward model, which has {hf.SCORE}; train one with "
            "intro2llm reward"
        )
    try:
        hf.check_sizes(config, weights)
    except ValueError as error:
        raise model_folder.one_line_error(folder, error) from None
    model = transformer(config)
    spec = scalar_model(model).spec
    score = weights.pop(hf.SCORE)
    if tuple(score.shape) != spec["score"].shape:
        raise ValueError(
            f"{folder}: {hf.SCORE} must be {list(spec['score'].shape)}, got {list(score.shape)}: one number "
            "for each token"
        )
    try:
        params = {"model": hf.from_weights(without_head(model.spec), weights), "score": score}
    except ValueError as error:
        raise model_folder.one_line_error(folder, error) from None
    params = tree.cast(params, dtype) if dtype else params
    tokenizer, special, templates = model_folder.read_tokenizer(folder, config.vocab_size)
    return language_model.assemble(folder, model, params, tokenizer, special, templates)
