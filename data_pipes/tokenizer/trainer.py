"""Train a tokenizer quickly: the merges of `bpe.learn_merges`, without recounting.

Four ideas make it fast. Each distinct word is kept once, with its count. A merge changes only the pairs
around it, so counts are corrected, not recomputed. An index lists the places of each pair. A heap gives the
most frequent pair; an outdated entry is detected when it is popped, and pushed again with the right count.

Sennrich et al. 2016, algorithm 1, and the remark on efficiency after it. The tests compare each merge with
`bpe.learn_merges`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from data_pipes.tokenizer.byte_level import ALPHABET, BYTES, utf8
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.normalizer import normalizer
from data_pipes.tokenizer.spec import KINDS, AddedToken, Tokenizer, TokenizerSpec
from data_pipes.tokenizer.split import check_pattern, chunker, split_words, splitter
from data_pipes.tokenizer.step import NFC
from data_pipes.workers import group, map_in_order

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
BATCH_CHARACTERS = 1 << 22  # of the texts whose words are counted at once
NOTHING = -1  # a place where no token begins: between words, and inside tokens
MASK = (1 << 32) - 1  # the second id in the key of a pair


class Symbols(NamedTuple):
    """All distinct words in one row, with NOTHING before, between and after them.

    Fields:
        first: id of the token that begins at each place.
        last: id of the token that ends at each place.
        weight: count of the word at each place.
    """

    first: list[int]
    last: list[int]
    weight: list[int]


class Pairs(NamedTuple):
    """Statistics of each pair of neighbours (a, b), under the key a·2³² + b.

    Fields:
        counts: its occurrences.
        places: indices of its first token; some may be outdated.
        heap: (-count, key); counts may be outdated.
    """

    counts: dict[int, int]
    places: dict[int, list[int]]
    heap: list[tuple[int, int]]


def train(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: str = "byte_level",
    pattern: str = "qwen2",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    min_frequency: int = 2,
    nfc: bool = False,
    workers: int | None = 1,
) -> Tokenizer:
    """Trains a BPE tokenizer on texts.

    Args:
        texts: strings, read once, in any order; a stream may have any length, as only distinct words are
            kept.
        vocab_size: number of special tokens, alphabet and merged tokens; at least the first two.
        kind: "byte_level" (any text can be encoded) or "character" (only characters seen in training).
        pattern: split pattern: "qwen2" (single digits), "llama3", "gpt2", "smollm2", or an expression.
        special_tokens: get the ids 0, 1, ...; encoding finds them in text only with `special=`.
        min_frequency: minimum number of occurrences of a pair that is merged, >= 1. With 2, a pair that
            occurs once is never merged.
        nfc: normalise text to form C, here and in the tokenizer; decode then returns the normal form.
        workers: processes that split texts into words, see `map_in_order`; the tokenizer does not depend on
            it. None takes all cores, or 1 for at most 16 Mi characters.

    Returns:
        A Tokenizer. Its vocabulary is smaller than `vocab_size` if no pair occurs `min_frequency` times any
        more.

    Raises:
        TypeError: if `texts` is one string or contains anything but strings.
        ValueError: if there is no text, if the vocabulary is smaller than special tokens and alphabet, or
            if a special token is given twice or is a character of the alphabet.
        ChildProcessError: if a worker process was ended.

    Example:
        >>> tokenizer = train(["low lower lowest"], 262, special_tokens=["<|end|>"])
        >>> tokenizer.spec.merges[:3]
        (('l', 'o'), ('lo', 'w'), ('Ġ', 'low'))
        >>> tokenizer.decode(tokenizer.encode("slow")), len(tokenizer.encode("slow"))
        ('slow', 2)

    Source: Sennrich et al. 2016; bytes as in Radford et al. 2019.
    """
    if kind not in KINDS:
        raise ValueError(f"train: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if min_frequency < 1:
        raise ValueError(f"train: min_frequency must be at least 1 (occurrences), got {min_frequency}")
    word_counts = count_words(texts, pattern, nfc=nfc, workers=workers)
    if not word_counts:
        raise ValueError("train: there is no text to train on; give at least one string that is not empty")
    alphabet = ALPHABET if kind == "byte_level" else tuple(sorted(set().union(*word_counts)))
    _check_sizes(vocab_size, alphabet, special_tokens)
    vocab, merges = learn_merges(
        word_counts,
        [*special_tokens, *alphabet],
        vocab_size,
        kind=kind,
        min_frequency=min_frequency,
        forbidden=special_tokens,
    )
    added = tuple(AddedToken(token, i) for i, token in enumerate(special_tokens))
    return from_spec(
        TokenizerSpec(
            kind=kind,
            vocab=tuple(vocab),
            merges=tuple(merges),
            pattern=pattern,
            added_tokens=added,
            normalizer=NFC if nfc else (),
        )
    )


def count_words(
    texts: Iterable[str], pattern: str, *, nfc: bool = False, workers: int | None = 1
) -> Counter[str]:
    """Counts the words of texts, in several processes if `workers` says so (see `train`).

    Raises:
        TypeError: if `texts` is one string, or contains anything but strings.
        ValueError: if a text has half of a surrogate pair.
        ChildProcessError: if a worker process was ended.

    Example:
        >>> count_words(["a a b"], "gpt2")
        Counter({'a': 1, ' a': 1, ' b': 1})
    """
    if isinstance(texts, str | bytes):
        raise TypeError("train: texts must be several strings, got one; write [text] instead of text")
    check_pattern(pattern)
    batches = group(enumerate(texts), BATCH_CHARACTERS, _text_length)
    counts: Counter[str] = Counter()
    for _, found in map_in_order(partial(_count_batch, pattern=pattern, nfc=nfc), batches, workers):
        counts.update(found)
    return counts


def learn_merges(
    word_counts: Mapping[str, int],
    vocab: Sequence[str],
    vocab_size: int,
    *,
    kind: str,
    min_frequency: int = 2,
    forbidden: Collection[str] = (),
) -> tuple[list[str], list[tuple[str, str]]]:
    """Learns the merges of `bpe.learn_merges`, quickly.

    Args:
        word_counts: word of plain text -> its count.
        vocab: the first tokens: special tokens and the alphabet (`byte_level.ALPHABET` for byte-level).
        vocab_size: maximum number of tokens.
        kind: "byte_level" or "character".
        min_frequency: as in `bpe.learn_merges`.
        forbidden: as in `bpe.learn_merges`.

    Returns:
        (vocab, merges), those of `bpe.learn_merges` (for byte-level, `byte_level.learn_merges`).

    Steps:
        1. Put the distinct words in one row of ids; count pairs and index their places.
        2. Pop the most frequent pair from the heap, on a tie the smaller ids.
        3. Concatenate it to a token; one that exists keeps its id.
        4. Merge at each place, from left to right, and sum the changes of the neighbouring pairs.
        5. Correct counts, index and heap; repeat from 2 until the vocabulary is full.

    Edge cases: a pair that was merged once is not taken again, even if a later merge brings it back.

    Example:
        >>> learn_merges({"abc": 2, "ab": 1}, ["a", "b", "c"], 5, kind="character")
        (['a', 'b', 'c', 'ab', 'abc'], [('a', 'b'), ('ab', 'c')])
    """
    vocab, merges = list(vocab), []
    done: set[int] = set()
    ids = {token: i for i, token in enumerate(vocab)}
    lengths = [1] * len(vocab)
    # 1. The row and its index.
    symbols = _symbol_row(word_counts, ids, kind)
    pairs = _index_pairs(symbols)
    while len(vocab) < vocab_size:
        # 2. The best pair.
        key = _pop_pair(pairs, done, min_frequency)
        if key is None:
            break
        a, b = key >> 32, key & MASK
        done.add(key)
        token = vocab[a] + vocab[b]
        if token in forbidden:
            continue
        # 3. Its token.
        new = ids.setdefault(token, len(vocab))
        if new == len(vocab):
            vocab.append(token)
            lengths.append(lengths[a] + lengths[b])
        merges.append((vocab[a], vocab[b]))
        # 4. and 5. The row and its statistics.
        _merge_places(symbols, pairs, (a, b, new), lengths)
    return vocab, merges


def _text_length(numbered: tuple[int, object]) -> int:
    """Characters of a numbered text; 0 for anything else, which `_count_batch` refuses."""
    return len(numbered[1]) if isinstance(numbered[1], str) else 0


def _count_batch(numbered: list[tuple[int, str]], *, pattern: str, nfc: bool) -> Counter[str]:
    """Counts the words of a batch of numbered texts."""
    cutter = splitter(pattern)
    chunks = chunker(cutter)
    normalise = normalizer(NFC if nfc else ())
    counts: Counter[str] = Counter()
    for i, text in numbered:
        if not isinstance(text, str):
            raise TypeError(
                f"train: texts must hold strings, got {type(text).__name__} at {i}; decode it first"
            )
        try:
            text.isascii() or utf8(text)
        except ValueError as error:
            raise ValueError(f"train: {error} (text {i})") from None
        for chunk in chunks(normalise(text)):
            counts.update(split_words(cutter, chunk))
    return counts


def _symbol_row(word_counts: Mapping[str, int], ids: Mapping[str, int], kind: str) -> Symbols:
    """One row of the ids of all words, with NOTHING before each word and after the last."""
    if kind == "byte_level":
        encoded = [utf8(word) for word in word_counts]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        table = np.array([ids[character] for character in sorted(BYTES, key=BYTES.__getitem__)], np.int64)
        row = table[np.frombuffer(b"\0" + b"\0".join(encoded) + b"\0", np.uint8)]
    else:
        sizes = np.fromiter(map(len, word_counts), np.int64, len(word_counts))
        filler = next(iter(word_counts))[0]  # any known character: NOTHING overwrites it below
        row = np.array([ids[character] for character in filler + filler.join(word_counts) + filler], np.int64)
    weight = np.repeat(np.fromiter(word_counts.values(), np.int64, len(word_counts)), sizes + 1)
    row[0] = NOTHING
    row[np.cumsum(sizes + 1)] = NOTHING
    return Symbols(row.tolist(), row.tolist(), [0, *weight.tolist()])


def _index_pairs(symbols: Symbols) -> Pairs:
    """Counts every pair of neighbours and lists its places, ascending."""
    row, weight = np.array(symbols.first, np.int64), np.array(symbols.weight, np.int64)
    places = np.flatnonzero((row[:-1] >= 0) & (row[1:] >= 0))
    if not len(places):
        return Pairs({}, {}, [])
    keys = row[places] << 32 | row[places + 1]
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    distinct = keys[starts].tolist()
    counts = dict(zip(distinct, np.add.reduceat(weight[places], starts).tolist(), strict=True))
    groups = {key: group.tolist() for key, group in zip(distinct, np.split(places, starts[1:]), strict=True)}
    heap = [(-count, key) for key, count in counts.items()]
    heapq.heapify(heap)
    return Pairs(counts, groups, heap)


def _pop_pair(pairs: Pairs, done: Collection[int], min_frequency: int) -> int | None:
    """Pops the most frequent pair that is not done; None if no pair occurs often enough."""
    while pairs.heap:
        negative_count, key = heapq.heappop(pairs.heap)
        current = pairs.counts[key]
        if key in done or current < min_frequency:
            continue
        if current == -negative_count:
            return key
        heapq.heappush(pairs.heap, (-current, key))
    return None


def _merge_places(
    symbols: Symbols, pairs: Pairs, merge: tuple[int, int, int], lengths: Sequence[int]
) -> None:
    """Merges (a, b) into `new` everywhere, and corrects counts, places and heap of the pairs around it."""
    first, last, weight = symbols
    a, b, new = merge
    middle, size = lengths[a], lengths[a] + lengths[b]
    left: defaultdict[int, int] = defaultdict(int)  # left neighbour of a merged pair -> its count
    right: defaultdict[int, int] = defaultdict(int)
    places = defaultdict(list)
    for i in sorted(pairs.places.pop(a << 32 | b)):
        if first[i] != a or first[i + middle] != b:
            continue  # outdated: an earlier merge changed one of the two
        first[i], first[i + middle], last[i + size - 1] = new, NOTHING, new
        before, after = last[i - 1], first[i + size]
        if before >= 0:
            left[before] += weight[i]
            places[before << 32 | new].append(i - lengths[before])
        if after >= 0:
            right[after] += weight[i]
            places[new << 32 | after].append(i)
    counts = pairs.counts
    for x, count in right.items():  # b x becomes new x
        counts[new << 32 | x] = counts.get(new << 32 | x, 0) + count
        counts[b << 32 | x] -= count
    # x a becomes x new; after the loop above, since a left neighbour may itself be new
    for x, count in left.items():
        counts[x << 32 | new] = counts.get(x << 32 | new, 0) + count
        counts[x << 32 | a] -= count
    for key, indices in places.items():
        pairs.places.setdefault(key, []).extend(indices)
        heapq.heappush(pairs.heap, (-counts[key], key))


def _check_sizes(vocab_size: int, alphabet: Sequence[str], special_tokens: Sequence[str]) -> None:
    """Refuses a vocabulary without room for the alphabet and different special tokens."""
    repeated = [token for token, count in Counter(special_tokens).items() if count > 1]
    if repeated or isinstance(special_tokens, str):
        raise ValueError(
            f"train: special_tokens must be different strings, got {special_tokens!r}; keep one of each"
        )
    clash = [token for token in special_tokens if token in set(alphabet)]
    if clash:
        raise ValueError(
            f"train: the special token {clash[0]!r} is a character of the alphabet; make it longer"
        )
    least = len(alphabet) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"train: vocab_size is {vocab_size}, but the alphabet ({len(alphabet)}) and the special tokens "
            f"({len(special_tokens)}) need {least}; give at least that, plus one for each merge"
        )
