"""The held-out text: the same on every machine, never in the training split, never empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data_pipes.types import Document
from stages.run.data import held_out
from stages.run.data.held_out import choose_rule


def make_documents(count: int, root: str = "text") -> list[Document]:
    return [Document(f"line {i}\nand more {i}\n", f"{root}/{i}.txt") for i in range(count)]


def split(
    documents: list[Document], rule: held_out.Rule, share: float = 0.1, root: str = "text"
) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {"train": [], "held_out": []}
    for part, document in held_out.split(documents, rule=rule, share=share, root=root):
        parts[part].append(document.text)
    return parts


def test_of_many_documents_whole_ones_are_held_out_by_their_names() -> None:
    documents = make_documents(500)
    assert choose_rule(documents, 0.1, "text") == "names"
    parts = split(documents, "names")
    assert 30 < len(parts["held_out"]) < 75
    assert sorted(parts["train"] + parts["held_out"]) == sorted(document.text for document in documents)


@pytest.mark.parametrize("root", ["text", "/elsewhere/text", "./text/"])
def test_the_same_folder_under_another_path_is_split_the_same(root: str) -> None:
    root_name = root.removeprefix("./").rstrip("/")
    assert split(make_documents(300, root_name), "names", root=root) == split(make_documents(300), "names")


def test_adding_documents_keeps_the_earlier_choice() -> None:
    before, after = (set(split(make_documents(count), "names")["held_out"]) for count in (300, 400))
    assert before < after


def test_of_few_documents_the_end_of_each_is_held_out() -> None:
    documents = [Document("".join(f"{i} {k}\n" for k in range(20)), str(i)) for i in range(5)]
    assert choose_rule(documents, 0.1, "text") == "ends"
    parts = split(documents, "ends")
    assert [text.splitlines() for text in parts["held_out"]] == [[f"{i} 19"] for i in range(5)]
    joined = [head + tail for head, tail in zip(parts["train"], parts["held_out"], strict=True)]
    assert joined == [document.text for document in documents]


@pytest.mark.parametrize("text", ["one line without an end", "ab", "a", "x\ny", "\n\n\n\n"])
def test_splitting_a_very_short_text_loses_nothing(text: str) -> None:
    parts = split([Document(text, "a")], "ends", share=0.5)
    assert "".join(parts["train"] + parts["held_out"]) == text
    assert parts["train"]


def test_choosing_the_rule_reads_few_documents() -> None:
    names_read = []

    def stream() -> Iterator[Document]:
        for document in make_documents(10_000):
            names_read.append(document.name)
            yield document

    assert choose_rule(stream(), 0.1, "text") == "names"
    assert len(names_read) < 100


def test_if_no_document_is_chosen_by_name_the_ends_are_held_out() -> None:
    from data_pipes.embedded.python_library import is_held_out

    unlucky = [
        document
        for document in make_documents(500)
        if not is_held_out(document.name.removeprefix("text/"), 0.1)
    ]
    assert choose_rule(unlucky, 0.1, "text") == "ends"


def test_the_parts_of_an_embedded_file_stay_in_one_split() -> None:
    documents = [Document("text\n", f"pydoc_data/topics.py#{i}") for i in range(200)]
    assert choose_rule(documents, 0.1, "embedded") == "names"
    parts = split(documents, "names", root="embedded")
    assert sorted(map(len, parts.values())) == [0, 200]


def test_the_held_out_text_has_about_most_bytes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_BYTES", 100)
    parts = split(make_documents(500), "names")
    assert 100 <= sum(map(len, parts["held_out"])) < 150
    assert len(parts["train"]) + len(parts["held_out"]) == 500


@pytest.mark.parametrize("share", [0.0, -0.1, 0.6, 5.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"--held_out: expected a share in \(0, 0\.5\]"):
        choose_rule(make_documents(3), share, "text")


def test_documents_without_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--data_path text: there is no text in it \(2 documents"):
        choose_rule([Document("", "a"), Document(" \n", "b")], 0.1, "text")
    with pytest.raises(ValueError, match="none with text\\); all were too short; give"):
        choose_rule([], 0.1, "text", lambda: "; all were too short")
