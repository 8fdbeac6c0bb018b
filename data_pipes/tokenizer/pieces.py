"""Split text at the matches of a pattern, in the five ways of Hugging Face's pre-tokenizers.

An expression from a file is accepted only if it certainly means the same in both libraries, and takes
linear time: one of `PUBLISHED`, or single characters and classes, of which the last of each alternative may
repeat without limit.

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
    # GPT-2's with blanks before digits, and Qwen 3.5
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Expressions of published tokenizers whose alternatives repeat twice; tested against Hugging Face's."""

ESCAPE = r"""\\[rntfsSd]|\\p\{[A-Z][a-z]?\}|\\[-\[\](){}|^$.?*+\\/,:;!"#%=@~_]"""
ATOM = rf"(?:{ESCAPE}|[^\\\[\](){{}}|^$.?*+\s]|[ \n]|\[\^?(?:{ESCAPE}|[^\\\[\]&\s]|[ \n])+\])"
BOUNDED = r"(?:\?|\{\d{1,2}(?:,\d{1,2})?\})?(?![?*+{])"
ALTERNATIVE = rf"(?:{ATOM}{BOUNDED})*+(?:{ATOM}(?:[*+]|\{{\d{{1,2}},\}})(?![?*+{{]))?"
SIMPLE = regex.compile(rf"{ALTERNATIVE}(?:\|{ALTERNATIVE})*+")
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
    """Refuses an expression that may mean something else in Hugging Face tokenizers, or not terminate.

    Raises:
        ValueError: with the supported syntax.
    """
    if expression in PUBLISHED or any(known.unicode == expression for known in PATTERNS.values()):
        return
    if len(expression) > MAX_LENGTH or not SIMPLE.fullmatch(expression):
        raise ValueError(
            f"the expression {expression!r:.300} is none of the published ones, and not simple enough to "
            "surely mean the same here: single characters and classes, where only the last of an alternative "
            "repeats without limit"
        )
    try:
        compiled = regex.compile(expression)
    except regex.error as error:
        raise ValueError(f"{expression!r:.300} is not a regular expression ({error})") from None
    if compiled.match(""):
        raise ValueError(f"the expression {expression!r:.300} matches the empty text, which cuts nothing")


def split_at_matches(find: regex.Pattern, behavior: str, invert: bool, text: str) -> list[tuple[int, int]]:
    """Cuts a text at the matches of a pattern.

    Args:
        find: the pattern.
        behavior: of BEHAVIORS. A match becomes its own piece, is removed, is merged with the text before or
            after it, or with adjacent matches.
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
    found = [(span, matched != invert) for span, matched in _match_spans(find, text)]
    if behavior == "Removed":
        return [span for span, matched in found if not matched]
    if behavior == "Contiguous":
        return list(_join_spans(found, lambda matched, before: matched == before))
    if behavior == "MergedWithPrevious":
        return list(_join_spans(found, lambda matched, before: matched and not before))
    if behavior == "MergedWithNext":
        turned = [((-end, -start), matched) for (start, end), matched in reversed(found)]
        return [
            (-end, -start)
            for start, end in _join_spans(turned, lambda matched, before: matched and not before)
        ][::-1]
    return [span for span, _ in found]


def _match_spans(find: regex.Pattern, text: str) -> Iterator[tuple[tuple[int, int], bool]]:
    """Yields (span, matched) of matches and the text between them, none empty."""
    end = 0
    for match in find.finditer(text):
        if match.start() > end:
            yield (end, match.start()), False
        if match.end() > match.start():
            yield match.span(), True
        end = match.end()
    if end < len(text):
        yield (end, len(text)), False


def _join_spans(
    found: Iterable[tuple[tuple[int, int], bool]], joins: Callable[[bool, bool], bool]
) -> Iterator[tuple[int, int]]:
    """Joins a span with the one before it if `joins(matched, matched before)`; at first nothing matched."""
    waiting: tuple[int, int] | None = None
    before = False
    for (low, high), matched in found:
        if waiting is not None and joins(matched, before):
            waiting = waiting[0], high
        else:
            if waiting is not None:
                yield waiting
            waiting = low, high
        before = matched
    if waiting is not None:
        yield waiting
