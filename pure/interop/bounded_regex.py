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

MAX_LENGTH = 10_000
"""Maximum number of characters of an expression."""

MAX_STEPS = 10_000
"""Maximum number of steps for one text: a pattern of a module's name takes a few hundred."""

MAX_DEPTH = 150
"""Maximum depth of the syntax tree, in which a group is three levels: far from Python's recursion limit,
which other libraries change."""

STEP_COUNT = (0, -1, 0)
"""Key of the step counter in `_Run.ends`; no node is evaluated at position -1."""


class Pattern(NamedTuple):
    """A parsed expression.

    Fields:
        source: the expression.
        nodes: its syntax tree, as Python's parser returns it.
        flags: of the whole expression.
    """

    source: str
    nodes: Any
    flags: int


class _Run(NamedTuple):
    """One evaluation of an expression on a text.

    Sets of positions are ints here and in all functions below: bit p is set if position p is in the set.

    Fields:
        text: the text.
        ends: memo of `_match_node`, {(id of the node, start, flags): set of ends}, and the step counter.
    """

    text: str
    ends: dict[tuple[int, int, int], int]


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
    if len(source) > MAX_LENGTH:
        raise ValueError(
            f"the regular expression {source[:40]!r}... has {len(source):,} characters, over {MAX_LENGTH:,}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(source)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{source[:80]!r} is not a regular expression that can be parsed: {error}") from None
    if _is_deeper(parsed, MAX_DEPTH):
        raise ValueError(f"the regular expression {source[:80]!r} is nested too deeply")
    return Pattern(source, parsed, parsed.state.flags)


def fullmatch(pattern: Pattern, text: str) -> bool:
    """Reports a match of the whole text, as `re.fullmatch`.

    Raises:
        ValueError: as `match`.
    """
    return bool((_evaluate(pattern, text) >> len(text)) & 1)


def match(pattern: Pattern, text: str) -> bool:
    """Reports a match at the start of the text, as `re.match`.

    Raises:
        ValueError: if the expression has a backreference or a possessive quantifier, or takes too many steps.

    Example:
        >>> match(compile("(a|ab)(c|bcd)$"), "abcd")
        True
    """
    return bool(_evaluate(pattern, text))


def _evaluate(pattern: Pattern, text: str) -> int:
    """Finds the set of ends of all matches that start at 0."""
    try:
        return _match_sequence(pattern.nodes, 1, _Run(text, {}), pattern.flags)
    except ValueError as refused:
        raise ValueError(
            f"the regular expression {pattern.source[:80]!r} {refused}; write it in another way"
        ) from None


def _is_deeper(nodes: Any, depth: int) -> bool:
    """Reports if a syntax tree has more than `depth` levels."""
    if isinstance(nodes, (int, str)) or nodes is None:
        return False
    return depth == 0 or any(_is_deeper(node, depth - 1) for node in nodes)


def _match_sequence(nodes: Any, starts: int, run: _Run, flags: int) -> int:
    """Finds the set of ends of consecutive nodes from a set of starts."""
    for node in nodes:
        if not starts:
            return 0
        starts = _match_node_from_all(node, starts, run, flags)
    return starts


def _match_node_from_all(node: Any, starts: int, run: _Run, flags: int) -> int:
    """Finds the set of ends of one node from a set of starts."""
    ends = 0
    while starts:
        start = (starts & -starts).bit_length() - 1  # the lowest position of the set
        starts &= starts - 1  # removes it
        run.ends[STEP_COUNT] = run.ends.get(STEP_COUNT, 0) + 1
        if run.ends[STEP_COUNT] > MAX_STEPS:
            raise ValueError("takes too many steps")
        memo_key = (id(node), start, flags)
        if memo_key not in run.ends:
            run.ends[memo_key] = _match_node(node, start, run, flags)
        ends |= run.ends[memo_key]
    return ends


def _match_node(node: Any, start: int, run: _Run, flags: int) -> int:
    """Finds the set of ends of one node from one start."""
    kind, value = str(node[0]), node[1]
    if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
        matches = start < len(run.text) and _matches_character(kind, value, run.text[start], flags)
        return int(matches) << (start + 1)
    if kind == "BRANCH":
        ends = 0
        for branch in value[1]:
            ends |= _match_sequence(branch, 1 << start, run, flags)
        return ends
    if kind == "SUBPATTERN":
        return _match_sequence(value[3], 1 << start, run, (flags | value[1]) & ~value[2])
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        return _match_repeat(value, start, run, flags)
    if kind == "AT":
        return int(_matches_anchor(str(value), start, run.text)) << start
    if kind in ("ASSERT", "ASSERT_NOT"):
        negated = kind == "ASSERT_NOT"
        return int(_matches_lookaround(value, start, run, flags) != negated) << start
    raise ValueError(f"has a part that is not supported ({kind.lower()})")


def _match_repeat(value: Any, start: int, run: _Run, flags: int) -> int:
    """Finds the set of ends of a repetition: the minimum rounds, then more until no new end is found."""
    least, most, body = value
    ends = 1 << start
    for _ in range(min(int(least), len(run.text) + 1)):  # later rounds reach the same positions
        ends = _match_sequence(body, ends, run, flags)
    new_ends = ends
    for _ in range(min(int(most) - int(least), len(run.text) + 1)):
        new_ends = _match_sequence(body, new_ends, run, flags) & ~ends
        if not new_ends:
            break
        ends |= new_ends
    return ends


def _matches_lookaround(value: Any, start: int, run: _Run, flags: int) -> bool:
    """Evaluates a lookahead, or a lookbehind: a match from any earlier position that ends at `start`."""
    direction, body = value
    if direction > 0:
        return bool(_match_sequence(body, 1 << start, run, flags))
    up_to_start = (2 << start) - 1  # the positions 0 to start
    return bool((_match_sequence(body, up_to_start, run, flags) >> start) & 1)


def _matches_anchor(anchor: str, start: int, text: str) -> bool:
    """Evaluates an anchor: the start or end of the text, or a word boundary."""
    if anchor in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return start == 0
    if anchor == "AT_END_STRING":
        return start == len(text)
    if anchor == "AT_END":
        return start == len(text) or (start == len(text) - 1 and text[start] == "\n")
    before, after = (0 <= i < len(text) and (text[i].isalnum() or text[i] == "_") for i in (start - 1, start))
    is_boundary = before != after
    return is_boundary if anchor == "AT_BOUNDARY" else not is_boundary


def _matches_character(kind: str, value: Any, character: str, flags: int) -> bool:
    """Matches a node of one character: a literal, any character, or a character class."""
    if kind == "ANY":
        return character != "\n" or bool(flags & re.DOTALL)
    cases = {character}
    if flags & re.IGNORECASE:
        cases |= {character.lower(), character.upper()}
    codes = [ord(case) for case in cases if len(case) == 1]
    if kind == "LITERAL":
        return value in codes
    if kind == "NOT_LITERAL":
        return value not in codes
    negated = str(value[0][0]) == "NEGATE"
    members = value[1:] if negated else value
    matches = any(_matches_class_member(member, code) for member in members for code in codes)
    return not matches if negated else matches


def _matches_class_member(item: Any, code: int) -> bool:
    """Matches a character code with one member of a character class: a literal, a range or a category."""
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return code == value
    if kind == "RANGE":
        return value[0] <= code <= value[1]
    name, character = str(value).removeprefix("CATEGORY_"), chr(code)
    matches = {
        "DIGIT": character.isdecimal(),
        "SPACE": character.isspace(),
        "WORD": character.isalnum() or character == "_",
    }[name.removeprefix("NOT_")]
    return not matches if name.startswith("NOT_") else matches
