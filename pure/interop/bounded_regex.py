"""Match untrusted regular expressions in bounded time and memory.

Python's engine backtracks, so a short expression in a file can run without end. Here an expression is parsed
by Python's own parser and evaluated on sets of positions: every node of the syntax tree is evaluated at most
once for each position of the text. The result is the same, as it only says if a text matches, not which group
matched which part.

Shape letters: N nodes of the expression, T characters of the text.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from typing import Any, NamedTuple

# Python has no public parser of regular expressions: `re` returns compiled patterns only.
_parser = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

LONGEST = 10_000
"""Characters of an expression at most."""

STEPS = 10_000
"""Steps at most for one text: a pattern of a module's name takes a few hundred."""

COUNT = (0, -1, 0)
"""The key of the step counter in `_Run.known`."""


class Pattern(NamedTuple):
    """A parsed expression.

    Fields:
        source: the expression.
        nodes: its syntax tree, Python's.
        flags: of the whole.
    """

    source: str
    nodes: Any
    flags: int


class _Run(NamedTuple):
    """One evaluation: the text, and {(node, position, flags): ends, a bit for each position}."""

    text: str
    known: dict[tuple[int, int, int], int]


def compile(source: str) -> Pattern:
    """Parses an expression.

    Args:
        source: in the syntax of Python's `re`.

    Raises:
        ValueError: if it is not a regular expression, or too long or too deep; it says which.

    Example:
        >>> fullmatch(compile(r".*[.](q|v)_proj"), "layers.0.q_proj")
        True
    """
    if len(source) > LONGEST:
        raise ValueError(
            f"the regular expression {source[:40]!r}... has {len(source):,} characters, over {LONGEST:,}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(source)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{source[:80]!r} is not a regular expression that can be parsed: {error}") from None
    return Pattern(source, parsed, parsed.state.flags)


def fullmatch(pattern: Pattern, text: str) -> bool:
    """Reports a match of the whole text, as `re.fullmatch`.

    Raises:
        ValueError: as `match`.
    """
    return bool(_evaluate(pattern, text) >> len(text) & 1)


def match(pattern: Pattern, text: str) -> bool:
    """Reports a match at the start of the text, as `re.match`.

    Raises:
        ValueError: if the expression refers back to a group, is possessive, or takes too many steps.

    Example:
        >>> match(compile("(a|ab)(c|bcd)$"), "abcd")
        True
    """
    return bool(_evaluate(pattern, text))


def _evaluate(pattern: Pattern, text: str) -> int:
    """Finds the ends of all matches that begin at 0, a bit for each."""
    try:
        return _sequence(pattern.nodes, 1, _Run(text, {}), pattern.flags)
    except RecursionError:
        raise ValueError(f"the regular expression {pattern.source[:80]!r} is nested too deeply") from None
    except ValueError as refused:
        raise ValueError(
            f"the regular expression {pattern.source[:80]!r} {refused}; write it in another way"
        ) from None


def _sequence(nodes: Any, starts: int, run: _Run, flags: int) -> int:
    """Finds the ends of consecutive nodes."""
    for node in nodes:
        if not starts:
            return 0
        starts = _ends(node, starts, run, flags)
    return starts


def _ends(node: Any, starts: int, run: _Run, flags: int) -> int:
    """Finds the ends of one node from any of the starts."""
    ends = 0
    while starts:
        start = (starts & -starts).bit_length() - 1
        starts &= starts - 1
        place = (id(node), start, flags)
        run.known[COUNT] = run.known.get(COUNT, 0) + 1
        if run.known[COUNT] > STEPS:
            raise ValueError("takes too many steps")
        if place not in run.known:
            run.known[place] = _node(node, start, run, flags)
        ends |= run.known[place]
    return ends


def _node(node: Any, start: int, run: _Run, flags: int) -> int:
    """Finds the ends of one node from one start."""
    kind, value = str(node[0]), node[1]
    if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
        inside = start < len(run.text) and _character(kind, value, run.text[start], flags)
        return int(inside) << (start + 1)
    if kind == "BRANCH":
        ends = 0
        for branch in value[1]:
            ends |= _sequence(branch, 1 << start, run, flags)
        return ends
    if kind == "SUBPATTERN":
        return _sequence(value[3], 1 << start, run, (flags | value[1]) & ~value[2])
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        return _repeat(value, start, run, flags)
    if kind == "AT":
        return int(_anchor(str(value), start, run.text)) << start
    if kind in ("ASSERT", "ASSERT_NOT"):
        return int(_assertion(value, start, run, flags) == (kind == "ASSERT")) << start
    raise ValueError(f"has a part that is not supported ({kind.lower()})")


def _repeat(value: Any, start: int, run: _Run, flags: int) -> int:
    """Finds the ends of a repetition: the least number of rounds, then more until no new end is found."""
    least, most, body = value
    ends = 1 << start
    for _ in range(min(int(least), len(run.text) + 1)):  # later rounds reach the same positions
        ends = _sequence(body, ends, run, flags)
    new_ends = ends
    for _ in range(min(int(most) - int(least), len(run.text) + 1)):
        new_ends = _sequence(body, new_ends, run, flags) & ~ends
        if not new_ends:
            break
        ends |= new_ends
    return ends


def _assertion(value: Any, start: int, run: _Run, flags: int) -> bool:
    """Evaluates a lookahead or lookbehind."""
    direction, body = value
    if direction > 0:
        return bool(_sequence(body, 1 << start, run, flags))
    return bool(_sequence(body, (2 << start) - 1, run, flags) >> start & 1)


def _anchor(where: str, start: int, text: str) -> bool:
    """Evaluates an anchor."""
    if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return start == 0
    if where == "AT_END_STRING":
        return start == len(text)
    if where == "AT_END":
        return start == len(text) or (start == len(text) - 1 and text[start] == "\n")
    inside = [0 <= i < len(text) and (text[i].isalnum() or text[i] == "_") for i in (start - 1, start)]
    return (inside[0] != inside[1]) == (where == "AT_BOUNDARY")


def _character(kind: str, value: Any, character: str, flags: int) -> bool:
    """Matches a node of one character."""
    if kind == "ANY":
        return character != "\n" or bool(flags & re.DOTALL)
    cases = {character}
    if flags & re.IGNORECASE:
        cases |= {character.lower(), character.upper()}
    codes = [ord(case) for case in cases if len(case) == 1]
    if kind in ("LITERAL", "NOT_LITERAL"):
        return (value in codes) == (kind == "LITERAL")
    negated = str(value[0][0]) == "NEGATE"
    return any(_member(item, code) for item in value[negated:] for code in codes) != negated


def _member(item: Any, code: int) -> bool:
    """Matches a member of a character class."""
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return code == value
    if kind == "RANGE":
        return value[0] <= code <= value[1]
    name, character = str(value).removeprefix("CATEGORY_"), chr(code)
    inside = {
        "DIGIT": character.isdecimal(),
        "SPACE": character.isspace(),
        "WORD": character.isalnum() or character == "_",
    }[name.removeprefix("NOT_")]
    return inside != name.startswith("NOT_")
