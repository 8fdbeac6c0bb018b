"""tokenizer.json templates for one text and for a pair of texts: both survive our `load` and `save`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers, processors

from data_pipes.tokenizer import load, save
from tests.outside.form import Form

TEMPLATES = (
    ("<s> $A", "<s> $A <s> $B"),
    ("<s> $A", "<s> $A $B"),
    ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    ("$A", "$A <s> $B"),
    ("$A </s>", "$B </s> $A"),
    ("<s> $A", "$A $B"),
)
"""(single, pair): as Llama; no second <s>; as RoBERTa; special tokens only in the pair; the second text
first; special tokens only in the single text."""


def _ids(peer: HuggingFaceTokenizer) -> list[list[int]]:
    return [peer.encode("x").ids, peer.encode("x", "y").ids]


def _theirs(folder: Path, *, single: str, pair: str) -> list[list[int]]:
    peer = HuggingFaceTokenizer(models.BPE({"<s>": 0, "</s>": 1, "x": 2, "y": 3}, [], unk_token="<s>"))
    peer.add_special_tokens(["<s>", "</s>"])
    peer.pre_tokenizer = pre_tokenizers.Whitespace()
    peer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    peer.save(str(folder / "tokenizer.json"))
    return _ids(peer)


def _ours(folder: Path) -> list[list[int]]:
    """Ids of the single text by our tokenizer, and of the pair by its library from the file that we save.

    Our `encode` takes no pairs, so only the saved file shows that the pair's template was kept.
    """
    tokenizer = load(folder)
    (folder / "again").mkdir()
    save(tokenizer, folder / "again")
    ids_of_saved = _ids(HuggingFaceTokenizer.from_file(str(folder / "again" / "tokenizer.json")))
    return [list(tokenizer.encode("x", template=True)), ids_of_saved[1]]


FORMS = tuple(
    Form(
        "tokenizer",
        f"around texts: {single}, {pair}",
        "tokenizers",
        partial(_theirs, single=single, pair=pair),
        _ours,
    )
    for single, pair in TEMPLATES
)
