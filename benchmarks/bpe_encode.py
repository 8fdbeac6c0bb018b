"""BPE encoding of about 12 MB of code and English, 8,192 tokens: ours against Hugging Face's `encode_batch`.

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

SIZE, TARGET = 8192, 3.0


def main() -> None:
    """Print the table, and whether ids are equal."""
    arguments = make_parser(__doc__).parse_args()
    texts = [document.text for document in python_library.documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = train(texts, SIZE)
    peer = Peer.from_str(to_json(ours))
    peer.encode_special_tokens = True  # special tokens spelled in a text are text, as in ours
    result = time_pairs(
        lambda: ours.encode_batch(texts),
        lambda: peer.encode_batch(texts, add_special_tokens=False),
        arguments.pairs,
        warmup=1,
    )
    print_header()
    print_row(f"BPE encoding, {megabytes:.1f} MB, {SIZE} tokens", result, TARGET, items=megabytes, unit="MB")
    pattern = splitter("qwen2")
    seconds = min(time_call(lambda: [split_words(pattern, text) for text in texts]) for _ in range(5))
    print(f"the split pattern alone: {seconds * 1e3:.0f} ms, {megabytes / seconds:.0f} MB/s")
    theirs = peer.encode_batch(texts, add_special_tokens=False)
    same = all(row.tolist() == other.ids for row, other in zip(ours.encode_batch(texts), theirs, strict=True))
    count = sum(len(other.ids) for other in theirs)
    print(f"{count:,} ids, {'identical' if same else 'NOT IDENTICAL'} to Hugging Face's")


if __name__ == "__main__":
    main()
