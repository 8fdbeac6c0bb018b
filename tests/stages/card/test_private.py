"""Texts of a card keep no absolute path, wherever it stands in them."""

from __future__ import annotations

import pytest

from stages.card.private import publish, publish_text

HOME = "/srv/people/ada"


@pytest.mark.parametrize(
    ("text", "published"),
    [
        (f"file://{HOME}/x", "file://~/x"),
        (f"file://localhost{HOME}", "file://~"),
        (f'{{"p": "{HOME}/x"}}', '{"p": "~/x"}'),
        ('{"p": "/data/eve/my x.json", "n": 1}', '{"p": "my x.json", "n": 1}'),
        ("read /data/eve/x/, then key:/data/eve/y.py:f", "read x, then key:y.py:f"),
        ('{"p": "C:\\\\Users\\\\ada\\\\x"}', '{"p": "x"}'),
        ("a/b/c, 1/2/3, /think, https://host:80/a/b", "a/b/c, 1/2/3, /think, https://host:80/a/b"),
    ],
)
def test_a_path_within_a_text_is_shortened(text: str, published: str) -> None:
    assert publish("template_kwargs", text, HOME) == published
    assert publish_text(text, HOME) == published
