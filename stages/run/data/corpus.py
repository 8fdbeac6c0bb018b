"""The data of a run: text read once, split, and kept in the run's folder as tokens.

RUN/tokenizer.json
RUN/data/{train, held_out}    token stores
RUN/data/held_out.txt         the text kept apart, for compressors and for people
RUN/data/corpus.json          what all this was made from; written last, so that what is unfinished is made
again
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files
from data_pipes import tokenizer as tokenizers
from data_pipes.files import writing
from data_pipes.store import open_store
from data_pipes.tokenize import Progress, tokenize
from data_pipes.tokens import TokenStore
from data_pipes.types import Document
from stages.run.data import documents as text
from stages.run.data import provenance
from stages.run.data.held_out import parts, rule
from stages.run.options.pretrain import PretrainOptions

END = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Names that tokenizers give the token between documents."""

TOKENIZER_CHARACTERS = 1 << 30
"""Text that a tokenizer is learned from at most; more changes few merges, and takes many minutes."""

SECONDS_BETWEEN_LINES = 10.0

VERIFIED = 1 << 32
"""Bytes of a store that are read through before a run goes on with it; larger ones are only looked at."""

Say = Callable[[str], None]


class Corpus(NamedTuple):
    """The data of a run, on disk.

    Fields:
        tokenizer: trained or loaded.
        train, held_out: token stores.
        held_out_bytes: UTF-8 bytes of the held-out text.
    """

    tokenizer: tokenizers.Tokenizer
    train: TokenStore
    held_out: TokenStore
    held_out_bytes: int


def prepare(options: PretrainOptions, vocab_size: int, say: Say = print) -> Corpus:
    """Reads the text, trains a tokenizer on it unless one is given, and writes the tokens into the run's
    folder.

    Done before, it is only opened again.

    Args:
        options: data_path, tokenizer_path, model_path, held_out, filter, on_bad, output_dir, and how text is
            read.
        vocab_size: of a tokenizer that is trained, ids.
        say: takes a line for the person who waits.

    Steps:
        1. What it is made from; if the folder holds data, this must be the same.
        2. How to split, from the first documents.
        3. The tokenizer.
        4. The tokens, both parts in one pass, as a stream may be slow to read.
        5. corpus.json, which makes it complete.

    Raises:
        ValueError: for data that cannot be read or split (the message names the file), or if the folder holds
            data made from something else.
        FileNotFoundError: if there is no text or tokenizer at a path.
    """
    folder = Path(options.output_dir)
    facts = folder / "data" / "corpus.json"
    # 1. Origin.
    made_from = provenance.of(options, vocab_size)
    if facts.exists():
        provenance.refuse_another(folder, _facts(folder)["made_from"], made_from)
        return reopen(folder, say)
    _refuse_inside(folder, options.data_path)
    _refuse_foreign(folder, options)
    shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    # 2. Split.
    split = partial(parts, share=options.held_out, root=options.data_path)
    left_out = partial(text.left_out, folder)
    how = rule(text.documents(options, folder), options.held_out, options.data_path, left_out)
    # 3. Tokenizer.
    tokenizer = _tokenizer(options, vocab_size, split(text.documents(options), rule=how), say)
    tokenizers.save(tokenizer, folder / "tokenizer.json")
    # 4. Tokens.
    text.forget(folder)
    held_out_bytes = _write(folder / "data", tokenizer, split(text.documents(options, folder), rule=how), say)
    # 5. Complete.
    files.write_json(facts, {"made_from": made_from, "split": how, "held_out_bytes": held_out_bytes})
    corpus = reopen(folder, say)
    say(f"data: {len(corpus.train.tokens):,} tokens to train on, {len(corpus.held_out.tokens):,} held out")
    if noted := text.bad_rows(folder):
        say(f"data: {len(noted):,} rows or files passed over, see {folder / text.BAD}")
    return corpus


def reopen(folder: Path, say: Say = print) -> Corpus:
    """Opens the data that `prepare` left in a run's folder; what it was made from is not looked at.

    Args:
        folder: of the run.
        say: takes a line for the person who waits.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged; the message says how to make it again.
    """
    held_out_bytes = _facts(folder)["held_out_bytes"]
    train, held_out = (_open(folder, part, say) for part in ("train", "held_out"))
    return Corpus(tokenizers.load(folder / "tokenizer.json"), train, held_out, held_out_bytes)


def _facts(folder: Path) -> dict[str, Any]:
    """What corpus.json says, checked: "made_from" {flag: value}, and "held_out_bytes"."""
    path = folder / "data" / "corpus.json"
    found = files.read_json(path)
    made_from, size = found.get("made_from"), found.get("held_out_bytes")
    if not isinstance(made_from, dict) or type(size) is not int or size < 0:
        made = shlex.join([str(folder / "data"), str(folder / "tokenizer.json")])
        raise ValueError(
            f"{path}: expected made_from and held_out_bytes, got {', '.join(found) or 'nothing'} of other "
            f"types; rm -r {made} and run the same command again"
        )
    return found


def _open(folder: Path, part: str, say: Say) -> TokenStore:
    """Opens a store, and reads it through, unless that would take long: what was changed must not be trained
    on."""
    path = folder / "data" / part
    size = sum(file.stat().st_size for file in path.glob("*.bin"))
    if size > VERIFIED:
        say(f"data: {path} holds {size / 2**30:.1f} GiB, and was not read through for damage")
    try:
        return open_store(path, verify=size <= VERIFIED)
    except (ValueError, FileNotFoundError) as error:
        made = shlex.join([str(folder / "data"), str(folder / "tokenizer.json")])
        raise ValueError(
            f"{error}; that is, rm -r {made} and run the same command again: from the same text come the same tokens, "
            "and the run goes on"
        ) from None


def end_of(tokenizer: tokenizers.Tokenizer) -> int:
    """The id of the token that stands between documents.

    Raises:
        ValueError: if the tokenizer has none.
    """
    special = tokenizers.special_tokens(tokenizer)
    found = [special[name] for name in END if name in special]
    if not found:
        raise ValueError(
            f"the tokenizer has none of {', '.join(END)} to stand between documents; add one of them"
        )
    return found[0]


def _refuse_inside(folder: Path, data_path: str) -> None:
    """What a run writes must not become its text."""
    top, mine = Path(data_path).resolve(), folder.resolve()
    if data_path != "embedded" and top.is_dir() and (top == mine or top in mine.parents):
        raise ValueError(
            f"--output_dir {folder} lies inside --data_path {data_path}, so that what the run writes would be taken "
            "for text; choose an --output_dir outside"
        )


def _refuse_foreign(folder: Path, options: PretrainOptions) -> None:
    """A tokenizer that no run of ours left here is not overwritten."""
    found = folder / "tokenizer.json"
    given = provenance.tokenizer_path(options)
    if (
        found.exists()
        and not (folder / "data").exists()
        and not (given and Path(given).resolve() == found.resolve())
    ):
        raise ValueError(
            f"{found} is there already, and no run made it: use it by --tokenizer_path {found}, or choose another "
            "--output_dir"
        )


def _tokenizer(
    options: PretrainOptions, vocab_size: int, split: Iterator[tuple[str, Document]], say: Say
) -> tokenizers.Tokenizer:
    """Loads the tokenizer, or trains it on the training part."""
    given = provenance.tokenizer_path(options)
    if given:
        return tokenizers.load(given)
    say(f"tokenizer: learning {vocab_size:,} tokens from {options.data_path}")
    size = [0]

    def room(text: str) -> bool:
        size[0] += len(text)
        return size[0] <= TOKENIZER_CHARACTERS or size[0] == len(text)

    texts = (document.text for part, document in split if part == "train")
    return tokenizers.train(takewhile(room, texts), vocab_size)


def _write(
    data: Path, tokenizer: tokenizers.Tokenizer, split: Iterator[tuple[str, Document]], say: Say
) -> int:
    """Writes both stores and the held-out text -> its bytes."""
    aside: list[Document] = []

    def training() -> Iterator[Document]:
        for part, document in split:
            if part == "train":
                yield document
            else:
                aside.append(document)

    store = partial(
        tokenize,
        tokenizer=tokenizer,
        vocab_size=tokenizers.vocabulary_size(tokenizer),
        separator_id=end_of(tokenizer),
        fingerprint=tokenizers.fingerprint(tokenizer),
    )
    store(training(), store_path=data / "train", on_progress=_telling(say))
    store(iter(aside), store_path=data / "held_out")
    text = "".join(document.text for document in aside).encode()
    with writing(data / "held_out.txt"):
        (data / "held_out.txt").write_bytes(text)
    return len(text)


def _telling(say: Say) -> Callable[[Progress], None]:
    """A line now and then."""
    last = [time.monotonic()]

    def tell(progress: Progress) -> None:
        if time.monotonic() - last[0] > SECONDS_BETWEEN_LINES:
            last[0] = time.monotonic()
            say(f"data: {progress.characters:,} characters, {progress.tokens:,} tokens so far")

    return tell
