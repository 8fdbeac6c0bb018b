"""Training a byte-level BPE of 8,192 tokens on about 12 MB of code and English, beside Hugging Face
tokenizers.

    python benchmarks/bpe_train.py [--pairs N] [--reader]

Both cut text with Qwen 2's pattern and merge what occurs at least twice. Theirs uses every core, ours one.
Their merges are compared with ours each time; `--reader` also trains `bpe.learn_merges`, which recounts, on a part
of the corpus.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from _timing import header, paired, parser, row
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Peer

from data_pipes.embedded import python_library
from data_pipes.tokenizer import byte_level, train
from data_pipes.tokenizer.split import PATTERNS
from data_pipes.tokenizer.trainer import SPECIAL_TOKENS, count_words

SIZE, PATTERN, REACH = 8192, "qwen2", 1.0


def peer(texts: list[str]) -> Peer:
    """Trains theirs with the settings of ours."""
    tokenizer = Peer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[PATTERN].unicode), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), [*SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        min_frequency=2,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=alphabet,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Prints the table, and whether merges agree."""
    flags = parser(__doc__)
    flags.add_argument(
        "--reader", action="store_true", help="compare with the reader's version too (a minute)"
    )
    arguments = flags.parse_args()
    texts = [document.text for document in python_library.documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    result = paired(
        lambda: train(texts, SIZE, pattern=PATTERN), lambda: peer(texts), arguments.pairs, warmup=1
    )
    header()
    row(f"BPE training, {megabytes:.1f} MB, {SIZE} tokens", result, REACH, items=megabytes, unit="MB")
    ours = train(texts, SIZE, pattern=PATTERN).spec
    same = {token: i for i, token in enumerate(ours.vocab)} == peer(texts).get_vocab()
    print(
        f"vocabulary of {len(ours.vocab)} tokens, {'identical' if same else 'NOT IDENTICAL'} to Hugging Face's"
    )
    if arguments.reader:
        part = texts[:60]
        slow = byte_level.learn_merges(count_words(part, PATTERN), 1000, special_tokens=SPECIAL_TOKENS)
        fast = train(part, 1000, pattern=PATTERN).spec
        same = slow == (list(fast.vocab), list(fast.merges))
        print(
            f"{len(fast.merges)} merges of {len(part)} files, {'identical' if same else 'NOT IDENTICAL'} to bpe.learn's"
        )


if __name__ == "__main__":
    main()
