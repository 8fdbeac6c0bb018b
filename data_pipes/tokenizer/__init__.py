"""BPE tokenizers: train, encode, decode, save and load, in Hugging Face's tokenizer.json.

Reading order: `bpe` (the algorithm, on characters), `byte_level` (on bytes), `split` (words), `spec` (the
description of a tokenizer); `trainer`, `merge`, `tables`, `added` and `encoder` (the same, fast); `step`,
`pieces`, `normalizer`, `normal_form`, `pre_tokenizer`, `decoder` and `stream` (steps of other tokenizers);
the file formats `json_steps`, `json_writer`, `json_reader`, `added_tokens_decoder`, `tiktoken_ranks`,
`gguf_vocabulary`, `gguf_sentencepiece` and `files`.
"""

from data_pipes.tokenizer.encoder import add_special_tokens, from_spec
from data_pipes.tokenizer.files import load, load_tiktoken, save
from data_pipes.tokenizer.json_reader import from_json
from data_pipes.tokenizer.json_writer import fingerprint, to_json
from data_pipes.tokenizer.spec import (
    AddedToken,
    Tokenizer,
    TokenizerSpec,
    special_id,
    special_tokens,
    vocabulary_size,
)
from data_pipes.tokenizer.stream import Stream, stream
from data_pipes.tokenizer.tiktoken_ranks import from_tiktoken
from data_pipes.tokenizer.trainer import train

__all__ = [
    "AddedToken",
    "Stream",
    "Tokenizer",
    "TokenizerSpec",
    "add_special_tokens",
    "fingerprint",
    "from_json",
    "from_spec",
    "from_tiktoken",
    "load",
    "load_tiktoken",
    "save",
    "special_id",
    "special_tokens",
    "stream",
    "to_json",
    "train",
    "vocabulary_size",
]
