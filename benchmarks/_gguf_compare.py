"""Compare one GGUF file in llama.cpp and in this library: fields, ids of texts, greedy tokens, logits.

Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

import random as python_random
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _llama_cpp
import numpy as np
import torch
import torch.nn.functional as F
from _llama_cpp import LlamaCpp
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pure import random
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from stages.models.gguf_writer import BLOCK
from stages.models.language_model import Pretrained

NEW_TOKENS, CONTEXT = 64, 512
ROUNDED = ("f16", "bf16", "q8_0")
"""Types whose rounding of inputs `round_input` knows."""

TEXTS = (
    "Hello, world!",
    "  leading   and    long       runs of blanks   ",
    "tabs\t\tand\n\n\nlines\r\n \n  \n",
    "x = {'a': 1, \"b\": [2.5]}",
    "don't can't we'll I'M O'CLOCK 'SAY ''s",
    "price 1234567.89 and 2³ ½ ١٢٣ Ⅷ  42 1 22 333 4444",
    "Ünïcödé naïve Straße",
    "Ελληνικά кириллица עברית العربية",
    "漢字かな交じり文 한국어 ไทย हिन्दी",
    "emoji 👩\u200d👩\u200d👧 🏳️\u200d🌈 🤷🏽\u200d♂️",
    "zero \u200b width \u00a0 nbsp \u3000 ideographic \u2028 line",
    "\x01\x1f control \x7f",
    "<|im_start|>user\nhi<|im_end|> <|endoftext|><repo_name>  <|endoftext|>",
    "def f(x):\n    return x**2  # comment\n\n\tif x:\n",
    "[PAD300] [PAD650] <s> </s> <b>bold</b> <tool> <tool>x",
    "",
)


class Rounded(TorchFunctionMode):
    """Round the input of every matrix product as llama.cpp does for weights of a type; sums stay in float32."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace F.linear's input."""
        if func is F.linear:
            args = (round_input(args[0], self.kind), *args[1:])
        return func(*args, **(kwargs or {}))


class Comparison(NamedTuple):
    """Counts of one file, (equal, all), and distances of logits.

    Fields:
        texts: encodings and decodings of TEXTS.
        free: greedy tokens until the first that differs, summed over the prompts.
        forced: tokens of our greedy text that llama.cpp finds most probable after the tokens before them.
        gap: largest distance in our logits between our token and llama.cpp's, where they differ.
        logits: largest absolute difference of a logit.
        rounded: as `forced`, and `rounded_logits` as `logits`, with our inputs rounded by `Rounded`.
    """

    texts: tuple[int, int]
    free: tuple[int, int]
    forced: tuple[int, int]
    gap: float
    logits: float
    rounded: tuple[int, int]
    rounded_logits: float


def round_input(x: Tensor, kind: str) -> Tensor:
    """Round x [..., D] float32 to "f16", "bf16", or "q8_0" (eight bits in blocks of 32); "f32" keeps it."""
    if kind in ("f16", "bf16"):
        return x.to({"f16": torch.float16, "bf16": torch.bfloat16}[kind]).float()
    if kind != "q8_0":
        return x
    blocks = x.unflatten(-1, (-1, BLOCK))
    most = blocks.abs().amax(-1, keepdim=True)
    integers = (blocks * torch.where(most > 0, 127 / most, 0.0)).round()
    return (integers * (most / 127).half().float()).flatten(-2)


def compare(
    llama: LlamaCpp, path: Path, ours: Pretrained, prompts: Sequence[Sequence[int]], kind: str
) -> Comparison:
    """Compare llama.cpp and this library on one file.

    Args:
        llama: the process; it loads the file, and frees it.
        path: a GGUF file.
        ours: the same file as this library reads it, in float32.
        prompts: ids to continue.
        kind: type of the matrices, for the rounding of llama.cpp's inputs.
    """
    arguments = {"length": CONTEXT, "threads": torch.get_num_threads(), "check": True}
    check_fields(_llama_cpp.call(llama, "load", path=path, **arguments), ours)
    texts = compare_texts(llama, path, ours)
    free = forced = rounded = 0
    gap = largest = rounded_largest = 0.0
    for prompt, row in zip(prompts, greedy_tokens(ours, prompts), strict=True):
        theirs, _ = _llama_cpp.call(llama, "greedy", path=path, ids=list(prompt), new=NEW_TOKENS, check=True)
        free += next((i for i, (a, b) in enumerate(zip(row, theirs, strict=True)) if a != b), len(row))
        ids = [*prompt, *row]
        a, c, b = (
            x[len(prompt) - 1 : -1] for x in (*our_logits(ours, ids, kind), their_logits(llama, path, ids))
        )
        forced += count_equal(a, b)
        rounded += count_equal(c, b)
        gap = max(gap, float((a.amax(-1) - a.gather(1, b.argmax(-1)[:, None])[:, 0]).max()))
        largest, rounded_largest = (
            max(m, float((x - b).abs().max())) for m, x in ((largest, a), (rounded_largest, c))
        )
    _llama_cpp.call(llama, "close", path=path)
    count = len(prompts) * NEW_TOKENS
    return Comparison(texts, (free, count), (forced, count), gap, largest, (rounded, count), rounded_largest)


def check_fields(read: Mapping[str, Any], ours: Pretrained) -> None:
    """Compare what llama.cpp read with the model: special ids, rows, chat template.

    Raises:
        AssertionError: if something differs; it names both.
    """
    ends = (ours.special.generation or {})["eos_token_id"]
    wanted = {"rows": ours.model.config.vocab_size, "eos": ends[0]}
    if ours.tokenizer.spec.prefix:
        wanted["bos"] = ours.tokenizer.spec.prefix[0]
    found = {name: read[name] for name in wanted}
    assert found == wanted, f"llama.cpp read {found}, we {wanted}"
    assert set(ends) <= set(read["ends"]), f"llama.cpp ends at {read['ends']}, we at {ends}"
    assert read["fields"].get("tokenizer.chat_template") == ours.chat_template


def compare_texts(llama: LlamaCpp, path: Path, ours: Pretrained) -> tuple[int, int]:
    """Count the equal encodings of TEXTS in three ways, and the equal decodings; print those that differ."""
    equal: list[bool] = []
    for special, template in ((False, False), (True, False), (True, True)):
        rows = _llama_cpp.call(llama, "encode", path=path, texts=TEXTS, special=special, template=template)
        for text, row in zip(TEXTS, rows, strict=True):
            mine = ours.tokenizer.encode(text, special="all" if special else "none", template=template)
            equal.append(mine == row)
            if mine != row:
                print(f"    {text!r} (special={special}, template={template}): ours {mine}, llama.cpp {row}")
    for text in TEXTS:
        ids = ours.tokenizer.encode(text, special="all")
        decoded = _llama_cpp.call(llama, "pieces", path=path, ids=ids)
        equal.append(bytes.fromhex(decoded) == ours.tokenizer.decode(ids).encode())
    return sum(equal), len(equal)


def greedy_tokens(ours: Pretrained, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Continue all prompts with this library, eager; no token ends them."""
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0)
    return generate(ours.model, ours.params, prompts, sampling, key=random.key(0)).tokens.tolist()


def our_logits(ours: Pretrained, ids: list[int], kind: str) -> tuple[Tensor, Tensor]:
    """Our logits [T, V] after every token, in float32, and with inputs rounded as llama.cpp rounds them."""
    tokens = torch.tensor([ids])
    with torch.no_grad():
        plain = ours.model.forward(ours.params, tokens)[0]
        if kind not in ROUNDED:
            return plain, plain
        with Rounded(kind):
            return plain, ours.model.forward(ours.params, tokens)[0]


def their_logits(llama: LlamaCpp, path: Path, ids: list[int]) -> Tensor:
    """llama.cpp's logits [T, V] after every token."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        _llama_cpp.call(llama, "logits", path=path, ids=ids, to=file.name)
        return torch.from_numpy(np.load(file.name))


def count_equal(a: Tensor, b: Tensor) -> int:
    """Count the rows [T, V] whose largest entries stand at the same place."""
    return int((a.argmax(-1) == b.argmax(-1)).sum())


def count_equal_weights(a: Path, b: Path) -> tuple[int, int]:
    """Count the weights of two files whose stored bytes are equal; (equal, all of the first)."""
    from gguf import GGUFReader

    theirs = {x.name: x for x in GGUFReader(b).tensors}
    mine = GGUFReader(a).tensors
    return sum(np.array_equal(x.data, theirs[x.name].data) for x in mine), len(mine)


def print_heading() -> None:
    """Print the column headings of `print_comparison`."""
    print(
        f"{'model':<28} {'type':<6} {'texts':^7} {'free':^9} {'forced':^9} {'gap':^8} {'logits':^8}", end=""
    )
    print(f" {'rounded':^9} {'logits':^8}")


def print_comparison(name: str, kind: str, c: Comparison) -> None:
    """Print one line."""
    texts, free, forced, rounded = (f"{a}/{b}" for a, b in (c.texts, c.free, c.forced, c.rounded))
    line = f"{name:<28} {kind:<6} {texts:>7} {free:>9} {forced:>9} {c.gap:8.1e} {c.logits:8.1e}"
    print(line + (f" {rounded:>9} {c.rounded_logits:8.1e}" if kind in ROUNDED else ""), flush=True)


def random_texts(count: int) -> Iterator[str]:
    """Yield strings of 1 to 24 parts: blanks, digits, contractions, added tokens, any assigned character."""
    rng = python_random.Random(0)
    common = [*" \n\t\r'aAsStTdDlLmMrReEvV019.,!?_-", "  ", "\r\n", "'s", "'LL", "<|endoftext|>", "<tool>"]
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 24)):
            c = chr(rng.choice((rng.randrange(1, 0x3000), rng.randrange(1, 0x1FFFF))))
            rare = rng.random() < 0.3 and unicodedata.category(c) not in ("Cs", "Cn")
            parts.append(c if rare else rng.choice(common))
        yield "".join(parts)


def compare_random_texts(llama: LlamaCpp, path: Path, ours: Pretrained, count: int) -> list[str]:
    """Return the random strings whose ids differ."""
    texts = list(random_texts(count))
    _llama_cpp.call(llama, "load", path=path, length=32, threads=1, check=True)
    rows = _llama_cpp.call(llama, "encode", path=path, texts=texts, special=True, template=False)
    _llama_cpp.call(llama, "close", path=path)
    mine = [ours.tokenizer.encode(text, special="all") for text in texts]
    return [text for text, a, b in zip(texts, mine, rows, strict=True) if a != b]
