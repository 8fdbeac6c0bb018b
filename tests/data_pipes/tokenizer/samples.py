"""Texts that the tests of this folder share, and a hypothesis strategy for arbitrary ones."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

SAMPLES = (
    "",
    " ",
    "Hello, world! It's 2024; I've paid $1,234.50 (they'LL say).",
    "def f(x):\n    if x  ==  1:\n\t\treturn {'a': x**2}  # done\r\n\r\n\n   \n",
    " " * 100 + "x" + " " * 37 + "\n" * 9 + "\t" * 11,
    "naïve café, e\u0301tude, ﬁn, Straße, İstanbul, ŉ, ǅ",
    "Привет, мир! Ελληνικά; שלום עולם; مرحبا بالعالم ١٢٣",
    "こんにちは世界。カタカナ\u3000全角スペース、漢字かな交じり文。你好,世界!안녕하세요 세계",
    "हिन्दी में लिखा हुआ; ไทย; தமிழ்; ქართული; አማርኛ",
    "🙂👍🏽👩\u200d👩\u200d👧\u200d👦🇫🇷 ✈️ e=mc² ½ Ⅷ ①",
    "\x00\x01\x07\x08\x1b[31m\x1c\x1d\x1e\x1f\x7f\x85\xa0\u2028\u2029\u200b\ufeff\ufffd\uffff\U0010ffff",
    "<|endoftext|><|im_start|>user\nhi<|im_end|>\n<|pad|><|im_start",
    "-" * 300 + "=" * 200 + "a" * 500 + "ab" * 300,
)
"""Scripts, emoji, control characters, code, long runs, special tokens spelt out."""

_SPECIAL_CASES = (
    *" \n\t\r'.,-09aZsStTrReEvVlLdDmMſ½²\u00a0\u3000\x85\x1c",
    "  ",
    "\r\n",
    "'s",
    "'LL",
    "abc",
    "<|pad|>",
)
"""Special cases of the split patterns."""


def texts(unicode_3_2: bool = False) -> st.SearchStrategy[str]:
    """Texts of arbitrary characters, half of them from the special cases of split patterns.

    Args:
        unicode_3_2: only characters of Unicode 3.2, whose categories are the same in every library.
    """
    any_character = st.characters(exclude_categories=["Cs"])
    if unicode_3_2:
        any_character = any_character.filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
    return st.lists(st.one_of(st.sampled_from(_SPECIAL_CASES), any_character), max_size=40).map("".join)
