"""BPE tokenizers, written here to be read: train, encode, decode, save, load, Hugging Face's tokenizer.json both ways.

Reading order: `bpe` (the algorithm, on characters), `byte_level` (bytes in the place of characters), `split` (words),
`trainer` and `encoder` (the same, quickly), `spec` (what a tokenizer is), `json_writer`, `json_reader` and `files`.
"""

from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.files import load, save
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
from data_pipes.tokenizer.trainer import train

__all__ = [
    "AddedToken",
    "Tokenizer",
    "TokenizerSpec",
    "fingerprint",
    "from_json",
    "from_spec",
    "load",
    "save",
    "special_id",
    "special_tokens",
    "to_json",
    "train",
    "vocabulary_size",
]
