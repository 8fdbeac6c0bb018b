"""Encoding about 12 MB of code and English with 8,192 tokens, beside Hugging Face's `encode_batch` on the
same cores.

    python benchmarks/bpe_encode.py [--pairs N]

Theirs uses every core and remembers words from one call to the next; ours uses one core and forgets. Ids are
compared. The split pattern is timed alone too: it is what remains when every word is known.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from _timing import header, paired, parser, row, seconds
from tokenizers import Tokenizer as Peer

from data_pipes.embedded import python_library
from data_pipes.tokenizer import to_json, train
from data_pipes.tokenizer.split import split_words, splitter

SIZE, REACH = 8192, 3.0


def main() -> None:
    """Prints the table, and whether ids agree."""
    arguments = parser(__doc__).parse_args()
    texts = [document.text for document in python_library.documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = train(texts, SIZE)
    peer = Peer.from_str(to_json(ours))
    peer.encode_special_tokens = True  # special tokens spelt out in text are text, as in ours
    result = paired(
        lambda: ours.encode_batch(texts),
        lambda: peer.encode_batch(texts, add_special_tokens=False),
        arguments.pairs,
        warmup=1,
    )
    header()
    row(f"BPE encoding, {megabytes:.1f} MB, {SIZE} tokens", result, REACH, items=megabytes, unit="MB")
    cutter = splitter("qwen2")
    alone = min(seconds(lambda: [split_words(cutter, text) for text in texts]) for _ in range(5))
    print(f"the split pattern alone: {alone * 1e3:.0f} ms, {megabytes / alone:.0f} MB/s")
    theirs = peer.encode_batch(texts, add_special_tokens=False)
    same = all(row.tolist() == other.ids for row, other in zip(ours.encode_batch(texts), theirs, strict=True))
    count = sum(len(other.ids) for other in theirs)
    print(f"{count:,} ids, {'identical' if same else 'NOT IDENTICAL'} to Hugging Face's")


if __name__ == "__main__":
    main()
