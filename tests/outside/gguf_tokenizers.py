"""Tokenizers like SentencePiece's in GGUF files (`gguf_sentencepiece`), against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from tokenizers import normalizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

from data_pipes.tokenizer.gguf_vocabulary import from_gguf
from pure.interop.gguf_header import parse
from tests.outside.form import Form
from tests.outside.tokenizers import BYTES, CORPUS, DIFFICULT_TEXTS, llama2

TEXTS = tuple(text for text in DIFFICULT_TEXTS if "<tok>" not in text)
"""Texts without "<tok>", a token that these files lack."""


def _write(folder: Path, *, space: bool | None = None, architecture: str = "phi3") -> Path:
    """Write a small tokenizer like Llama 2's as llama.cpp's conversion does: scores fall with the ids."""
    peer = llama2()
    vocab = sorted(peer.get_vocab(), key=peer.token_to_id)
    controls = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")

    def token_type(token: str) -> int:
        if token == "<unk>":
            return 2
        if token in controls:
            return 3
        return 6 if token in BYTES else 1

    kinds = [token_type(token) for token in vocab]
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
    """Ids and texts of transformers' tokenizer, to which add_space_prefix is applied here."""
    architecture, tokenizer, _ = get_gguf_tokenizer(str(_write(folder, space=space)))
    peer, _ = convert_gguf_tokenizer(architecture, tokenizer)
    if space is False:
        peer.normalizer, peer.pre_tokenizer = normalizers.Replace(" ", "▁"), None
    peer.post_processor = None
    rows = [peer.encode(text, add_special_tokens=False).ids for text in (*TEXTS, *CORPUS)]
    return [rows, [peer.decode(row, skip_special_tokens=False) for row in rows] if space is not False else []]


def _ours(folder: Path, space: bool | None = None) -> list[Any]:
    fields, _ = parse(memoryview((folder / "model.gguf").read_bytes()))
    tokenizer = from_gguf(fields)
    assert tokenizer.spec.prefix == (fields["tokenizer.ggml.bos_token_id"],)
    rows = [tokenizer.encode(text, special="all") for text in (*TEXTS, *CORPUS)]
    return [rows, [tokenizer.decode(row) for row in rows] if space is not False else []]


FORMS = (
    Form("tokenizer", "GGUF of SentencePiece's kind", "gguf", _theirs, _ours),
    Form("tokenizer", "GGUF of SentencePiece's kind that says so", "gguf",
         lambda folder: _theirs(folder, True), lambda folder: _ours(folder, True)),
    Form("tokenizer", "GGUF of SentencePiece's kind without a space in front", "gguf",
         lambda folder: _theirs(folder, False), lambda folder: _ours(folder, False)),
)  # fmt: skip
