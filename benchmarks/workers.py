"""Data preparation in N processes against one: tokens, filters with duplicates, counts of words, chat rows.

    OMP_NUM_THREADS=1 python benchmarks/workers.py [--megabytes 100] [--workers 2] [--pairs 3] [--only NAME]

The text is a JSONL file of Python's library, then the source and documentation of the installed packages,
then the library again with a part of its names changed, until there is enough. Every run reads that file. Runs
with one process and with N take turns, each run in a new process; the ratio is that of two consecutive runs.
CPU seconds are those of all processes of a run; memory is that of all of them together (proportional set size,
sampled), above the first one at rest.

The peer reads the same file with Hugging Face's `datasets` and maps their tokenizer over it with num_proc=N,
one thread a process, which writes an Arrow file; the ids are compared.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the peer's processes are its parallelism

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import sysconfig
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Peer

from data_pipes import tokenizer as tokenizers
from data_pipes.chat.chat import chat_template
from data_pipes.digest import hash_blocks, hash_json
from data_pipes.duplicates import exact_duplicates, near_duplicates
from data_pipes.embedded import python_library
from data_pipes.filter import apply_filters, binary, length, repetition
from data_pipes.record_encoding import encode_conversations, encode_records
from data_pipes.rows.records import read_conversations
from data_pipes.source import documents
from data_pipes.source.path import rows
from data_pipes.tokenize import tokenize
from data_pipes.tokenizer.trainer import count_words
from data_pipes.types import stop

VOCABULARY_SIZE = 8192
TARGET = 1.8
"""Lowest ratio of one process's time to two's, for tokenising 100 MB, that counts as reached."""

LARGEST_FILE = 2_000_000
"""Bytes above which a file of a package is left out: it is data."""


TEXT = "text.jsonl"
ROWS = "rows.jsonl"
"""One tenth of the text, cut into questions of 300 characters and answers of 1,200."""

SEPARATOR = 0
"""Id of <|endoftext|>."""

Finish = Callable[[], str]
"""Digest of a result, computed after the clock was stopped."""


class Run(NamedTuple):
    """One run: seconds, CPU seconds of all processes, bytes of memory above rest, digest of the result."""

    seconds: float
    cpu: float
    memory: int
    digest: str


def main() -> None:
    """Print a line for each run, and the ratios of each comparison."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--pairs", type=int, default=3, help="interleaved pairs to time (default 3)")
    flags.add_argument("--megabytes", type=float, default=100, help="text in MB (default 100)")
    flags.add_argument("--workers", type=int, default=2, help="processes to compare with one (default 2)")
    flags.add_argument(
        "--only", choices=("tokenize", "filter", "words", "rows", "datasets"), help="one comparison"
    )
    arguments = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        megabytes = write_texts(folder / TEXT, arguments.megabytes)
        tokenizer = tokenizers.train((x.text for x in python_library.documents()), VOCABULARY_SIZE)
        print(f"{megabytes:.1f} MB, {VOCABULARY_SIZE} tokens; seconds, speed, CPU seconds, peak memory")
        many = arguments.workers
        compared: Mapping[str, Callable[..., Finish]] = {
            "tokenize": partial(run_tokenize, folder, tokenizer),
            "filter": partial(run_filter, folder),
            "words": partial(run_words, folder),
            "rows": partial(run_rows, folder, tokenizer),
        }
        for name, function in compared.items():
            if arguments.only in (None, name):
                sides = {f"{name}, {count} processes": partial(function, count) for count in (1, many)}
                note = f"; aim for 2 processes and 100 MB {TARGET}x" if name == "tokenize" else ""
                size = (folder / ROWS).stat().st_size / 1e6 if name == "rows" else megabytes
                compare(f"{name}, 1 over {many} processes", sides, arguments.pairs, size, note)
        if arguments.only in (None, "datasets"):
            peer = Peer.from_str(tokenizers.to_json(tokenizer))
            sides = {
                f"datasets, {many} processes": partial(run_datasets, folder, peer, many),
                f"ours, {many} processes": partial(run_tokenize, folder, tokenizer, many),
            }
            compare("tokenize, datasets over ours", sides, arguments.pairs, megabytes)


def write_texts(path: Path, megabytes: float) -> float:
    """Write rows of text until there are enough megabytes, and chat rows; return the megabytes of text."""
    size = 0
    with path.open("w", encoding="utf-8") as file, path.with_name(ROWS).open("w", encoding="utf-8") as chats:
        for text in generate_texts():
            file.write(json.dumps({"text": text}) + "\n")
            for i in range(0, len(text) - 1500, 1500) if size < megabytes * 1e5 else ():
                row = {"prompt": text[i : i + 300], "completion": text[i + 300 : i + 1500]}
                chats.write(json.dumps(row) + "\n")
            size += len(text.encode())
            if size >= megabytes * 1e6:
                return size / 1e6
    raise AssertionError("the texts do not end")


def generate_texts() -> Iterator[str]:
    """Texts of the library, of the packages, and of the library with changed names, without end."""
    library = [document.text for document in python_library.documents()]
    yield from library
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*")):
        if path.suffix in (".py", ".md", ".rst", ".txt") and path.stat().st_size <= LARGEST_FILE:
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    number = 0
    while True:
        number += 1
        for text in library:
            yield re.sub(r"[A-Za-z_]{5,}", partial(_rename, number=number), text)


def run_tokenize(folder: Path, tokenizer: tokenizers.Tokenizer, workers: int, out: Path) -> Finish:
    """Tokenize the file into a store."""
    store = tokenize(
        documents(folder / TEXT),
        tokenizer,
        out / "store",
        vocab_size=VOCABULARY_SIZE,
        separator_id=SEPARATOR,
        workers=workers,
    )
    return lambda: hash_blocks([store.tokens.data])


def run_filter(folder: Path, workers: int, out: Path) -> Finish:
    """Filter the file as `intro2llm pretrain --filter` does."""
    rules = (length(50), binary(), repetition(), exact_duplicates(), near_duplicates())
    drops: list[Any] = []
    stream = apply_filters(documents(folder / TEXT), rules, on_drop=drops.append, workers=workers)
    kept = [document.name for document in stream]
    return lambda: hash_json([kept, drops])


def run_words(folder: Path, workers: int, out: Path) -> Finish:
    """Count the words of the file, as training a tokenizer does first."""
    texts = (document.text for document in documents(folder / TEXT))
    counts = count_words(texts, "qwen2", workers=workers)
    return lambda: hash_json(list(counts.items()))


def run_rows(folder: Path, tokenizer: tokenizers.Tokenizer, workers: int, out: Path) -> Finish:
    """Encode as conversations (ChatML) the questions and answers of the second file."""
    conversations = read_conversations(rows(folder / ROWS), on_bad=stop)
    found = encode_records(
        conversations, encode_conversations, chat_template(), tokenizer, on_bad=stop, workers=workers
    )
    return lambda: hash_blocks(array.data for example in found for array in example)


def run_datasets(folder: Path, peer: Any, workers: int, out: Path) -> Finish:
    """Tokenize the file with `datasets` and Hugging Face's tokenizers into an Arrow file."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_json(str(folder / TEXT), cache_dir=str(out), keep_in_memory=False)
    function = partial(encode_rows, peer=peer)
    encoded = rows.map(function, batched=True, num_proc=workers, remove_columns=["text"])
    return lambda: hash_blocks(np.array(ids, np.uint16).data for ids in encoded["ids"])


def encode_rows(rows: dict[str, list[str]], peer: Any) -> dict[str, list[list[int]]]:
    """Encode a batch of rows, each with the separator after it, unless it is empty."""
    peer.encode_special_tokens = True  # special tokens spelled in a text are text, as in ours
    encodings = peer.encode_batch_fast(rows["text"], add_special_tokens=False)
    return {"ids": [[*encoding.ids, SEPARATOR] if encoding.ids else [] for encoding in encodings]}


def compare(
    label: str, sides: Mapping[str, Callable[[Path], Finish]], pairs: int, megabytes: float, note: str = ""
) -> None:
    """Print the runs of two sides in turn, and the ratios of the pairs, the first side over the second."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    order = list(sides)
    first, second = order
    for _ in range(pairs):
        for name in order:
            run = measure(sides[name])
            runs[name].append(run)
            print(
                f"  {name:<24} {run.seconds:7.2f} s  {megabytes / run.seconds:6.1f} MB/s  "
                f"{run.cpu:7.2f} CPU s  {run.memory / 2**20:6.0f} MiB",
                flush=True,
            )
        order.reverse()
    both = list(zip(runs[first], runs[second], strict=True))
    ratios = [one.seconds / other.seconds for one, other in both]
    cpu = statistics.median(other.cpu / one.cpu for one, other in both)
    equal = len({run.digest for one, other in both for run in (one, other)}) == 1
    print(
        f"{label}: {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}; "
        f"CPU seconds times {cpu:.3f}), results {'equal' if equal else 'NOT EQUAL'}{note}"
    )


def measure(function: Callable[[Path], Finish]) -> Run:
    """Run a function once, in a new process and a new folder."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, function))
    process.start()
    sender.close()
    run = receiver.recv()  # EOFError if the process failed; its traceback is on stderr
    process.join()
    return run


def _measure(sender: Connection, function: Callable[[Path], Finish]) -> None:
    """Run a function once, and send the Run; the digest is not timed."""
    rest, peak, ended = _memory(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], _memory())

    thread = threading.Thread(target=watch, daemon=True)
    with tempfile.TemporaryDirectory() as out:
        thread.start()
        start, cpu = time.perf_counter(), _cpu_seconds()
        finish = function(Path(out))
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
        ended.set()
        thread.join()
        sender.send(Run(seconds, cpu, max(peak[0] - rest, 0), finish()))


def _rename(match: re.Match[str], number: int) -> str:
    """A word, or one in eight times a new one, the same wherever it occurs."""
    word = match.group()
    return f"{word}_{number}" if zlib.crc32(f"{number}{word}".encode()) % 8 == 0 else word


def _cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _memory() -> int:
    """Bytes of this process and its children, each page shared by n counted as 1/n."""
    children = [task.read_text().split() for task in Path("/proc/self/task").glob("*/children")]
    total = 0
    for pid in ["self", *(child for task in children for child in task)]:
        with suppress(OSError):  # it ended
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024


if __name__ == "__main__":
    main()
