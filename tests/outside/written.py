"""Folders of small random models, written by transformers and tokenizers."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEXT = (
    "What is it? It is a small text, and 12 + 34 = 46.\nBe brief. system user assistant model\n",
    "def add(a, b): ",
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "tie_word_embeddings": False,
}  # fmt: skip
ROWS = 352
"""Rows of every embedding, more than the tokenizers have ids."""

LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|pad|>",
)


@functools.cache
def tokenizer_json(tokens: Sequence[str], before: Sequence[str] = (), after: Sequence[str] = ()) -> str:
    """A byte-level BPE with these control tokens, and what its post_processor puts around a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    level = processors.ByteLevel(trim_offsets=False)
    if before or after:
        around = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, "$B"],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *after}],
        )
        tokenizer.post_processor = processors.Sequence([level, around])
    else:
        tokenizer.post_processor = level
    return tokenizer.to_str()


def silence_transformers() -> None:
    """Turn off warnings, log messages and progress bars of transformers."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()


def model(
    folder: Path,
    tokens: Sequence[str] = LLAMA3,
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    kind: str = "llama",
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
    **named: Any,
) -> Path:
    """Write the folder of a small random model.

    Args:
        folder: is created.
        tokens: control tokens, ids from 0 on.
        before, after: tokens that the post-processor puts around a text.
        kind: "llama" or "qwen3".
        config: fields of config.json to change; in the file itself, so that they may be wrong.
        generation: fields of generation_config.json; None writes none.
        files: further files by name: texts, or JSON objects. tokenizer_config.json replaces transformers'
            own.
        named: bos_token=..., chat_template=... of PreTrainedTokenizerFast.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer

    with warnings.catch_warnings():
        silence_transformers()
        text = tokenizer_json(tuple(tokens), tuple(before), tuple(after))
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **named)
        fast.save_pretrained(folder)
        classes = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}
        head = {"head_dim": 8} if kind == "qwen3" else {}
        shape = classes[kind](vocab_size=ROWS, bos_token_id=0, eos_token_id=1, **SIZES, **head)
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(shape)
        network.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if config is not None:
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**fields, **config}))
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a folder."""
    import transformers

    with warnings.catch_warnings():
        silence_transformers()
        return transformers.AutoTokenizer.from_pretrained(folder)


def greedy(folder: Path, prompt: str, count: int = 12) -> str:
    """Greedy continuation of a prompt by transformers.

    Ids without a token are suppressed, as our generation never samples them.
    """
    import transformers

    with warnings.catch_warnings():
        silence_transformers()
        network = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(prompt, return_tensors="pt")
        beyond = list(range(len(tokenizer), network.config.vocab_size)) or None
        found = network.generate(
            **inputs, max_new_tokens=count, do_sample=False, pad_token_id=0, suppress_tokens=beyond
        )
    return tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
