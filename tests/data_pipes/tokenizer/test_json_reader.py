"""`from_json`: Hugging Face's tokenizer.json gives the same ids; unsupported or damaged files are refused.

`json_steps` is tested here too.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from data_pipes.tokenizer import AddedToken, Tokenizer, from_json, special_id, to_json
from data_pipes.tokenizer.split import PATTERNS
from tests.data_pipes.tokenizer.samples import SAMPLES


def train_peer(pre_tokenizer: pre_tokenizers.PreTokenizer, **changes: Any) -> HuggingFaceTokenizer:
    """Train a tokenizer with Hugging Face's library."""
    peer = HuggingFaceTokenizer(models.BPE(**changes))
    peer.pre_tokenizer = pre_tokenizer
    peer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    peer.train_from_iterator([*SAMPLES, "some text, some more text; and 12345 words " * 20], trainer)
    return peer


def split_step(name: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[name].unicode), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def gpt2() -> HuggingFaceTokenizer:
    return train_peer(pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama3() -> HuggingFaceTokenizer:
    peer = train_peer(split_step("llama3"), ignore_merges=True)
    template = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    peer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return peer


def qwen2() -> HuggingFaceTokenizer:
    peer = train_peer(split_step("qwen2"))
    peer.normalizer = normalizers.NFC()
    peer.add_special_tokens(["<|im_end|>"])
    peer.add_tokens(["<think>"])
    return peer


def smollm2() -> HuggingFaceTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return train_peer(pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]))


@pytest.mark.parametrize("make", [gpt2, llama3, qwen2, smollm2], ids=lambda make: make.__name__)
def test_ids_equal_hugging_faces_for_its_file(make: Any) -> None:
    peer = make()
    ours = from_json(peer.to_str())
    for text in SAMPLES:
        for template in (False, True):
            assert (
                ours.encode(text, special="all", template=template)
                == peer.encode(text, add_special_tokens=template).ids
            )
    assert ours.spec.pattern == make.__name__
    assert special_id(ours, "<|im_start|>") == 1


def test_unknown_characters_are_encoded_as_by_hugging_face() -> None:
    for fuse in (False, True):
        peer = HuggingFaceTokenizer(
            models.BPE({"?": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")], unk_token="?", fuse_unk=fuse)
        )
        peer.decoder = decoders.Fuse()
        ours = from_json(peer.to_str())
        for text in ("abxxab", "xax", "é🙂", "b?", ""):
            assert ours.encode(text) == peer.encode(text).ids


def error_message(text: str) -> str | None:
    """The message of the ValueError that reading `text` raises, or None; other errors are not caught."""
    try:
        from_json(text)
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture
def content(trained_tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(to_json(trained_tokenizer))


@pytest.mark.parametrize("value", [{}, [], 1, True, "\ud800"])
def test_an_invalid_unknown_token_is_refused(content: dict, value: Any) -> None:
    content["model"]["unk_token"] = value
    assert "unk_token" in (error_message(json.dumps(content)) or "")


@pytest.mark.parametrize(
    "single",
    [
        None,
        [],
        "AB",
        [{"Sequence": {"id": "B"}}],
        [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
        [{"SpecialToken": {"id": 0}}, {"Sequence": {"id": "A"}}],
        [{"Sequence": {"id": "A"}}, {"Sequence": {"id": "A"}}],
        [{"SpecialToken": {"id": "many"}}, {"Sequence": {"id": "A"}}],
    ],
)
def test_an_unsupported_template_is_refused(content: dict, single: Any) -> None:
    for specials in (
        {"many": {"ids": [1 << 40]}},
        {"many": {"ids": "text"}},
        {"many": 3},
        "text",
        ["text"],
        None,
    ):
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": single,
            "special_tokens": specials,
        }
        assert (error_message(json.dumps(content)) or "").startswith("tokenizer.json: ")


def test_merges_may_be_strings_or_pairs(trained_tokenizer: Tokenizer, content: dict) -> None:
    content["model"]["merges"] = ["#version: 0.2", *[" ".join(pair) for pair in content["model"]["merges"]]]
    assert from_json(json.dumps(content)).spec == trained_tokenizer.spec


def test_fields_missing_in_older_files_get_their_defaults(
    trained_tokenizer: Tokenizer, content: dict
) -> None:
    for field in (
        "dropout",
        "unk_token",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
        "continuing_subword_prefix",
    ):
        del content["model"][field]
    del content["truncation"], content["padding"], content["post_processor"], content["normalizer"]
    content["model"]["end_of_word_suffix"] = ""
    assert from_json(json.dumps(content)).spec == trained_tokenizer.spec


def test_truncation_and_padding_are_ignored(trained_tokenizer: Tokenizer, content: dict) -> None:
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 3, "pad_token": "<|pad|>"}
    assert from_json(json.dumps(content)).spec == trained_tokenizer.spec


def test_added_tokens_may_be_in_any_order(trained_tokenizer: Tokenizer, content: dict) -> None:
    content["added_tokens"].reverse()
    assert from_json(json.dumps(content)).spec == trained_tokenizer.spec
    content["added_tokens"].append({"id": 1500, "content": "<new>", "special": False, "normalized": False})
    assert from_json(json.dumps(content)).spec.added_tokens[-1] == AddedToken("<new>", 1500, False, False)


SPLIT = {"type": "Split", "pattern": {"Regex": "(x+)+"}, "behavior": "Isolated", "invert": False}
UNSUPPORTED = {
    ("version",): ("2.0", 'version is "2.0"; only "1.0"'),
    ("surprise",): (1, "has the field 'surprise', which is not supported"),
    ("truncation",): (5, "truncation must be null or an object, got 5"),
    ("padding",): ("x", 'padding must be null or an object, got "x"'),
    ("normalizer",): ({"type": "Nmt"}, 'normalizer.type is "Nmt"; supported are NFC'),
    ("normalizer", "type"): ("NFKC", "normalizer must be an object") ,
    ("pre_tokenizer",): ({"type": "Metaspace"}, "pre_tokenizer Metaspace.replacement is missing"),
    ("pre_tokenizer", "pretokenizers"): ([SPLIT], "the expression '(x+)+' is none of the published ones"),
    ("pre_tokenizer", "pretokenizers", 0, "behavior"): ("removed", '"removed"; supported is Isolated'),
    ("pre_tokenizer", "pretokenizers", 0, "invert"): (1, "invert is 1; supported is true or false"),
    ("pre_tokenizer", "pretokenizers", 0, "pattern"): ({"String": ""}, 'pattern is {"String": ""}; supported is'),
    ("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"): ("x", 'ByteLevel.add_prefix_space is "x"'),
    ("pre_tokenizer", "pretokenizers", 1, "use_regex"): (None, "ByteLevel.use_regex is null"),
    ("pre_tokenizer", "pretokenizers", 1, "surprise"): (None, "ByteLevel has the field 'surprise'"),
    ("post_processor",): ({"type": "RobertaProcessing"}, 'type is "RobertaProcessing"; only "TemplateProcessing"'),
    ("decoder",): ({"type": "CTC"}, 'decoder.type is "CTC"; supported are ByteLevel'),
    ("model", "type"): ("Unigram", 'model.type is "Unigram"; only "BPE"'),
    ("model", "dropout"): (0.1, "model.dropout is 0.1"),
    ("model", "byte_fallback"): (1, "model.byte_fallback is 1"),
    ("model", "continuing_subword_prefix"): ("é", "continuing_subword_prefix must be ASCII"),
    ("model", "end_of_word_suffix"): (7, "end_of_word_suffix must be a string or null, got 7"),
    ("model", "ignore_merges"): (1, "ignore_merges is 1; only false or true"),
    ("model", "cache"): (1, "model has the field 'cache'"),
    ("post_processor", "type"): ("TemplateProcessing", "post_processor has the field 'add_prefix_space'"),
    ("model", "vocab"): ({"a": 0, "b": 2}, "each once; expected 1, got 2 for 'b'"),
    ("model", "vocab", "!"): (5, "each once"),
    ("model", "vocab", "new"): (1 << 40, "each once"),
    ("model", "merges"): ([["a"]], 'merge 0 must be "a b" or'),
    ("model", "merges", 3): ("a b c", 'merge 3 must be "a b" or'),
    ("model", "merges", 4): (["a", "zzz"], "needs the token 'zzz'"),
    ("added_tokens", 0, "lstrip"): (1, "lstrip is 1; only false or true"),
    ("added_tokens", 0, "single_word"): (None, "single_word is null"),
    ("added_tokens", 0, "id"): (7, "must have id 0, its id in vocab; got 7"),
    ("added_tokens", 0, "content"): (None, "must be a non-empty string, got None"),
    ("added_tokens", 0, "special"): ("yes", 'special is "yes"'),
}  # fmt: skip


@pytest.mark.parametrize("path", UNSUPPORTED, ids=lambda path: ".".join(map(str, path)))
def test_unsupported_parts_are_refused_by_name(content: dict, path: tuple) -> None:
    value, message = UNSUPPORTED[path]
    if path == ("normalizer", "type"):
        content["normalizer"], path = [], ()
    node: Any = content
    for key in path[:-1]:
        node = node[key]
    if path:
        node[path[-1]] = value
    with pytest.raises(ValueError) as error:
        from_json(json.dumps(content))
    assert str(error.value).startswith("tokenizer.json: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "value", [None, 7, "x", [], {}, True, [[]], [{}], {"type": None}, {"type": "Sequence"}, -0.5]
)
def test_a_part_of_another_type_is_refused_or_equivalent(content: dict, value: Any) -> None:
    """Each value of the file in turn is replaced; no error other than ValueError is raised."""

    def parents_and_keys(node: Any) -> list[tuple[Any, Any]]:
        """At most 12 entries of each object and list, at every depth."""
        keys: list[Any] = []
        if isinstance(node, dict):
            keys = list(node)[:12]
        elif isinstance(node, list):
            keys = list(range(len(node)))[:12]
        below = [entry for key in keys for entry in parents_and_keys(node[key])]
        return [(node, key) for key in keys] + below

    messages = []
    for parent, key in parents_and_keys(content):
        old, parent[key] = parent[key], value
        messages.append(error_message(json.dumps(content)))
        parent[key] = old
    refused = [message for message in messages if message is not None]
    assert len(refused) > 20
    assert all(message.startswith("tokenizer.json: ") for message in refused)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged, it is not JSON"),
        ("{", "damaged, it is not JSON"),
        ("[]", "tokenizer.json must be an object"),
        ("null", "tokenizer.json must be an object"),
        ("NaN", "NaN is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"version": "1.0", "version": "1.0"}', "the key 'version' appears twice in one object"),
        ("9" * 100_000, "is too large"),
        ('{"model": {"vocab": {"\\ud800": 0}, "merges": []}, "decoder": {"type": "Fuse"}}', "surrogate pair"),
    ],
    ids=range(10),
)
def test_damaged_and_hostile_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        from_json(text)
    assert message in str(error.value)


def test_a_truncated_or_changed_file_raises_only_value_errors(trained_tokenizer: Tokenizer) -> None:
    text = to_json(trained_tokenizer)
    rng = random.Random(0)
    for _ in range(60):
        place = rng.randrange(len(text))
        for damaged in (text[:place], text[:place] + rng.choice('{}[]",:0x\\') + text[place + 1 :]):
            assert (error_message(damaged) or "tokenizer.json: ").startswith("tokenizer.json: ")
