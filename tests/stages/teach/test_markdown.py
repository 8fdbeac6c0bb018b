"""Units of pages."""

from __future__ import annotations

import pytest

from stages.teach.markdown import split_markdown, translate_markdown
from tests.rules.source import ROOT

PAGES = sorted((ROOT / "stages/teach").glob("*/*.md"))

TEXT = """# Title

A paragraph with `code`.

1. First item
- other item

```python
x = 1
```

```
low   new token
```

| name | meaning |
|---|---|
| `x` | 1 |
"""


def test_units_of_a_page() -> None:
    assert [tuple(unit) for unit in split_markdown(TEXT)] == [
        ("Title", "Title"),
        ("A paragraph with `code`.", "Title"),
        ("First item", "Title"),
        ("other item", "Title"),
        ("low   new token", "Title"),
        ("| name | meaning |", "Title"),
    ]


def test_lines_of_a_paragraph_and_of_an_item_are_one_unit() -> None:
    text = "A paragraph\nof two lines.\n\n- An item\n  of two lines.\n- Another.\n\n```\n```\n| a | word |\n"
    keys = ["A paragraph of two lines.", "An item of two lines.", "Another.", "| a | word |"]
    assert [unit.text for unit in split_markdown(text)] == keys
    result = translate_markdown(text, {key: key.upper() for key in keys[:3]})
    assert (
        result
        == "A PARAGRAPH OF TWO LINES.\n\n- AN ITEM OF TWO LINES.\n- ANOTHER.\n\n```\n```\n| a | word |\n"
    )


def test_a_translated_page() -> None:
    result = translate_markdown(TEXT, {unit.text: unit.text.upper() for unit in split_markdown(TEXT)})
    assert result == TEXT.replace("x = 1", "X = 1").upper().replace(
        "```PYTHON\nX = 1", "```python\nx = 1"
    ).replace("| `X` | 1 |", "| `x` | 1 |")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_without_translations_stays_as_it_is(path: object) -> None:
    text = ROOT.joinpath(str(path)).read_text(encoding="utf8")
    assert translate_markdown(text, {}) == text
    assert len(split_markdown(text)) > 8
