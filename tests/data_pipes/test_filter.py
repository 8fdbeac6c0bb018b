"""`data_pipes.filter`: each quality filter, and the report of dropped documents."""

from collections.abc import Iterator

import pytest

from data_pipes import filter as module
from data_pipes.duplicates import exact_duplicates, near_duplicates
from data_pipes.filter import (
    Drop,
    Filter,
    alphanumeric,
    apply_filters,
    binary,
    length,
    lines,
    prose,
    render_report,
    repetition,
    report,
)
from data_pipes.types import Document

ENGLISH = " ".join(
    f"The {thing} of the house have stood with us since {year}, and to be honest that is what we like."
    for year, thing in enumerate(["walls", "doors", "windows", "floors"], 1900)
)
DISTINCT = " ".join(f"word{i}" for i in range(200))


def reason(rule: Filter, text: str) -> str | None:
    return rule(Document(text, "x"))


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (length(3), "abc", "ab", "length: 2 characters, fewer than 3"),
        (length(0, 3), "abc", "abcd", "length: 4 characters, more than 3"),
        (length(), "a", "", "length: 0 characters, fewer than 1"),
        (binary(0.3), "ab\t\n\f\r\x01", "a\x01\ufffd", "binary: 0.667 of the characters are control or replacement"),
        (binary(), "", "\x80" * 9, "binary: 1 of"),
        (alphanumeric(0.5), "ab--", "a--", "alphanumeric: 0.333 of the"),
        (alphanumeric(), "é1", "", "alphanumeric: 0 of"),
        (lines(4, 9), "aaaa\nbbbb", "aaaaa\nbbbb", "lines: 4 characters a line, more than 4"),
        (lines(9, 9), "a" * 9, "a" * 10, "lines: the longest line has 10 characters, more than 9"),
        (prose(5, 99), ENGLISH, "The cat and", "prose: 3 words, not between 5 and 99"),
        (prose(5, 99), ENGLISH, ENGLISH + 40 * " word", "prose: 120 words"),
        (prose(1), ENGLISH, "a to of a", "prose: 1.5 characters a word, less than 3"),
        (prose(1), ENGLISH, "and " + "x" * 40, "prose: 21.5 characters a word, more than 10"),
        (prose(1), ENGLISH, ENGLISH + 12 * " #tag", "prose: 0.13 hashes or ellipses a word, more than 0.1"),
        (prose(1), ENGLISH, "- " + ENGLISH, "prose: 1 of the lines are bullets, more than 0.9"),
        (prose(1), ENGLISH, f"{ENGLISH}\n{ENGLISH}...", "prose: 0.5 of the lines end in an ellipsis, more than 0.3"),
        (prose(1), ENGLISH, ENGLISH + 30 * " 12345", "prose: 0.691 of the words have a letter, less than 0.8"),
        (prose(1), ENGLISH, DISTINCT, "prose: 0 of 8 common English words occur, less than 2"),
        (repetition(), DISTINCT, "a\nb\na\na", "repetition: 0.5 of the lines are duplicates, more than 0.3"),
        (repetition(), DISTINCT, "x" * 60 + "\nbb\ncc\n" + "x" * 60, "repetition: 0.472 of the char"),
        (repetition(), DISTINCT, DISTINCT + 60 * " and then", "repetition: 0.246 of the char"),
        (repetition(), DISTINCT, DISTINCT + " " + DISTINCT, "repetition: 0.5 of the char"),
        (repetition(), "", "a\n\na", "repetition: "),
    ],
)  # fmt: skip
def test_a_rule_keeps_the_good_text_and_drops_the_bad(rule: Filter, good: str, bad: str, words: str) -> None:
    assert reason(rule, good) is None
    assert (reason(rule, bad) or "").startswith(words)


def reference_repeated_share(text: str, n: int) -> float:
    """Share of the characters that are in an n-gram of words that occurred before."""
    parts = text.split()
    seen: set[tuple[str, ...]] = set()
    covered = set()
    for i in range(len(parts) - n + 1):
        run = tuple(parts[i : i + n])
        if run in seen:
            covered |= set(range(i, i + n))
        seen.add(run)
    return sum(len(parts[i]) for i in covered) / sum(map(len, parts))


@pytest.mark.parametrize("copies", [10, 30, 60, 120])
def test_repetition_equals_a_plain_count_of_repeated_n_grams(copies: int) -> None:
    text = DISTINCT + " " + " ".join(DISTINCT.split()[:copies])
    shares = {n: reference_repeated_share(text, n) for n in range(5, 11)}
    exceeded = [n for n in range(5, 11) if shares[n] > 0.2 - 0.01 * n]
    found = reason(repetition(), text)
    if exceeded:
        assert found is not None
        assert found.startswith(
            f"repetition: {shares[exceeded[0]]:.3g} of the characters are in repeated {exceeded[0]}-grams"
        )
    else:
        assert found is None


def test_the_most_frequent_2_gram_is_reported() -> None:
    """ "ab cd" eight times: 8 x 4 characters of 80 in all; the limit for two words is 0.2."""
    text = " ".join(f"ab cd w{i:05}" for i in range(8))
    assert (
        reason(repetition(), text)
        == "repetition: 0.4 of the characters are in the most frequent 2-gram of words, more than 0.2"
    )


def test_a_scale_above_one_raises_the_limits() -> None:
    text = "a\nb\na\na"
    assert reason(repetition(), text) is not None
    assert reason(repetition(4.0), text) is None


def test_documents_that_pass_are_yielded_and_others_reported() -> None:
    documents = [
        Document(text, name)
        for name, text in zip("abcde", ["long enough", "s", "long enough", "", "other text"], strict=True)
    ]
    drops: list[Drop] = []
    found = list(apply_filters(documents, [length(2), exact_duplicates()], on_drop=drops.append))
    assert found == [documents[0], documents[4]]
    assert [(drop.name, drop.characters) for drop in drops] == [("b", 1), ("c", 11), ("d", 0)]
    assert drops[1].reason == "exact duplicate: the same text as a"


def test_later_filters_do_not_see_a_dropped_document() -> None:
    drops: list[Drop] = []
    documents = [Document("x", "a"), Document("x", "b")]
    assert list(apply_filters(documents, [length(5), exact_duplicates()], on_drop=drops.append)) == []
    assert [drop.reason.split(":")[0] for drop in drops] == ["length", "length"]


def test_filters_read_documents_lazily() -> None:
    requested = []

    def stream() -> Iterator[Document]:
        for i in range(9):
            requested.append(i)
            yield Document("x" * i, str(i))

    kept = apply_filters(stream(), [length(2)], on_drop=lambda drop: None)
    assert next(kept).name == "2"
    assert requested == [0, 1, 2]


def test_a_report_counts_drops_by_filter_with_examples() -> None:
    drops = [Drop(str(i), f"length: {i} characters", i) for i in range(5)] + [Drop("z", "binary: all", 100)]
    found = report(drops)
    assert found.dropped == {"length": (5, 10), "binary": (1, 100)}
    assert found.examples["length"] == ["0 (0 characters)", "1 (1 characters)", "2 (2 characters)"]
    assert render_report(found).splitlines()[0] == "binary: 1 document, 100 characters; z (all)"
    assert render_report(report([])) == "no document was dropped"


def test_a_maximum_below_the_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="maximum must be at least minimum, got 3 and 2; swap"):
        length(3, 2)


def test_the_number_of_workers_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that each rule drops, copies and near copies of kept and of dropped ones, in many batches."""
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 2000)
    texts = ["short", "a" * 99 + "\x01" * 9, "bb\n" * 50]
    for number in range(30):
        words = [f"w{number * (i % 40 + 3) % 997}x{i}" for i in range(120)]
        texts += [" ".join(words), " ".join([*words[:-1], f"other{number}"]), " ".join(words)]
    documents = [Document(text, str(number)) for number, text in enumerate(texts * 2)]
    rules = (length(50), binary(), repetition(), exact_duplicates(), near_duplicates())
    outcomes = []
    for workers in (1, 2, 3, None):
        drops: list[Drop] = []
        kept = list(apply_filters(documents, rules, on_drop=drops.append, workers=workers))
        outcomes.append((kept, drops))
    assert outcomes == [outcomes[0]] * 4
    assert set(report(outcomes[0][1]).dropped) == {
        "length",
        "binary",
        "repetition",
        "exact duplicate",
        "near duplicate",
    }
    assert len(outcomes[0][0]) == 30
