"""BPE encoding of 12 MB of code and English, vocabulary of 8,192: ours against Hugging Face's `encode_batch`.

    python benchmarks/bpe_encode.py [--pairs N]

Theirs uses every core and caches words from one call to the next; ours uses one core and has no cache across
calls. The ids of both are compared. Splitting by the pattern is also timed alone: that time remains even if
every word is cached.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from _timing import make_parser, print_header, print_row, time_call, time_pairs
from tokenizers import Tokenizer as Peer

from data_pipes.embedded import python_library
from data_pipes.tokenizer import to_json, train
from data_pipes.tokenizer.split import split_words, splitter

VOCABULARY_SIZE = 8192
TARGET = 3.0
"""Lowest ratio of Hugging Face's time to ours that counts as reached."""


def main() -> None:
    """Print the table, and whether ids are equal."""
    arguments = make_parser(__doc__).parse_args()
    texts = [document.text for document in python_library.documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = train(texts, VOCABULARY_SIZE)
    peer = Peer.from_str(to_json(ours))
    peer.encode_special_tokens = True  # special tokens spelled in a text are text, as in ours
    result = time_pairs(
        lambda: ours.encode_batch(texts),
        lambda: peer.encode_batch(texts, add_special_tokens=False),
        arguments.pairs,
        warmup=1,
    )
    print_header()
    label = f"BPE encoding, {megabytes:.1f} MB, {VOCABULARY_SIZE} tokens"
    print_row(label, result, TARGET, items=megabytes, unit="MB")
    pattern = splitter("qwen2")
    seconds = min(time_call(lambda: [split_words(pattern, text) for text in texts]) for _ in range(5))
    print(f"the split pattern alone: {seconds * 1e3:.0f} ms, {megabytes / seconds:.0f} MB/s")
    theirs = peer.encode_batch(texts, add_special_tokens=False)
    rows = zip(ours.encode_batch(texts), theirs, strict=True)
    same = all(our_ids.tolist() == encoding.ids for our_ids, encoding in rows)
    count = sum(len(encoding.ids) for encoding in theirs)
    print(f"{count:,} ids, {'identical' if same else 'NOT IDENTICAL'} to Hugging Face's")


if __name__ == "__main__":
    main()
