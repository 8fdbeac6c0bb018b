"""tokenizer.json of the `tokenizers` library: our ids and texts equal its own, also for the file we write."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from data_pipes.tokenizer import load, save, stream, vocabulary_size
from data_pipes.tokenizer.pieces import PUBLISHED
from data_pipes.tokenizer.split import PATTERNS
from tests.outside.form import Form

DIFFICULT_TEXTS = (
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "  hello   world  ",
    "hello world",
    "\t\ttab\tbed \t",
    "\n",
    "\r\n\r\nline\r\n",
    "a\n b\n\n  c",
    "don't we'll I'VE",
    "12345 1 22 333",
    "x=1;y+=2//3",
    "naïve café déjà",
    "e\u0301te\u0301 a\u0308\u0323",
    "\u0301x",
    "ＦＵＬＬ ①②½ ﬁ",
    "日本語のテキスト、漢字。",
    "안녕하세요 세계",
    "שלום مرحبا",
    "🙂👍🏽👨\u200d👩\u200d👧",
    "\U0001f9ff\u0378",
    "\u00a0nb\u3000sp\u2009",
    "\x00\x1f\x7f",
    "▁a▁▁b",
    "▁",
    "Ġa",
    "<s>",
    "a<s>b",
    " <s> a <s>",
    "x <tok> y",
    "x<tok>y",
    "<tok>",
    "  <tok>  z",
    "<unk>",
    "<0x41> <0x0A",
    "word<|im_end|>word",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_st",
    "ΟΔΟΣ ΣΑΣ",
    "İI",
    "Some Text, (some) more-text; and_12345 words!",
    "!!?.,",
    "ab" * 20 + " " + "=" * 30,
    "the<mask> the <mask>",
    "a.b..c ...d",
)
CORPUS = (
    "some text, some more text; and 12345 words. don't the hello world",
    "naïve café e\u0301te\u0301 日本語 안녕",
    "  indented\n\n\tlines  here\n",
    "x=1;y+=2//3 (a.b) ▁▁ the the the ab ab",
    "ab" * 10,
    "=" * 20,
)
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def _train(
    steps: Sequence[Any] | None,
    *,
    normalizer: Any = None,
    decoder: Any = None,
    size: int = 500,
    added: Sequence[Any] = (),
    bytes_in: bool = True,
    post: Any = None,
    prefix: str | None = None,
    suffix: str | None = None,
    **options: Any,
) -> HuggingFaceTokenizer:
    """Train a byte-level or character tokenizer with the library."""
    ends: dict[str, Any] = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix}
    ends = {name: end for name, end in ends.items() if end}
    peer = HuggingFaceTokenizer(models.BPE(**options, **ends))
    if normalizer is not None:
        peer.normalizer = normalizer
    if steps is not None:
        peer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(list(steps))
    if decoder is not None:
        peer.decoder = decoder
    if post is not None:
        peer.post_processor = post
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=list(SPECIAL) + (list(BYTES) if options.get("byte_fallback") else []),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if bytes_in else [],
        **ends,
    )
    peer.train_from_iterator(CORPUS, trainer)
    for token in added:
        if getattr(token, "special", False):
            peer.add_special_tokens([token])
        else:
            peer.add_tokens([token])
    return peer


def byte_level(
    *steps: Any, use_regex: bool = True, add_prefix_space: bool = False, **changes: Any
) -> HuggingFaceTokenizer:
    """A byte-level tokenizer: the given pre-tokenizer steps, then bytes."""
    last = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)
    return _train([*steps, last], **{"decoder": decoders.ByteLevel(), **changes})


def _sentencepiece(
    steps: Sequence[Any] | None = None, *, normalizer: Any = None, decoder: Any = None, **changes: Any
) -> HuggingFaceTokenizer:
    """A character tokenizer like SentencePiece's, with unknown characters as bytes."""
    default_decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    options = {
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "bytes_in": False,
        "size": 700,
        **changes,
    }
    return _train(steps, normalizer=normalizer, decoder=decoder or default_decoder, **options)


def llama2(**changes: Any) -> HuggingFaceTokenizer:
    """A tokenizer like Llama 2's."""
    steps = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _sentencepiece(normalizer=steps, **changes)


def _split(pattern: Any, behavior: str, invert: bool = False) -> Any:
    return pre_tokenizers.Split(pattern, behavior, invert)


def _added_token(**options: Any) -> tuple[Any, ...]:
    """A token, a special one, and one that also occurs inside words, all with the same options."""
    return (
        AddedToken("<tok>", **options),
        AddedToken("<mask>", special=True, **options),
        AddedToken("te", **options),
    )


def _metaspace(scheme: str, split: bool = True, mark: str = "▁") -> Any:
    return pre_tokenizers.Metaspace(mark, scheme, split)


def _metaspace_decoder(scheme: str, mark: str = "▁") -> Any:
    return decoders.Metaspace(mark, scheme)


def _after_use(peer: HuggingFaceTokenizer) -> HuggingFaceTokenizer:
    """Enable truncation and padding, which are then saved with the tokenizer."""
    peer.enable_truncation(7)
    peer.enable_padding(length=9, pad_id=1, pad_token="<s>")
    return peer


MAKERS: dict[str, Callable[[], HuggingFaceTokenizer]] = {
    "GPT-2": lambda: byte_level(),
    "GPT-2 with a space in front": lambda: byte_level(add_prefix_space=True),
    "bytes without an expression": lambda: byte_level(use_regex=False),
    "bytes without an expression, a space in front": lambda: byte_level(
        use_regex=False, add_prefix_space=True
    ),
    "saved after use, with truncation and padding": lambda: _after_use(byte_level()),
    **{
        f"split of {name}": functools.partial(
            lambda p: byte_level(_split(Regex(p.unicode), "isolated"), use_regex=False), pattern
        )
        for name, pattern in PATTERNS.items()
    },
    **{
        f"published expression {i}": functools.partial(
            lambda p: byte_level(_split(Regex(p), "isolated"), use_regex=False), expression
        )
        for i, expression in enumerate(PUBLISHED)
    },
    "DeepSeek V3": lambda: byte_level(
        _split(Regex(r"\p{N}{1,3}"), "isolated"),
        _split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
        _split(Regex(PUBLISHED[3]), "isolated"),
        use_regex=False,
    ),
    "Falcon": lambda: _train(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(),
            _split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ],
        decoder=decoders.ByteLevel(),
    ),
    "StarCoder: digits, then bytes with a space in front": lambda: byte_level(
        pre_tokenizers.Digits(True), add_prefix_space=True
    ),
    "digits in runs": lambda: byte_level(pre_tokenizers.Digits(False)),
    **{
        f"punctuation {behavior}": functools.partial(
            lambda b: byte_level(pre_tokenizers.Punctuation(b)), behavior
        )
        for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous")
    },
    **{
        f"split on a text, {behavior}, {'inverted' if invert else 'plain'}": functools.partial(
            lambda b, i: byte_level(_split("e", b, i), use_regex=False), behavior, invert
        )
        for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous")
        for invert in (False, True)
    },
    "split on a class, inverted and removed": lambda: byte_level(
        _split(Regex(r"[A-Za-z]+|\p{N}{2}"), "removed", True)
    ),
    "whitespace": lambda: byte_level(pre_tokenizers.Whitespace()),
    "whitespace split, a space in front": lambda: byte_level(
        pre_tokenizers.WhitespaceSplit(), add_prefix_space=True
    ),
    "a delimiter": lambda: byte_level(pre_tokenizers.CharDelimiterSplit(" ")),
    "sequences in sequences": lambda: byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])]
        )
    ),
    **{
        f"normalizer {form}": functools.partial(
            lambda f: byte_level(normalizer=getattr(normalizers, f)()), form
        )
        for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")
    },
    "normalizer Strip": lambda: byte_level(normalizer=normalizers.Strip()),
    "normalizer Strip, left only": lambda: byte_level(normalizer=normalizers.Strip(True, False)),
    "normalizer Prepend": lambda: byte_level(normalizer=normalizers.Prepend("x ")),
    "normalizer Replace of a class": lambda: byte_level(normalizer=normalizers.Replace(Regex(r"\s+"), " ")),
    "normalizer of bytes": lambda: _train(
        None, normalizer=normalizers.ByteLevel(), decoder=decoders.ByteLevel()
    ),
    "normalizers in a row": lambda: byte_level(
        normalizer=normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
        )
    ),
    "added tokens": lambda: byte_level(added=_added_token(normalized=False)),
    "added tokens, normalized": lambda: byte_level(
        normalizer=normalizers.Lowercase(), added=_added_token(normalized=True)
    ),
    "added tokens, lstrip": lambda: byte_level(added=_added_token(lstrip=True, normalized=False)),
    "added tokens, rstrip": lambda: byte_level(added=_added_token(rstrip=True, normalized=False)),
    "added tokens, lstrip and rstrip": lambda: byte_level(
        added=_added_token(lstrip=True, rstrip=True, normalized=True)
    ),
    "added tokens, single word": lambda: byte_level(added=_added_token(single_word=True)),
    "added tokens in letters of the byte alphabet": lambda: byte_level(
        added=(AddedToken("naï"), AddedToken("Ġa"), AddedToken("日本"), AddedToken("a b"))
    ),
    "added tokens in Llama 2": lambda: llama2(added=_added_token(normalized=True)),
    "added tokens in Llama 2, not normalized": lambda: llama2(
        added=_added_token(normalized=False, rstrip=True)
    ),
    "ignore_merges": lambda: byte_level(ignore_merges=True),
    "unk_token of a byte-level one": lambda: byte_level(unk_token="<unk>"),
    "Llama 2": llama2,
    "Llama 2 with byte fallback but ignore_merges": lambda: llama2(ignore_merges=True),
    "Llama 2 of today: Metaspace first": lambda: _sentencepiece([_metaspace("first", False)]),
    "Mistral: Metaspace always": lambda: _sentencepiece([_metaspace("always", False)]),
    "Metaspace never, cut": lambda: _sentencepiece(
        [_metaspace("never")], decoder=_metaspace_decoder("never")
    ),
    "Metaspace first, cut": lambda: _sentencepiece(
        [_metaspace("first")],
        decoder=_metaspace_decoder("first"),
        added=_added_token(lstrip=True, normalized=False),
    ),
    "Metaspace with a mark of its own": lambda: _sentencepiece(
        [_metaspace("always", mark="_")], decoder=_metaspace_decoder("always", "_")
    ),
    "Gemma": lambda: _sentencepiece(
        [_split(" ", "merged_with_previous")],
        normalizer=normalizers.Replace(" ", "▁"),
        decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    ),
    "unknown characters": lambda: _train(
        [pre_tokenizers.Whitespace()], decoder=decoders.Fuse(), bytes_in=False, size=120, unk_token="<unk>"
    ),
    "unknown characters, fused": lambda: _train(
        [pre_tokenizers.Whitespace()],
        decoder=decoders.Fuse(),
        bytes_in=False,
        size=120,
        unk_token="<unk>",
        fuse_unk=True,
    ),
    "no decoder": lambda: _train([pre_tokenizers.Whitespace()], bytes_in=False, size=120, unk_token="<unk>"),
    "a suffix at the end of words": lambda: _train(
        [pre_tokenizers.WhitespaceSplit()],
        decoder=decoders.BPEDecoder("</w>"),
        bytes_in=False,
        size=200,
        unk_token="<unk>",
        suffix="</w>",
    ),
    "a prefix inside words": lambda: _train(
        [pre_tokenizers.WhitespaceSplit()],
        decoder=decoders.WordPiece("##", True),
        bytes_in=False,
        size=200,
        unk_token="<unk>",
        fuse_unk=True,
        prefix="##",
    ),
    "byte fallback with unknown bytes": lambda: _some_bytes(),
    "decoder with Strip after bytes": lambda: byte_level(
        decoder=decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 2, 0)])
    ),
    "decoder with Replace after Fuse": lambda: llama2(
        decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁▁", "-")])
    ),
    "a BOS by template": lambda: byte_level(
        post=processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    ),
}


def _some_bytes() -> HuggingFaceTokenizer:
    """Only bytes below 0xC4 have tokens, so that unknown tokens and byte tokens occur together."""
    vocab = {token: i for i, token in enumerate(("<unk>", "a", "b", "▁", "ab", *BYTES[:0xC4]))}
    peer = HuggingFaceTokenizer(
        models.BPE(vocab, [("a", "b")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    peer.normalizer = normalizers.Replace(" ", "▁")
    peer.decoder = decoders.ByteFallback()
    return peer


def _encode_and_decode(peer: HuggingFaceTokenizer) -> list[Any]:
    """Ids of the texts with and without special tokens; the texts of these and of random ids.

    Some of the random ids have no token.
    """
    size = peer.get_vocab_size()
    rows = [peer.encode(text, add_special_tokens=False).ids for text in DIFFICULT_TEXTS]
    peer.encode_special_tokens = True
    plain = [peer.encode(text, add_special_tokens=False).ids for text in DIFFICULT_TEXTS]
    random_rows = [[(7919 * i * i + 31 * i + 97 * j) % (size + 3) for i in range(12)] for j in range(20)]
    texts = [
        peer.decode(row, skip_special_tokens=skip_special)
        for row in rows + random_rows
        for skip_special in (False, True)
    ]
    return [rows, plain, texts]


def _theirs(make: Callable[[], HuggingFaceTokenizer], folder: Path) -> list[Any]:
    peer = make()
    peer.save(str(folder / "tokenizer.json"))
    peer = HuggingFaceTokenizer.from_file(str(folder / "tokenizer.json"))
    peer.no_truncation()
    peer.no_padding()
    results = _encode_and_decode(peer)
    return [*results, *results, results[2]]


def _ours(folder: Path) -> list[Any]:
    """Our ids, the library's ids of our file, and our streamed text."""
    ours = load(folder)
    size = vocabulary_size(ours)
    rows = [ours.encode(text, special="all") for text in DIFFICULT_TEXTS]
    plain = [ours.encode(text) for text in DIFFICULT_TEXTS]
    random_rows = [[(7919 * i * i + 31 * i + 97 * j) % (size + 3) for i in range(12)] for j in range(20)]
    texts = [
        ours.decode(row, skip_special=skip_special)
        for row in rows + random_rows
        for skip_special in (False, True)
    ]
    streamed = [
        _stream_text(ours, row, skip_special) for row in rows + random_rows for skip_special in (False, True)
    ]
    save(ours, folder / "again")
    assert load(folder / "again").spec == ours.spec
    return [
        rows,
        plain,
        texts,
        *_encode_and_decode(HuggingFaceTokenizer.from_file(str(folder / "again" / "tokenizer.json"))),
        streamed,
    ]


def _stream_text(ours: Any, row: Sequence[int], skip_special: bool) -> str:
    state, step, finish = stream(ours, skip_special=skip_special)
    text = []
    for i in row:
        state, piece = step(state, i)
        text.append(piece)
    return "".join([*text, finish(state)])


def _write_changed(
    path: Sequence[Any], value: Any, make: Callable[[], HuggingFaceTokenizer], folder: Path
) -> None:
    """Write a tokenizer.json with one field replaced."""
    content = json.loads(make().to_str())
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def _write_unsupported(make: Callable[[], HuggingFaceTokenizer], folder: Path) -> None:
    """Write a tokenizer with a part that we do not support."""
    make().save(str(folder / "tokenizer.json"))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "Unigram": (
        functools.partial(
            _write_unsupported, lambda: HuggingFaceTokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
        ),
        r"model.type is \"Unigram\"",
    ),
    "WordPiece": (
        functools.partial(
            _write_unsupported,
            lambda: HuggingFaceTokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        ),
        r"model.type is \"WordPiece\"",
    ),
    "WordLevel": (
        functools.partial(
            _write_unsupported,
            lambda: HuggingFaceTokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")),
        ),
        r"model.type is \"WordLevel\"",
    ),
    "dropout": (
        functools.partial(_write_changed, ("model", "dropout"), 0.1, byte_level),
        r"model.dropout is 0.1",
    ),
    "an expression that takes forever": (
        functools.partial(
            _write_changed,
            ("pre_tokenizer",),
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
            byte_level,
        ),
        "none of the published ones",
    ),
    "an expression with a word's edge": (
        functools.partial(
            _write_changed,
            ("pre_tokenizer",),
            {"type": "Split", "pattern": {"Regex": r"\bx"}, "behavior": "Isolated", "invert": False},
            byte_level,
        ),
        "none of the published ones",
    ),
    "scripts": (
        functools.partial(_write_changed, ("pre_tokenizer",), {"type": "UnicodeScripts"}, byte_level),
        r"pre_tokenizer.type is \"UnicodeScripts\"",
    ),
    "a table of characters": (
        functools.partial(
            _write_changed,
            ("normalizer",),
            {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
            byte_level,
        ),
        r"normalizer.type is \"Precompiled\"",
    ),
    "BERT's normalizer": (
        lambda folder: _write_unsupported(
            lambda: byte_level(normalizer=normalizers.BertNormalizer()), folder
        ),
        r"normalizer.type is \"BertNormalizer\"",
    ),
    "a decoder for speech": (
        lambda folder: _write_unsupported(lambda: byte_level(decoder=decoders.CTC()), folder),
        r"decoder.type is \"CTC\"",
    ),
    "Metaspace at odds with itself": (
        functools.partial(
            _write_changed,
            ("pre_tokenizer",),
            {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False, "prepend_scheme": "first"},
            byte_level,
        ),
        "add_prefix_space is false",
    ),
    "text that grows without end": (
        functools.partial(
            _write_changed,
            ("normalizer",),
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 20,
            },
            byte_level,
        ),
        "times longer",
    ),
}

FORMS = (
    *(
        Form("tokenizer", name, "tokenizers", functools.partial(_theirs, make), _ours)
        for name, make in MAKERS.items()
    ),
    *(
        Form("tokenizer", name, "tokenizers", write, _ours, refused)
        for name, (write, refused) in REFUSED.items()
    ),
)
