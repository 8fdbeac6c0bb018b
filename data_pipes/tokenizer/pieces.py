"""Split text at the matches of a pattern, in the five ways of Hugging Face's pre-tokenizers.

A regular expression from a tokenizer file is accepted only if `regex` and Hugging Face tokenizers certainly
agree on it and it takes linear time: one of `PUBLISHED` or `split.PATTERNS`, or a `SIMPLE` one, whose
alternatives are single characters and classes, of which only the last may repeat without limit.

Source: `NormalizedString::split` of Hugging Face tokenizers 0.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import regex

from data_pipes.tokenizer.split import PATTERNS

PUBLISHED = (
    # GPT-4o
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Mistral NeMo
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Phi-4, as tiktoken writes it
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+",
    # DeepSeek V3
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Qwen 3.5: Qwen 2's, with combining marks counted as letters
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Published expressions that are not `SIMPLE` (an alternative repeats twice); tested against Hugging Face."""

ESCAPE = r"""\\[rntfsSd]|\\p\{[A-Z][a-z]?\}|\\[-\[\](){}|^$.?*+\\/,:;!"#%=@~_]"""
ATOM = rf"(?:{ESCAPE}|[^\\\[\](){{}}|^$.?*+\s]|[ \n]|\[\^?(?:{ESCAPE}|[^\\\[\]&\s]|[ \n])+\])"
BOUNDED = r"(?:\?|\{\d{1,2}(?:,\d{1,2})?\})?(?![?*+{])"
ALTERNATIVE = rf"(?:{ATOM}{BOUNDED})*+(?:{ATOM}(?:[*+]|\{{\d{{1,2}},\}})(?![?*+{{]))?"
SIMPLE = regex.compile(rf"{ALTERNATIVE}(?:\|{ALTERNATIVE})*+")
"""Syntax of the expressions that are accepted without being published."""

MAX_LENGTH = 1000  # characters of an expression

WORD = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]"
"""`\\w` in Rust; Python's lacks combining marks."""

BEHAVIORS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def compile_pattern(pattern: tuple[str, str]) -> regex.Pattern:
    """Compiles ("String", text) or ("Regex", expression).

    Example:
        >>> compile_pattern(("String", "a.")).findall("aba.")
        ['a.']
    """
    kind, text = pattern
    return regex.compile(text if kind == "Regex" else regex.escape(text, special_only=True))


def check_expression(expression: str) -> None:
    """Refuses an expression that Hugging Face tokenizers may read differently, or that may take too long.

    Raises:
        ValueError: with the supported syntax.
    """
    if expression in PUBLISHED or any(known.unicode == expression for known in PATTERNS.values()):
        return
    if len(expression) > MAX_LENGTH or not SIMPLE.fullmatch(expression):
        raise ValueError(
            f"the expression {expression!r:.300} is none of the published ones, and not simple: expected "
            f"single characters and classes, of which only the last of an alternative repeats without limit, "
            f"and at most {MAX_LENGTH} characters"
        )
    try:
        compiled = regex.compile(expression)
    except regex.error as error:
        raise ValueError(f"{expression!r:.300} is not a regular expression ({error})") from None
    if compiled.match(""):
        raise ValueError(
            f"the expression {expression!r:.300} matches the empty text; expected one that needs a character"
        )


def split_at_matches(pattern: regex.Pattern, behavior: str, invert: bool, text: str) -> list[tuple[int, int]]:
    """Cuts a text at the matches of a pattern.

    Args:
        pattern: compiled expression.
        behavior: one of BEHAVIORS: a match becomes its own piece, is removed, is merged with the text before
            it, with the text after it, or with adjacent matches.
        invert: swap matches and the text between them.
        text: any string.

    Returns:
        (start, end) of the non-empty pieces, in order.

    Example:
        >>> find = compile_pattern(("String", "-"))
        >>> def cut(behavior):
        ...     return ["ab--c"[start:end] for start, end in split_at_matches(find, behavior, False, "ab--c")]
        >>> cut("Isolated"), cut("Removed"), cut("Contiguous")
        (['ab', '-', '-', 'c'], ['ab', 'c'], ['ab', '--', 'c'])
        >>> cut("MergedWithPrevious"), cut("MergedWithNext")
        (['ab-', '-', 'c'], ['ab', '-', '-c'])
    """
    spans = [(span, matched != invert) for span, matched in _match_spans(pattern, text)]
    if behavior == "Removed":
        return [span for span, matched in spans if not matched]
    if behavior == "Contiguous":
        return list(_join_spans(spans, lambda matched, before: matched == before))
    if behavior == "MergedWithPrevious":
        return list(_join_spans(spans, lambda matched, before: matched and not before))
    if behavior == "MergedWithNext":
        # Mirror the text, so that a match is merged with the span before it; then mirror the result.
        mirrored = [((-end, -start), matched) for (start, end), matched in reversed(spans)]
        return [
            (-end, -start)
            for start, end in _join_spans(mirrored, lambda matched, before: matched and not before)
        ][::-1]
    return [span for span, _ in spans]


def _match_spans(pattern: regex.Pattern, text: str) -> Iterator[tuple[tuple[int, int], bool]]:
    """Yields (span, matched) of matches and the text between them, none empty."""
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            yield (end, match.start()), False
        if match.end() > match.start():
            yield match.span(), True
        end = match.end()
    if end < len(text):
        yield (end, len(text)), False


def _join_spans(
    spans: Iterable[tuple[tuple[int, int], bool]], joins: Callable[[bool, bool], bool]
) -> Iterator[tuple[int, int]]:
    """Joins a span with the one before it if `joins(is a match, the one before is a match)`."""
    waiting: tuple[int, int] | None = None
    before = False
    for (low, high), matched in spans:
        if waiting is not None and joins(matched, before):
            waiting = waiting[0], high
        else:
            if waiting is not None:
                yield waiting
            waiting = low, high
        before = matched
    if waiting is not None:
        yield waiting
