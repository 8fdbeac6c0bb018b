"""Tokenizers of SentencePiece's kind in GGUF files (`gguf_sentencepiece`), as transformers makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from tokenizers import normalizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

from data_pipes.tokenizer.gguf_vocabulary import from_gguf
from pure.interop.gguf_header import parse
from tests.outside.form import Form
from tests.outside.tokenizers import BYTES, CORPUS, HOSTILE, llama2

SPOKEN = tuple(text for text in HOSTILE if "<tok>" not in text)
"""Without a token that these files lack."""


def _write(folder: Path, *, space: bool | None = None, architecture: str = "phi3") -> Path:
    """Llama 2's tokenizer, trained on little text, as llama.cpp's conversion writes it: scores fall with the
    ids."""
    peer = llama2()
    vocab = sorted(peer.get_vocab(), key=peer.token_to_id)
    controls = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
    kinds = [2 if t == "<unk>" else 3 if t in controls else 6 if t in BYTES else 1 for t in vocab]
    first = max(i for i, kind in enumerate(kinds) if kind != 1) + 1
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocab)
    writer.add_token_scores([float(first - i) if kind == 1 else 0.0 for i, kind in enumerate(kinds)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(vocab.index("<s>"))
    writer.add_unk_token_id(vocab.index("<unk>"))
    if space is not None:
        writer.add_add_space_prefix(space)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "model.gguf"


def _theirs(folder: Path, space: bool | None = None) -> list[Any]:
    """transformers' tokenizer; it skips add_space_prefix, so that is done here."""
    architecture, tokenizer, _ = get_gguf_tokenizer(str(_write(folder, space=space)))
    peer, _ = convert_gguf_tokenizer(architecture, tokenizer)
    if space is False:
        peer.normalizer, peer.pre_tokenizer = normalizers.Replace(" ", "▁"), None
    peer.post_processor = None
    rows = [peer.encode(text, add_special_tokens=False).ids for text in (*SPOKEN, *CORPUS)]
    return [rows, [peer.decode(row, skip_special_tokens=False) for row in rows] if space is not False else []]


def _ours(folder: Path, space: bool | None = None) -> list[Any]:
    fields, _ = parse(memoryview((folder / "model.gguf").read_bytes()))
    made = from_gguf(fields)
    assert made.spec.prefix == (fields["tokenizer.ggml.bos_token_id"],)
    rows = [made.encode(text, special="all") for text in (*SPOKEN, *CORPUS)]
    return [rows, [made.decode(row) for row in rows] if space is not False else []]


FORMS = (
    Form("tokenizer", "GGUF of SentencePiece's kind", "gguf", _theirs, _ours),
    Form("tokenizer", "GGUF of SentencePiece's kind that says so", "gguf",
         lambda folder: _theirs(folder, True), lambda folder: _ours(folder, True)),
    Form("tokenizer", "GGUF of SentencePiece's kind without a space in front", "gguf",
         lambda folder: _theirs(folder, False), lambda folder: _ours(folder, False)),
)  # fmt: skip
