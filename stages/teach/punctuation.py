"""Punctuation of Chinese text: full-width marks after and before Chinese characters."""

from __future__ import annotations

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
MARKS = str.maketrans(",;:?!.", "\uff0c\uff1b\uff1a\uff1f\uff01\u3002")

CODE = re.compile(r"(`[^`]*`)")
AFTER = re.compile(rf"(?<=[{HAN}\uff09\u201d\u300b])[,;:?!] ?")
BEFORE = re.compile(rf"(?<=[^\s,;:?!])[,;] (?=[{HAN}\u201c\u300a])")
END = re.compile(rf"(?<=[{HAN}\uff09])\.(?= |$)")


def widen_punctuation(text: str) -> str:
    """Replaces marks beside a Chinese character by full-width ones; code spans stay as they are.

    Example:
        >>> widen_punctuation("对数概率, 见 `a, b`; 形状 [B, T]; 单位为奈特.")
        '对数概率，见 `a, b`；形状 [B, T]；单位为奈特。'
    """
    if not re.search(f"[{HAN}]", text):
        return text
    spans = CODE.findall(text)
    plain = CODE.sub("\x00", text)
    for pattern in (AFTER, BEFORE, END):
        plain = pattern.sub(lambda match: match.group()[0].translate(MARKS), plain)
    pieces = plain.split("\x00")
    return "".join(piece + span for piece, span in zip(pieces, [*spans, ""], strict=True))
