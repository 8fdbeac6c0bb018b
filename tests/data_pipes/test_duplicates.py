"""`data_pipes.duplicates`: filters for exact and near duplicates (MinHash signatures)."""

import numpy as np
import pytest

from data_pipes.duplicates import exact_duplicates, near_duplicates, signature
from data_pipes.filter import Drop, Fold, apply_filters
from data_pipes.ngram import hash_ngrams, hash_words, mix, split_words
from data_pipes.types import Document


def random_words(seed: int, count: int) -> list[str]:
    return [f"w{n}" for n in np.random.default_rng(seed).integers(10**6, size=count)]


def names_of_kept(fold: Fold, *texts: str) -> list[str]:
    """Number the texts and return the numbers of those that the filter keeps."""
    documents = [Document(text, str(number)) for number, text in enumerate(texts)]
    return [document.name for document in apply_filters(documents, [fold], on_drop=lambda drop: None)]


def jaccard(a: str, b: str) -> float:
    first, second = (set(hash_ngrams(hash_words(split_words(text)), 5).tolist()) for text in (a, b))
    return len(first & second) / len(first | second)


def similar_texts(share: float, seed: int, count: int = 300) -> tuple[str, str]:
    """Two texts of `count` words, of which the first `share` are the same."""
    shared = random_words(seed, int(share * count))
    rest = [random_words(seed + i, count - len(shared)) for i in (10_000, 20_000)]
    return " ".join(shared + rest[0]), " ".join(shared + rest[1])


def test_only_the_first_of_equal_texts_is_kept() -> None:
    assert names_of_kept(exact_duplicates(), "a", "b", "a", "a ", "b") == ["0", "1", "3"]


def test_a_filter_starts_each_use_with_empty_memory() -> None:
    for fold in (exact_duplicates(), near_duplicates()):
        text = " ".join(random_words(0, 50))
        assert names_of_kept(fold, text) == names_of_kept(fold, text) == ["0"]


def test_documents_with_the_same_name_are_distinguished_by_text() -> None:
    drops: list[Drop] = []
    documents = [Document("x", "same")] * 2
    assert len(list(apply_filters(documents, [exact_duplicates()], on_drop=drops.append))) == 1
    assert drops[0].reason == "exact duplicate: the same text as same"


def test_signatures_estimate_the_jaccard_similarity() -> None:
    """Unbiased, with the standard error of 128 samples: 60 pairs together are within 4 standard errors."""
    pairs = [similar_texts(share, seed) for seed, share in enumerate(np.linspace(0.05, 0.95, 60))]
    truth = np.array([jaccard(a, b) for a, b in pairs])
    estimate = np.array([(signature(a) == signature(b)).mean() for a, b in pairs])
    standard_error = np.sqrt(truth * (1 - truth) / 128)
    assert abs((estimate - truth).sum()) < 4 * np.sqrt((standard_error**2).sum())
    assert (abs(estimate - truth) < 4.5 * standard_error + 1 / 128).all()


@pytest.mark.parametrize("count", [3, 40, 1500])
def test_a_signature_is_that_of_plain_integers(count: int) -> None:
    """More shingles than are hashed at once, and fewer words than a shingle has."""
    words, size = random_words(1, count), 6
    shingles = {h % 2**32 for h in hash_ngrams(hash_words(words), min(5, count)).tolist()}
    coefficients = [x % 2**32 for x in mix(np.arange(2 * size, dtype=np.uint64)).tolist()]
    expected = [
        min(((a | 1) * h + b) % 2**32 for h in shingles)
        for a, b in zip(coefficients[:size], coefficients[size:], strict=True)
    ]
    ours = signature(" ".join(words), size=size)
    assert ours is not None
    assert ours.tolist() == expected


@pytest.mark.parametrize(
    ("similarity", "share", "near"), [(0.8, 0.97, True), (0.8, 0.7, False), (0.4, 0.8, True)]
)
def test_the_later_of_two_near_duplicates_is_dropped(similarity: float, share: float, near: bool) -> None:
    for seed in range(5):
        a, b = similar_texts(share, seed)
        assert abs(jaccard(a, b) - similarity) > 0.12
        assert (jaccard(a, b) > similarity) == near
        assert names_of_kept(near_duplicates(similarity), a, b) == (["0"] if near else ["0", "1"])


def test_documents_are_not_compared_with_dropped_ones() -> None:
    """The second is near the first, the third is near only the second: the third stays."""
    base = random_words(0, 400)
    texts = [" ".join(base[start : start + 300]) for start in (0, 30, 60)]
    assert jaccard(texts[0], texts[1]) > 0.8 > 0.7 > jaccard(texts[0], texts[2])
    assert names_of_kept(near_duplicates(0.75), *texts) == ["0", "2"]


def test_empty_texts_are_all_kept_and_short_ones_compared() -> None:
    assert signature("  \n") is None
    assert names_of_kept(near_duplicates(), "", " ", "one", "one", "one two", "two one") == [
        "0",
        "1",
        "2",
        "4",
        "5",
    ]


def test_long_texts_are_hashed_in_blocks() -> None:
    long = " ".join(random_words(1, 5000))
    shingles = np.unique(hash_ngrams(hash_words(split_words(long)), 5)).astype(np.uint32)
    assert len(shingles) > 4096
    parts = [" ".join(random_words(1, 5000)[i : i + 1004]) for i in range(0, 5000, 1000)]
    expected = np.min([signature(part) for part in parts if len(part.split()) >= 5], axis=0)
    assert np.array_equal(signature(long), expected)


@pytest.mark.parametrize(
    "options", [{"similarity": 0.0}, {"similarity": 1.1}, {"shingle": 0}, {"bands": 0}, {"rows": 0}]
)
def test_invalid_arguments_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"similarity must be in \(0, 1\]"):
        near_duplicates(**options)
