"""Generated sections are rewritten, all other lines of a card stay, and an edited section is refused."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from stages.card.section import merge, read_front

FRONT = {"library_name": "transformers", "base_model": ["a/b"], "tags": ["sft"], "datasets": []}


def test_a_new_card_is_read_by_the_library() -> None:
    card = ModelCard(merge(None, FRONT, "Facts.", "run"), ignore_metadata_errors=False)
    assert card.data.to_dict() == {"library_name": "transformers", "base_model": ["a/b"], "tags": ["sft"]}
    assert "\n# run\n" in card.text
    assert "Facts." in card.text


@pytest.mark.parametrize(
    "text", ["NO", "no", "1e3", "0x1F", "a: b #c", "~", "@x", "数据", "- x", 'it\'s "q"', "12:30"]
)
def test_no_text_is_taken_for_anything_else(text: str) -> None:
    card = merge(None, {"library_name": text, "tags": [text]}, "", "run")
    assert read_front(card) == {"library_name": text, "tags": [text]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_the_user_wrote_stays(end: str) -> None:
    card = merge(None, FRONT, "Facts.", "run").replace("# run", "# Mein Modell\n\n---\nÜber es  \n\ttabs")
    card = (
        card.replace("---\n", "---\nlicense: mit\nlibrary_name: jax\n", 1).replace("\n", end)
        + f"Last.{end * 3}"
    )
    new = merge(card, FRONT | {"tags": ["dpo"]}, "New\nfacts.", "other")
    assert read_front(new) == {
        "license": "mit",
        "library_name": "jax",
        "base_model": ["a/b"],
        "tags": ["dpo"],
    }
    assert f"# Mein Modell{end}{end}---{end}Über es  {end}\ttabs{end}" in new
    assert new.endswith(f"Last.{end * 3}")
    assert "Facts." not in new
    assert new.count("\r\n") == (new.count("\n") if end == "\r\n" else 0)
    assert merge(new, FRONT | {"tags": ["dpo"]}, "New\nfacts.", "other") == new


def test_fields_that_the_hub_rewrote_are_kept_and_not_doubled() -> None:
    card = merge(None, FRONT, "Facts.", "run")
    rewritten = "\n".join(line for line in card.split("\n") if not line.startswith("# intro2llm"))
    new = merge(rewritten, FRONT | {"pipeline_tag": "text-generation"}, "Facts.", "run")
    assert read_front(new) == read_front(card) | {"pipeline_tag": "text-generation"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Facts.", "Facts. And mine."), "generated section of its text was edited; move your words out"),
        (('- "sft"', '- "mine"'), "generated section of its front matter was edited"),
        (("<!-- intro2llm card: end -->", ""), "has 1 begin and 0 end markers"),
        (("---\n", "---\na: [\n"), "front matter is not YAML"),
        (("---\n", "---\nwords\n"), "front matter is a str, expected fields"),
        (("\n---\n\n#", "\n\n#"), "front matter has no end"),
    ],
)
def test_a_card_that_would_lose_words_is_refused(change: tuple[str, str], message: str) -> None:
    card = merge(None, FRONT, "Facts.", "run")
    changed = card.replace(*change, 1)
    assert changed != card
    with pytest.raises(ValueError, match=message):
        merge(changed, FRONT, "New.", "run")


def test_a_card_of_somebody_else_is_refused_until_it_has_a_place_for_the_section() -> None:
    with pytest.raises(
        ValueError, match="no generated section; put the lines <!-- intro2llm card: begin -->"
    ):
        merge("# Theirs\n", FRONT, "Facts.", "run")
    place = "# Theirs\n<!-- intro2llm card: begin -->\n<!-- intro2llm card: end -->\nEnd.\n"
    new = merge(place, FRONT, "Facts.", "run")
    assert new.endswith("\nFacts.\n<!-- intro2llm card: end -->\nEnd.\n")
    assert read_front("\ufeff" + new)["tags"] == ["sft"]
    mixed = "\ufeff" + new.replace("End.", "One.\r\nEnd.")
    assert merge(mixed, FRONT, "Facts.", "run") == new.replace("End.", "One.\nEnd.")
