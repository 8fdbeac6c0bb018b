"""Read Hugging Face's tokenizer.json; `json_writer` writes it.

The reader accepts the features of our tokenizers (BPE on bytes or characters, the steps of `json_steps`,
added tokens, a template around a text) and refuses everything else by name, since ignoring an unknown field
could silently change ids. `truncation` and `padding` are settings that transformers saves with a tokenizer
after use; no id depends on them, so they are accepted, and not written again.

Source: the format as written by Hugging Face tokenizers 0.23, and by older versions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_pipes.tokenizer.decoder import BYTE_LEVEL, JOINED, SPACED
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.json_steps import read_steps, sequence_items, shorten
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec
from data_pipes.tokenizer.split import ANY_TEXT, PATTERNS
from data_pipes.tokenizer.step import Step, step, step_options


def from_json(text: str, *, any_pattern: bool = False) -> Tokenizer:
    """Reads the text of a tokenizer.json.

    Args:
        text: JSON, as Hugging Face tokenizers and `to_json` write it.
        any_pattern: accept split expressions that are not in `split.PATTERNS`. Two regex engines may match an
            expression differently, and a malicious one may not terminate, so enable it only for trusted
            files.

    Returns:
        A Tokenizer that gives the same ids as Hugging Face tokenizers with `add_special_tokens=False`:
        special="all" corresponds to its default, special="none" to `encode_special_tokens = True`.

    Steps:
        1. Parse; refuse invalid JSON, deep nesting, and a repeated key.
        2. Refuse unknown fields.
        3. Read each part of the pipeline.
        4. Build the `TokenizerSpec`, which checks that the parts are consistent.

    Edge cases: merges may be ["a b"] or [["a", "b"]].

    Raises:
        ValueError: if the file is damaged or has an unsupported part; the message has the part and its value.

    Example:
        >>> vocab, merges = ("a", "b", "ab"), (("a", "b"),)
        >>> spec = TokenizerSpec(kind="character", vocab=vocab, merges=merges, pattern="gpt2")
        >>> from data_pipes.tokenizer.json_writer import to_json
        >>> from_json(to_json(from_spec(spec))).spec == spec
        True
    """
    # 1. JSON.
    content = _parse_json(text)
    # 2. Fields.
    parts = (
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
        "truncation",
        "padding",
    )
    _check_fields(content, "tokenizer.json", {"version": ("1.0",)}, parts)
    for field in ("truncation", "padding"):
        if not isinstance(content.get(field), dict | None):
            raise ValueError(
                f"tokenizer.json: {field} must be null or an object, got {shorten(content[field])}"
            )
    # 3. Parts.
    model = _read_model(content.get("model"))
    splitting = _read_pre_tokenizer(content.get("pre_tokenizer"), any_pattern)
    template = _read_post_processor(content.get("post_processor"))
    # 4. Spec.
    try:
        spec = TokenizerSpec(
            added_tokens=_read_added(content.get("added_tokens")),
            normalizer=read_steps(content.get("normalizer"), "normalizer", any_pattern),
            decoder=_read_decoder(content.get("decoder"), splitting["kind"]),
            **splitting,
            **template,
            **model,
        )
    except ValueError as error:
        raise ValueError(f"tokenizer.json: {error}") from None
    return from_spec(spec)


def _parse_json(text: str) -> dict[str, Any]:
    """Parses JSON; refuses repeated keys, huge integers and NaN."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            repeated = Counter(key for key, _ in items).most_common(1)[0][0]
            raise ValueError(f"the key {repeated!r} appears twice in one object")
        return result

    def integer(digits: str) -> int:
        if len(digits) > 18:
            raise ValueError(f"the number {digits[:18]}... is too large")
        return int(digits)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        content = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
    except RecursionError:
        raise ValueError("tokenizer.json: nested too deep; no tokenizer needs that") from None
    except ValueError as error:
        raise ValueError(f"tokenizer.json: damaged, it is not JSON ({error}); fetch the file again") from None
    return content


def _read_model(node: Any) -> dict[str, Any]:
    """Reads the object `model` into fields of TokenizerSpec."""
    if isinstance(node, dict) and node.get("type", "BPE") != "BPE":
        raise ValueError(f'tokenizer.json: model.type is {shorten(node["type"])}; only "BPE" is supported')
    allowed_values = {
        "type": ("BPE",),
        "dropout": (None, 0.0, 0),
        "fuse_unk": (False, True),
        "byte_fallback": (False, True),
        "ignore_merges": (False, True),
    }
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    _check_fields(node, "model", allowed_values, ("vocab", "merges", "unk_token", *affixes))
    for affix in affixes:
        if not isinstance(node.get(affix), str | None):
            raise ValueError(
                f"tokenizer.json: model.{affix} must be a string or null, got {shorten(node[affix])}"
            )
    return {
        "vocab": _read_vocab(node.get("vocab")),
        "merges": tuple(_read_merges(node.get("merges"))),
        "ignore_merges": node.get("ignore_merges", False),
        "unk_token": node.get("unk_token"),
        "fuse_unk": node.get("fuse_unk", False) and node.get("unk_token") is not None,
        "byte_fallback": node.get("byte_fallback", False),
        **{affix: node.get(affix) or "" for affix in affixes},
    }


def _read_vocab(node: Any) -> tuple[str, ...]:
    """Reads {token: id} into tokens in the order of their ids, which must be 0, 1, ... without a gap."""
    if not isinstance(node, dict) or not all(type(i) is int for i in node.values()):
        raise ValueError("tokenizer.json: model.vocab must be an object {token: id}, with integer ids")
    tokens = sorted(node, key=node.__getitem__)
    for expected, token in enumerate(tokens):
        if node[token] != expected:
            raise ValueError(
                f"tokenizer.json: the ids of model.vocab must be 0 ... {len(tokens) - 1}, each once; "
                f"expected {expected}, got {node[token]} for {token!r}"
            )
    return tuple(tokens)


def _read_merges(node: Any) -> list[tuple[str, str]]:
    """Reads ["a b", ...] or [["a", "b"], ...] into pairs."""
    if not isinstance(node, list):
        raise ValueError(f"tokenizer.json: model.merges must be a list, got {shorten(node)}")
    merges = []
    for rank, item in enumerate(node):
        pair = item.split(" ") if isinstance(item, str) else item
        if isinstance(item, str) and item.startswith("#version"):
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError(f'tokenizer.json: merge {rank} must be "a b" or ["a", "b"], got {shorten(item)}')
        merges.append((pair[0], pair[1]))
    return merges


def _read_pre_tokenizer(node: Any, any_pattern: bool) -> dict[str, Any]:
    """Reads `pre_tokenizer` into fields of TokenizerSpec.

    ByteLevel as last step makes the tokenizer byte-level. The splitting step before it becomes the field
    `pattern`, if it is that of a known pattern; all other steps remain steps.
    """
    steps = read_steps(node, "pre_tokenizer", any_pattern)
    byte_level = bool(steps) and steps[-1].type == "ByteLevel"
    prefix_space = use_regex = False
    if byte_level:
        options = step_options(steps[-1])
        prefix_space, use_regex = options["add_prefix_space"], options["use_regex"]
        steps = steps[:-1]
    pattern = "gpt2" if use_regex else ANY_TEXT
    if steps and not prefix_space:
        if use_regex:
            if steps[-1] == step("Digits", individual_digits=True):
                steps, pattern = steps[:-1], "smollm2"
        elif name := _pattern_name(steps[-1], any_pattern):
            steps, pattern = steps[:-1], name
    kind = "byte_level" if byte_level else "character"
    return {"kind": kind, "pattern": pattern, "prefix_space": prefix_space, "pre_tokenizer": steps}


def _pattern_name(given: Step, any_pattern: bool) -> str | None:
    """Name of a Split's pattern, or with `any_pattern` its expression; None if it must remain a step."""
    options = step_options(given)
    if given.type != "Split" or options["behavior"] != "Isolated" or options["invert"]:
        return None
    kind, text = options["pattern"]
    if kind != "Regex":
        return None
    for name, pattern in PATTERNS.items():
        if pattern.unicode == text:
            return name
    return text if any_pattern else None


def _read_decoder(node: Any, kind: str) -> tuple[Step, ...] | None:
    """Reads `decoder` into steps, None for the default of `kind`; null puts spaces between tokens."""
    steps = read_steps(node, "decoder") if node is not None else SPACED
    if len(steps) > 1 and SPACED[0] in steps:
        raise ValueError("tokenizer.json: a step of decoder must be an object, got null")
    default = BYTE_LEVEL if kind == "byte_level" else JOINED
    return None if steps == default else steps


def _read_post_processor(node: Any) -> dict[str, Any]:
    """Reads `post_processor` into prefix, suffix and pair; skips ByteLevel, which changes only offsets."""
    steps = sequence_items(node, "post_processor", "processors")
    steps = [step for step in steps if not (isinstance(step, dict) and step.get("type") == "ByteLevel")]
    if not steps:
        return {}
    if len(steps) > 1:
        raise ValueError(f"tokenizer.json: post_processor {shorten(node)} has more than one template")
    _check_fields(
        steps[0], "post_processor", {"type": ("TemplateProcessing",)}, ("single", "pair", "special_tokens")
    )
    single = _read_template(steps[0], "single", "A")
    middle = single.index("A")
    prefix, suffix = single[:middle], single[middle + 1 :]
    default_pair = (*prefix, "A", *suffix, *prefix, "B", *suffix)
    pair = default_pair if steps[0].get("pair") is None else _read_template(steps[0], "pair", "AB")
    return {"prefix": prefix, "suffix": suffix, "pair": None if pair == default_pair else pair}


def _read_template(node: Mapping[str, Any], name: str, texts: str) -> tuple[Any, ...]:
    """Reads a template: ids of special tokens, and "A" and "B" in the places of the texts."""
    template: list[int | str] = []
    try:
        for piece in node[name]:
            if "Sequence" in piece:
                template.append(piece["Sequence"]["id"])
            else:
                template += node["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    except (LookupError, TypeError):
        template = []
    if sorted(x for x in template if isinstance(x, str)) != list(texts):
        raise ValueError(
            f"tokenizer.json: post_processor.{name} must be special tokens around {' and '.join(texts)}, got "
            f"{shorten(node.get(name))}"
        )
    return tuple(template)


def _read_added(node: Any) -> tuple[AddedToken, ...]:
    """Reads `added_tokens`, in ascending order of ids."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), (False, True))
    if not isinstance(node, list | None):
        raise ValueError(f"tokenizer.json: added_tokens must be a list, got {shorten(node)}")
    tokens = []
    for item in node or []:
        _check_fields(
            item,
            "added_tokens",
            {**flags, "normalized": (True, False), "special": (False, True)},
            ("id", "content"),
        )
        if type(item.get("id")) is not int:
            raise ValueError(f"tokenizer.json: an added token needs an integer id, got {shorten(item)}")
        normalized, special = item.get("normalized", True), item.get("special", False)
        matching = {flag: item.get(flag, False) for flag in flags}
        tokens.append(
            AddedToken(item.get("content"), item["id"], special=special, normalized=normalized, **matching)
        )
    return tuple(sorted(tokens, key=lambda token: token.id))


def _check_fields(
    node: Any, where: str, allowed_values: Mapping[str, tuple], others: tuple[str, ...] = ()
) -> None:
    """Refuses a node that is not an object, has an unknown field, or a field with an unsupported value.

    A missing field of `allowed_values` has the first of its values; fields in `others` may have any value.
    """
    if not isinstance(node, dict):
        raise ValueError(f"tokenizer.json: {where} must be an object, got {shorten(node)}")
    if unknown := [key for key in node if key not in allowed_values and key not in others]:
        raise ValueError(f"tokenizer.json: {where} has the field {unknown[0]!r}, which is not supported")
    for key, allowed in allowed_values.items():
        value = node.get(key, allowed[0])
        if not any(type(value) is type(a) and value == a for a in allowed):
            supported = " or ".join(json.dumps(a) for a in allowed)
            raise ValueError(
                f"tokenizer.json: {where}.{key} is {shorten(value)}; only {supported} is supported"
            )
