"""Patterns match as Python's engine does, and never run for long."""

from __future__ import annotations

import random
import re

import pytest

from pure.interop import bounded_regex

NAMES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.up_proj",
    "lm_head",
    "model.embed_tokens",
    "",
    "Q_PROJ",
)
SOURCES = (
    r".*\.(q|v)_proj", r"^(?!.*mlp).*(q_proj|up_proj)$", r"(?i)q_proj", r"(?i:Q)_PROJ",
    r".*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?",
    r"(.*\.)?(q_proj)$", r"(^|.*\.)lm_head($|\..*)", r"(?:^|.*?\.)layers\.(?P<idx>\d+)\.",
    r"model\.layers\.[\d]{1,}\..*", r".*\.1{2}\..*",
    r"[^.]+", r"[a-z_.]+[0-9]*.*", r"\bmodel\b.*", r".*(?<=self_attn)\.q_proj", r".*(?<!mlp\.)up_proj",
    r"(a*)*", r"(|lm_head)", r"\w+\W\D*.*",
    r".{6,7}", r"(?:.|..){3,4}d?", r"(?s).*", r"\Amodel.*\Z", r"lm_head$", r".*[^\w.].*", r"(lm|model)(?=_).*",
    r"(?x) lm_ head # name",
)  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_it_matches_as_python_does(source: str) -> None:
    for name in NAMES:
        found = bounded_regex.compile(source)
        assert bounded_regex.fullmatch(found, name) == bool(re.fullmatch(source, name)), name
        assert bounded_regex.match(found, name) == bool(re.match(source, name)), name


def test_drawn_expressions_match_as_python_does() -> None:
    draw = random.Random(0)
    parts = (
        "a",
        "b",
        ".",
        "[ab]",
        "[^a]",
        "^",
        "$",
        r"\b",
        "(a|b)",
        "(?:ab|)",
        "(?=a)",
        "(?!b)",
        "(?<=a)",
        "(?<!b)",
    )
    for _ in range(250):
        source = "".join(
            draw.choice(parts) + draw.choice(("", "", "", "?", "*", "+", "*?", "{2}", "{1,2}"))
            for _ in range(4)
        )
        try:
            re.compile(source)
        except re.error:
            continue
        for text in ("", "a", "ab", "abab", "bba", "aabba"):
            found = bounded_regex.compile(source)
            assert bounded_regex.fullmatch(found, text) == bool(re.fullmatch(source, text)), (source, text)
            assert bounded_regex.match(found, text) == bool(re.match(source, text)), (source, text)


@pytest.mark.parametrize(
    "source",
    [
        "(q|.*)*_proj!",
        "((.*)*)*!",
        "(((a{99}){99}){99}){99}",
        "(?:a{1000}){1000000}",
        "(((((.*)+.)+.)+.)+.)+!",
        "(?:.|.|.){40}!",
        "a|" * 4900 + "b",
        "(?i)" + "(.*)*" * 4 + "!",
    ],
)
def test_expressions_that_never_end_in_pythons_engine(source: str) -> None:
    found = bounded_regex.compile(source)
    assert not any(bounded_regex.fullmatch(found, name) for name in NAMES if name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("[", "not a regular expression"),
        ("(", "not a regular expression"),
        ("(" * 5000 + ")" * 5000, "not a regular expression"),
        ("a{99999999999999999999}", "not a regular expression"),
        ("a" * 10_001, "has 10,001 characters"),
        (r"(m)odel\1?.*", r"not supported \(groupref\)"),
        ("(.)?(?(1)a|b)", "not supported"),
        ("(.*)*" * 2000, "takes too many steps"),
        ("(" * 90 + "a*" + ")*" * 90, "nested too deeply"),
    ],
)
def test_unsupported_patterns_are_refused_in_one_line(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        bounded_regex.match(bounded_regex.compile(source), "model" * 8)
    assert "\n" not in str(caught.value)
