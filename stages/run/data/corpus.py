"""The data of a pretraining run: text read once, split, and stored in the run's folder as tokens.

RUN/tokenizer.json
RUN/data/{train, held_out}    token stores
RUN/data/held_out.txt         the held-out text, to read, and to compare the model with compressors
RUN/data/corpus.json          the inputs; written last, so that incomplete data is rebuilt
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files
from data_pipes import tokenizer as tokenizers
from data_pipes.files import writing
from data_pipes.store import open_store
from data_pipes.tokenize import Progress, tokenize
from data_pipes.tokens import TokenStore
from data_pipes.types import Document
from pure.plural import count_noun
from stages.run.data import bad_rows, documents, held_out, provenance, sources
from stages.run.options.pretrain import CorpusFlags

SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Names of the token between documents, in the order of preference."""

TOKENIZER_CHARACTERS = 1 << 30
"""Limit on the text that a tokenizer is trained on; more changes few merges, and takes many minutes."""

SECONDS_BETWEEN_LINES = 10.0
"""Time between two lines of progress."""

MAX_VERIFIED_BYTES = 1 << 32
"""Stores of at most this many bytes are verified on load."""

SECONDS_UNTIL_SEEN = 10.0
"""Time until a file is seen on another machine: a network file system may remember that it was missing."""

Say = Callable[[str], None]


class Corpus(NamedTuple):
    """The data of a run on disk.

    Fields:
        tokenizer: trained or loaded.
        train, held_out: token stores.
        held_out_bytes: UTF-8 bytes of the held-out text.
    """

    tokenizer: tokenizers.Tokenizer
    train: TokenStore
    held_out: TokenStore
    held_out_bytes: int


def prepare(flags: CorpusFlags, vocab_size: int, say: Say = print) -> Corpus:
    """Tokenizes the text into the run's folder, or opens the tokens if the folder has them already.

    The tokenizer is trained on the training split, unless one is given.

    Args:
        flags: text, split and tokenizer, the run's folder, and the number of worker processes, which does not
            change the data.
        vocab_size: number of ids of the tokenizer, if one is trained.
        say: prints a message to the user.

    Returns:
        Corpus.

    Steps:
        1. Describe the inputs; data that is already in the folder must have the same inputs.
        2. Choose the split from the first documents.
        3. Train or load the tokenizer.
        4. Write the tokens, both parts in one pass, as a stream may be slow to read.
        5. Write corpus.json, which makes the data complete.

    Raises:
        ValueError: for data that cannot be read or split (the message names the file), or if the folder holds
            data with other inputs.
        FileNotFoundError: if there is no text or tokenizer at a path.
    """
    folder = Path(flags.output_dir)
    corpus_file = folder / "data" / "corpus.json"
    # 1. Inputs.
    made_from = provenance.describe_inputs(flags, vocab_size)
    if corpus_file.exists():
        provenance.refuse_changed(folder, _read_facts(folder)["made_from"], made_from)
        return reopen(folder, say)
    given = provenance.tokenizer_path(flags)
    _refuse_inside(folder, flags.data_path)
    _refuse_foreign(folder, given)
    shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    # 2. Split.
    share, root, read = flags.held_out, flags.data_path, documents.read_documents
    report = partial(documents.summarize_reports, folder)
    rule = held_out.choose_rule(read(flags, folder), share, root, report)
    split = partial(held_out.split, rule=rule, share=share, root=root)
    # 3. Tokenizer.
    if given:
        tokenizer = tokenizers.load(given)
    else:
        say(f"tokenizer: training one of {vocab_size:,} tokens on {root}")
        parts = split(read(flags, workers=flags.workers))
        texts = (document.text for part, document in parts if part == "train")
        limited = _take_characters(texts, TOKENIZER_CHARACTERS)
        tokenizer = tokenizers.train(limited, vocab_size, workers=flags.workers)
    tokenizers.save(tokenizer, folder / "tokenizer.json")
    # 4. Tokens.
    documents.delete_reports(folder)
    parts = split(read(flags, folder, workers=flags.workers))
    held_out_bytes = _write_stores(folder / "data", tokenizer, parts, flags.workers, say)
    # 5. Complete.
    sources.record(folder, root)
    files.write_json(corpus_file, {"made_from": made_from, "split": rule, "held_out_bytes": held_out_bytes})
    corpus = reopen(folder, say)
    tokens = count_noun(len(corpus.train.tokens), "token")
    say(f"data: {tokens} to train on, {len(corpus.held_out.tokens):,} held out")
    bad = folder / documents.BAD
    if skipped := bad_rows.read(bad):
        say(f"data: {count_noun(len(skipped), 'row or file', 'rows or files')} skipped, see {bad}")
    return corpus


def reopen(folder: Path, say: Say = print) -> Corpus:
    """Opens the data that `prepare` wrote into a run's folder, whatever its inputs were.

    Args:
        folder: the run's folder.
        say: prints a message to the user.

    Returns:
        Corpus.

    Raises:
        FileNotFoundError: if there is no data.
        ValueError: if it is damaged; the message says how to rebuild it.
    """
    held_out_bytes = _read_facts(folder)["held_out_bytes"]
    train, validation = (_open_store(folder, part, say) for part in ("train", "held_out"))
    return Corpus(tokenizers.load(folder / "tokenizer.json"), train, validation, held_out_bytes)


def reopen_shared(folder: Path) -> Corpus:
    """Opens the data that another process has prepared and verified, in a folder that both see.

    Args:
        folder: the run's folder.

    Returns:
        Corpus.

    Raises:
        FileNotFoundError: if this process does not see the data.
    """
    until = time.monotonic() + SECONDS_UNTIL_SEEN
    while not (folder / "data" / "corpus.json").exists():
        if time.monotonic() > until:
            raise FileNotFoundError(
                f"{folder.absolute() / 'data' / 'corpus.json'}: process 0 wrote it, and this process does "
                "not see it; --output_dir must be in a folder that all processes share"
            )
        time.sleep(0.2)
    train, validation = (open_store(folder / "data" / part, verify=False) for part in ("train", "held_out"))
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    return Corpus(tokenizer, train, validation, _read_facts(folder)["held_out_bytes"])


def separator_id(tokenizer: tokenizers.Tokenizer) -> int:
    """Returns the id of the token between documents.

    Raises:
        ValueError: if the tokenizer has none.
    """
    special = tokenizers.special_tokens(tokenizer)
    for name in SEPARATORS:
        if name in special:
            return special[name]
    raise ValueError(
        f"the tokenizer has none of {', '.join(SEPARATORS)} to separate documents; add one of them"
    )


def _read_facts(folder: Path) -> dict[str, Any]:
    """Reads and validates corpus.json: "made_from" {flag: value}, and "held_out_bytes"."""
    path = folder / "data" / "corpus.json"
    facts = files.read_json(path)
    made_from, size = facts.get("made_from"), facts.get("held_out_bytes")
    if not isinstance(made_from, dict) or type(size) is not int or size < 0:
        raise ValueError(
            f"{path}: expected made_from (an object) and held_out_bytes (a number), got the fields "
            f"{', '.join(facts) or 'none'}, missing or of other types; {_remove_command(folder)} and run the "
            "same command again"
        )
    return facts


def _remove_command(folder: Path) -> str:
    """The shell command that removes the data of a run."""
    return f"rm -r {shlex.join([str(folder / 'data'), str(folder / 'tokenizer.json')])}"


def _open_store(folder: Path, part: str, say: Say) -> TokenStore:
    """Opens a store; one of at most MAX_VERIFIED_BYTES is verified."""
    path = folder / "data" / part
    size = sum(file.stat().st_size for file in path.glob("*.bin"))
    if size > MAX_VERIFIED_BYTES:
        say(f"data: {path} holds {size / 2**30:.1f} GiB, and was not verified")
    try:
        return open_store(path, verify=size <= MAX_VERIFIED_BYTES)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{error}: {_remove_command(folder)} and run the same command again: the same text "
            "gives the same tokens, and the run resumes"
        ) from None


def _refuse_inside(folder: Path, data_path: str) -> None:
    """Refuses an --output_dir inside --data_path, where the run's files would be read as text."""
    text, output = Path(data_path).resolve(), folder.resolve()
    if data_path != "embedded" and text.is_dir() and (text == output or text in output.parents):
        raise ValueError(
            f"--output_dir {folder} lies inside --data_path {data_path}, so that the run's files would be "
            "read as text; choose an --output_dir outside"
        )


def _refuse_foreign(folder: Path, given: str | None) -> None:
    """Refuses to overwrite a tokenizer that was not written by a run."""
    path = folder / "tokenizer.json"
    if not path.exists() or (folder / "data").exists():
        return
    if not given or Path(given).resolve() != path.resolve():
        raise ValueError(
            f"{path} is there already, and no run made it: use it with --tokenizer_path {path}, or choose "
            "another --output_dir"
        )


def _take_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Yields texts while their total is at most `limit` characters; the first text in any case."""
    size = 0
    for text in texts:
        if size and size + len(text) > limit:
            return
        size += len(text)
        yield text


def _write_stores(
    data: Path,
    tokenizer: tokenizers.Tokenizer,
    split: Iterator[tuple[str, Document]],
    workers: int | None,
    say: Say,
) -> int:
    """Writes both stores and the held-out text, and returns the bytes of the text."""
    validation: list[Document] = []

    def training() -> Iterator[Document]:
        for part, document in split:
            if part == "train":
                yield document
            else:
                validation.append(document)

    store = partial(
        tokenize,
        tokenizer=tokenizer,
        vocab_size=tokenizers.vocabulary_size(tokenizer),
        separator_id=separator_id(tokenizer),
        fingerprint=tokenizers.fingerprint(tokenizer),
        workers=workers,
    )
    store(training(), store_path=data / "train", on_progress=_report_progress(say))
    store(iter(validation), store_path=data / "held_out")
    text = "".join(document.text for document in validation).encode()
    with writing(data / "held_out.txt"):
        (data / "held_out.txt").write_bytes(text)
    return len(text)


def _report_progress(say: Say) -> Callable[[Progress], None]:
    """Returns a function that reports progress, at most one line per SECONDS_BETWEEN_LINES."""
    last = [time.monotonic()]

    def report(progress: Progress) -> None:
        if time.monotonic() - last[0] > SECONDS_BETWEEN_LINES:
            last[0] = time.monotonic()
            say(f"data: {progress.characters:,} characters, {progress.tokens:,} tokens so far")

    return report
