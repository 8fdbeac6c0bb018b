r"""Read numbers in LaTeX, as models trained on mathematics write them.

Only numbers are rewritten: thousands (`1{,}234`, `1\,234`), `\$`, `\%`, `\text{...}`,
`\frac{1}{2}`, `\boxed{...}`.
"""

from __future__ import annotations

import re

_SPACES = re.compile(r"(?<=[0-9])(?:\\[,;:!> ]|~|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
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
    if "\\" not in text and "{" not in text and not _SPACES.search(text):
        return text
    text = _TEXTS.sub(r"\1", text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%"))
    return _FRACTION.sub(_rewrite_fraction, _SPACES.sub("", text))


def extract_boxed(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}`, or None.

    Example:
        >>> extract_boxed(r"So \boxed{1}. No: \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    found: str | None = None
    start, opened = -1, list[int]()  # of each open brace: where the content of a box begins, or -1
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            opened.append(match.end() if match[1] else -1)
        elif opened and (begin := opened.pop()) > start:
            start, found = begin, text[begin : match.start()]
    return found


def _rewrite_fraction(match: re.Match) -> str:
    """One fraction; an integer before it is added."""
    whole, above, above_digit, below, below_digit = match.groups()
    top, bottom = int(above or above_digit), int(below or below_digit)
    return f"{int(whole or 0) * bottom + top}/{bottom}"
