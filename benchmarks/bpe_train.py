"""Byte-level BPE training: ours against Hugging Face tokenizers.

    python benchmarks/bpe_train.py [--pairs N] [--plain]

8,192 tokens are trained on about 12 MB of code and English. Both split text with Qwen 2's pattern and merge
pairs that occur at least twice. Theirs uses every core, ours one. The vocabularies are compared; `--plain`
also runs the plain `byte_level.learn_merges`, which recounts pairs in every step, on a part of the corpus.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from _timing import make_parser, print_header, print_row, time_pairs
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Peer

from data_pipes.embedded import python_library
from data_pipes.tokenizer import byte_level, train
from data_pipes.tokenizer.split import PATTERNS
from data_pipes.tokenizer.trainer import SPECIAL_TOKENS, count_words

SIZE, PATTERN, TARGET = 8192, "qwen2", 1.0


def train_peer(texts: list[str]) -> Peer:
    """Train Hugging Face's tokenizer with the settings of ours."""
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
    """Print the table, and whether vocabulary and merges are equal."""
    flags = make_parser(__doc__)
    flags.add_argument(
        "--plain",
        action="store_true",
        help="also compare with byte_level.learn_merges, which is plain and slow (a minute)",
    )
    arguments = flags.parse_args()
    texts = [document.text for document in python_library.documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    result = time_pairs(
        lambda: train(texts, SIZE, pattern=PATTERN), lambda: train_peer(texts), arguments.pairs, warmup=1
    )
    print_header()
    print_row(f"BPE training, {megabytes:.1f} MB, {SIZE} tokens", result, TARGET, items=megabytes, unit="MB")
    ours = train(texts, SIZE, pattern=PATTERN).spec
    same = {token: i for i, token in enumerate(ours.vocab)} == train_peer(texts).get_vocab()
    verdict = "identical" if same else "NOT IDENTICAL"
    print(f"vocabulary of {len(ours.vocab)} tokens, {verdict} to Hugging Face's")
    if arguments.plain:
        part = texts[:60]
        plain = byte_level.learn_merges(count_words(part, PATTERN), 1000, special_tokens=SPECIAL_TOKENS)
        ours = train(part, 1000, pattern=PATTERN).spec
        same = plain == (list(ours.vocab), list(ours.merges))
        verdict = "identical" if same else "NOT IDENTICAL"
        print(f"{len(ours.merges)} merges of {len(part)} files, {verdict} to learn_merges'")


if __name__ == "__main__":
    main()
