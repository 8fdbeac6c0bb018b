r"""Read numbers in LaTeX, as models trained on mathematics write them.

Only numbers are rewritten: thousands separators (`1{,}234`, `1\,234`), `\$`, `\%`, `\text{...}`,
`\frac{1}{2}`. The content of `\boxed{...}` is extracted.
"""

from __future__ import annotations

import re

_THOUSANDS_SPACE = re.compile(r"(?<=[0-9])(?:\\[,;:!> ]|~|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
_TEXTS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(
    r"([0-9]*)\s*\\[dt]?frac\s*(?:\{\s*(-?[0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
)
_BRACE = re.compile(r"(\\(?:boxed|fbox)\s*)?\{|\}")


def rewrite_numbers(text: str) -> str:
    r"""Rewrites numbers in LaTeX as plain ones.

    Example:
        >>> rewrite_numbers(r"\$1{,}234.50, 1\,000, 50\%, -\frac{1}{2}, 1\frac{1}{2}, \text{12 cm}")
        '$1,234.50, 1000, 50%, -1/2, 3/2, 12 cm'
    """
    if "\\" not in text and "{" not in text and not _THOUSANDS_SPACE.search(text):
        return text
    text = _TEXTS.sub(r"\1", text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%"))
    return _FRACTION.sub(_rewrite_fraction, _THOUSANDS_SPACE.sub("", text))


def extract_boxed(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}` (of nested ones, the innermost), or None.

    Example:
        >>> extract_boxed(r"So \boxed{1}. No: \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    content: str | None = None
    last_start = -1
    open_braces: list[int] = []  # for each open brace: the start of its content if it is a box, else -1
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            open_braces.append(match.end() if match[1] else -1)
        elif open_braces:
            start = open_braces.pop()
            if start > last_start:  # a box, and it begins after every box closed so far
                last_start, content = start, text[start : match.start()]
    return content


def _rewrite_fraction(match: re.Match) -> str:
    """Rewrites one fraction, or a mixed number such as 1 1/2 (as 3/2)."""
    integer, top, top_digit, bottom, bottom_digit = match.groups()  # \frac12 has digits without braces
    numerator, denominator = int(top or top_digit), int(bottom or bottom_digit)
    return f"{int(integer or 0) * denominator + numerator}/{denominator}"
