"""Chat templates: our ids, masks and prompts must equal those of transformers and TRL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import tokenizers
import transformers
import trl
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from trl.data_utils import apply_chat_template

from data_pipes.chat.chat import (
    ChatTemplate,
    chat_template,
    encode_chats,
    encode_completions,
    encode_prompt_chats,
    render,
)
from data_pipes.chat.messages import Context, Message
from data_pipes.chat.presets import NAMED
from data_pipes.tokenizer import load
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.tokenizer.split import PATTERNS
from tests.outside.chat_structures import (
    ADDED_TOKENS,
    ASKED,
    CALLS,
    CONTROLS,
    EVERY_TOKEN,
    INLINE,
    NO_SYSTEM,
    OWN,
    TALK,
    THOUGHTS,
    TWO_CALLS,
    WEATHER,
    call,
    turns,
)
from tests.outside.form import Form

TEXT = (
    "the user asks and the assistant answers\n\n",
    "system tool weather Bern 3 degrees today, Environment: ipython",
)


@cache
def train_byte_level() -> str:
    """Train a byte-level tokenizer with the tokenizers library; its post-processor adds a BOS. As JSON."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERNS["llama3"].unicode), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT * 3,
        trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=alphabet, special_tokens=list(CONTROLS), show_progress=False
        ),
    )
    tokenizer.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in ADDED_TOKENS])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer.to_str()


@cache
def train_sentencepiece(legacy: bool) -> str:
    """Train a tokenizer like Llama 2's (legacy: each piece of text begins with "▁") or Mistral's. As JSON."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        [*TEXT, "[INST] hi [/INST] é"] * 3,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", "<pad>", *raw], show_progress=False
        ),
    )
    found = json.loads(tokenizer.to_str())
    found["added_tokens"] = found["added_tokens"][:4]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(found))
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, rstrip=True, normalized=False) for token in CONTROLS[4:]]
    )
    tokenizer.pre_tokenizer = (
        None if legacy else pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    )
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer.to_str()


def save_reference(folder: Path, source: str, tokenizer_json: str = "") -> Any:
    """Save a tokenizer of transformers with a chat template into the folder, and return it."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(tokenizer_json or train_byte_level()),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    tokenizer.chat_template = source
    tokenizer.save_pretrained(folder)
    return tokenizer


def load_ours(folder: Path, **variables: Any) -> tuple[ChatTemplate, Tokenizer]:
    """Load the saved template and tokenizer with our own code."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {name: config[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return chat_template(source, special_tokens=tokens, variables=variables.items()), load(folder)


def messages(chat: Iterable[dict[str, Any]]) -> list[Message]:
    """Convert dictionaries to our `Message`s."""
    return [
        Message(
            turn["role"],
            turn.get("content"),
            tuple((name, value) for name, value in turn.items() if name not in ("role", "content")),
        )
        for turn in chat
    ]


def _their_ids(
    folder: Path, *, source: str, chat: Any, tools: Any, prompt: bool, variables: dict
) -> list[int]:
    tokenizer = save_reference(folder, source)
    ids = tokenizer.apply_chat_template(
        chat, tools=tools, add_generation_prompt=prompt, return_dict=False, **variables
    )
    if "bos_token" in source:
        assert ids.count(tokenizer.bos_token_id) == tokenizer.apply_chat_template(
            chat, tokenize=False, tools=tools
        ).count("<s>")
    return ids


def _our_ids(folder: Path, *, chat: Any, tools: Any, prompt: bool, variables: dict) -> list[int]:
    template, tokenizer = load_ours(folder, **variables)
    context = Context(tuple(tools or ()))
    return encode_chats(
        template, tokenizer, [messages(chat)], add_generation_prompt=prompt, contexts=[context]
    )[0].tokens.tolist()


def ids(
    name: str,
    source: str,
    chat: Any,
    *,
    tools: Any = None,
    prompt: bool = True,
    refused: str = "",
    **variables: Any,
) -> Form:
    """Ids of a chat."""
    given = {"chat": chat, "tools": tools, "prompt": prompt, "variables": variables}
    their = (
        (lambda folder: save_reference(folder, source))
        if refused
        else partial(_their_ids, source=source, **given)
    )
    return Form("template", name, "transformers", their, partial(_our_ids, **given), refused)


def _their_mask(folder: Path, *, source: str, chat: Any, tools: Any) -> dict[str, list[int]]:
    found = save_reference(folder, source).apply_chat_template(
        chat, tools=tools, return_assistant_tokens_mask=True
    )
    return {"ids": found["input_ids"], "mask": found["assistant_masks"]}


def _our_mask(folder: Path, *, chat: Any, tools: Any) -> dict[str, list[int]]:
    template, tokenizer = load_ours(folder)
    found = encode_chats(template, tokenizer, [messages(chat)], contexts=[Context(tuple(tools or ()))])[0]
    return {"ids": found.tokens.tolist(), "mask": found.trained.astype(int).tolist()}


def mask(name: str, source: str, chat: Any, *, tools: Any = None) -> Form:
    """Ids and mask of a template with {% generation %} blocks."""
    given = {"chat": chat, "tools": tools}
    their, our = partial(_their_mask, source=source, **given), partial(_our_mask, **given)
    return Form("template", f"mask: {name}{', calls' if tools else ''}", "transformers", their, our)


def pieces(name: str, source: str, chat: Any, *, legacy: bool, prompt: bool = False) -> Form:
    """Ids of a chat by a tokenizer like SentencePiece's; some control tokens strip white space after them."""

    def their(folder: Path) -> list[int]:
        tokenizer = save_reference(folder, source, train_sentencepiece(legacy))
        return tokenizer.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=False)

    our = partial(_our_ids, chat=chat, tools=None, prompt=prompt, variables={})
    return Form("template", f"{'legacy' if legacy else 'first'} pieces: {name}", "transformers", their, our)


def text(
    name: str, source: str, chat: Any, expected: list[str], *, tools: Any = None, refused: str = ""
) -> Form:
    """Trained text of a chat by a template without {% generation %} blocks, as given; TRL has no such text."""

    def our(folder: Path) -> list[str]:
        template, tokenizer = load_ours(folder)
        found = encode_chats(template, tokenizer, [messages(chat)], contexts=[Context(tuple(tools or ()))])[0]
        return list(_trained_texts(found.tokens, found.trained, tokenizer))

    def their(folder: Path) -> list[str]:
        save_reference(folder, source)
        return expected

    return Form("template", f"learned: {name}", "transformers", their, our, refused)


def _trained_texts(tokens: Any, trained: Any, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each run of trained tokens."""
    begin = None
    for place, mark in enumerate([*trained.tolist(), False]):
        if mark and begin is None:
            begin = place
        elif not mark and begin is not None:
            yield tokenizer.decode(tokens[begin:place])
            begin = None


def completion(name: str, source: str, prompt: Any, answer: Any) -> Form:
    """The texts of prompt and completion, as TRL cuts them; only TRL trains on white space at the end."""

    def their(folder: Path) -> tuple[str, str]:
        found = apply_chat_template({"prompt": prompt, "completion": answer}, save_reference(folder, source))
        return found["prompt"], found["completion"].rstrip()

    def our(folder: Path) -> tuple[str, str]:
        template, tokenizer = load_ours(folder)
        tokens, trained = encode_completions(template, tokenizer, [(messages(prompt), messages(answer))])[0]
        first = int(trained.argmax())
        return tokenizer.decode(tokens[:first]), tokenizer.decode(tokens[trained])

    return Form("template", f"completion: {name}", "TRL", their, our)


def prefill(name: str, source: str, chat: Any, *, refused: str = "") -> Form:
    """Ids of a prompt that ends inside an assistant turn, as TRL's."""

    def their(folder: Path) -> list[int]:
        tokenizer = save_reference(folder, source)
        if refused:
            return []
        return tokenizer(
            apply_chat_template({"prompt": chat}, tokenizer)["prompt"], add_special_tokens=False
        )["input_ids"]

    def our(folder: Path) -> list[int]:
        return encode_prompt_chats(*load_ours(folder), [messages(chat)])[0].tokens.tolist()

    return Form("template", f"prefill: {name}", "TRL", their, our, refused)


def same_text(
    name: str, original: str, chat: Any, *, tools: Any = None, prompt: bool = False, **variables: Any
) -> Form:
    """The text of our named template equals that of the model's own template."""

    def their(folder: Path) -> str:
        return save_reference(folder, shipped(original)).apply_chat_template(
            chat, tools=tools, tokenize=False, add_generation_prompt=prompt, **variables
        )

    def our(folder: Path) -> str:
        end = "<｜end▁of▁sentence｜>" if name == "deepseek-r1" else "</s>"
        template = chat_template(NAMED[name], bos_token="<s>", eos_token=end, variables=variables.items())
        return render(
            template, messages(chat), add_generation_prompt=prompt, context=Context(tuple(tools or ()))
        )

    number = sum(map(ord, json.dumps([chat, prompt, variables])))
    return Form("template", f"ours: {name}, {number}", "TRL", their, our)


def shipped(name: str) -> str:
    """The source of a published template, from TRL's package."""
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _structures() -> Iterator[Form]:
    """Ids of prompts and whole conversations in the structures of published templates."""
    for name, source in OWN.items():
        yield ids(f"{name}, prompt", source, ASKED)
        yield ids(f"{name}, conversation", source, TALK, prompt=False)
    for name in ("llama3", "llama3_1", "qwen2_5", "qwen3", "phi3", "cohere", "deepseek_r1_distill"):
        yield ids(f"{name}, prompt", shipped(name), ASKED)
        yield ids(f"{name}, later prompt", shipped(name), TALK[:4])
    yield ids("gemma, prompt", shipped("gemma"), ASKED)
    yield ids("gemma, conversation", shipped("gemma"), NO_SYSTEM, prompt=False)
    yield ids("llama3_2 with a date", shipped("llama3_2"), ASKED, date_string="1 Jan 2025")
    for name in ("llama3_1", "qwen2_5", "qwen3"):
        yield ids(f"{name}, tools", shipped(name), CALLS, tools=[WEATHER], date_string="1 Jan 2025")
    yield ids("qwen2_5, two calls", shipped("qwen2_5"), TWO_CALLS, tools=[WEATHER, WEATHER], prompt=False)
    yield ids("qwen3, thoughts of earlier turns", shipped("qwen3"), THOUGHTS[:3])
    yield ids("qwen3, thoughts in the text", shipped("qwen3"), INLINE[:3])
    yield ids("qwen3, enable_thinking=false", shipped("qwen3"), INLINE[:3], enable_thinking=False)
    yield ids("deepseek_r1_distill, thoughts in the text", shipped("deepseek_r1_distill"), INLINE[:3])
    yield ids("every special token, tojson", EVERY_TOKEN, [{**ASKED[0], "name": "é", "x": None}, *TALK[2:]])


def _sentencepiece_forms() -> Iterator[Form]:
    """Ids of prompts and conversations by both kinds of SentencePiece tokenizer."""
    for name, source, chat in (
        ("Llama 2", OWN["Llama 2"], TALK[:4]),
        ("Mistral", OWN["Mistral"], TALK[:4]),
        ("Phi-3", shipped("phi3"), TALK[:4]),
        ("Gemma", shipped("gemma"), NO_SYSTEM[:3]),
    ):
        for legacy in (False, True):
            for prompt in (False, True):
                kind = "prompt" if prompt else "talk"
                yield pieces(f"{name}, {kind}", source, chat, legacy=legacy, prompt=prompt)


def _without_opening_tag(name: str) -> Form:
    """An answer without the <think> that its prompt ended with is trained like the answer with it."""
    with_tag = mask(
        f"{name}, as generated after <think>", shipped(name), turns("a", "<think>\nhm\n</think>\n\nb")
    )
    return with_tag._replace(ours=partial(_our_mask, chat=turns("a", "hm\n</think>\n\nb"), tools=None))


def _marked_like_training_template(name: str, chat: Any) -> Form:
    """A chat by the model's own template is trained as TRL's training template marks it."""

    def their(folder: Path) -> dict[str, list[int]]:
        found = _their_mask(folder, source=shipped("glm4moe_training"), chat=chat, tools=None)
        save_reference(folder, shipped("glm4moe"))
        return found

    return Form("template", f"learned: {name}", "TRL", their, partial(_our_mask, chat=chat, tools=None))


FORMS: tuple[Form, ...] = (
    *_structures(),
    *(mask(name, shipped(f"{name}_training"), chat, tools=tools) for name, chat, tools in (
        ("llama3", TALK, None), ("gemma", NO_SYSTEM, None), ("phi3", TALK, None), ("cohere", TALK, None),
        ("qwen2_5", CALLS, [WEATHER]), ("qwen3", THOUGHTS, None), ("qwen3", CALLS, [WEATHER]),
        ("deepseek_r1_distill", INLINE, None),
    )),
    *(mask(f"ours, {name}", NAMED[name], chat, tools=tools) for name, chat, tools in (
        ("llama3", TALK, None), ("qwen2.5", CALLS, [WEATHER]), ("qwen3", THOUGHTS, None), ("deepseek-r1", INLINE, None),
    )),
    *_sentencepiece_forms(),
    text("Mistral", OWN["Mistral"], TALK, [" Yes.\n</s>", " é, two.</s>"]),
    text("Llama 2", OWN["Llama 2"], TALK, [" Yes. </s>", " é, two. </s>"]),
    text("Zephyr", OWN["Zephyr"], TALK, ["Yes.\n</s>", "é, two.</s>"]),
    text("Phi-3, whose end of a conversation is no end of a turn", shipped("phi3"), TALK,
         ["Yes.\n<|end|>", "é, two.<|end|>"]),
    text("Gemma, contents stripped", shipped("gemma"), NO_SYSTEM, ["Yes.<end_of_turn>", "é, two.<end_of_turn>"]),
    text("Llama 3, contents stripped", shipped("llama3"), turns("a", "  end eot_id \n"), ["end eot_id<|eot_id|>"]),
    text("Llama 3, a content of white space", shipped("llama3"), turns("a", " \n"), ["<|eot_id|>"]),
    text("Llama 3, the header's word as content", shipped("llama3"), turns("a", "assistant"), ["assistant<|eot_id|>"]),
    text("Llama 3, a control token in the content", shipped("llama3"), turns("a<|eot_id|>", "b<|eot_id|>c"),
         ["b<|eot_id|>c<|eot_id|>"]),
    text("Qwen2.5, a call without content", shipped("qwen2_5"), CALLS, [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern", "days": [1, 2]}}\n</tool_call><|im_end|>',
        "3 °C.<|im_end|>"], tools=[WEATHER]),
    text("Llama 3.1, a call", shipped("llama3_1"), [*turns("a"), call(city="B")], [
        '{"name": "weather", "parameters": {"city": "B"}}<|eot_id|>'], tools=[WEATHER]),
    *(text(f"{name}, {case}", shipped(name), turns("a", content), [learned]) for name, case, content, learned in (
        ("qwen3_5_think", "thoughts", "<think>\nhm\n</think>\n\nb", "hm\n</think>\n\nb<|im_end|>"),
        ("qwen3_5_nothink", "thoughts", "<think>\nhm\n</think>\n\nb", "hm\n</think>\n\nb<|im_end|>"),
        ("nemotron_3_nano", "thoughts", "<think>\nhm\n</think>\n\nb", "hm\n</think>\n\nb<|im_end|>"),
        ("nemotron_3_nano", "as generated after <think>", "hm\n</think>\n\nb", "hm\n</think>\n\nb<|im_end|>"),
        ("nemotron_3_nano", "no thoughts", "b", "</think>b<|im_end|>"),
    )),
    mask("ours, qwen3, as generated after <think>", NAMED["qwen3"], turns("a", "hm\n</think>\n\nb")),
    _without_opening_tag("nemotron_3_nano_training"),
    _without_opening_tag("deepseek_r1_distill_training"),
    _marked_like_training_template("GLM-4.5, turns that the next one ends", TALK),
    _marked_like_training_template("GLM-4.5, thoughts", INLINE[:2]),
    text("Qwen3, one answer with thoughts", shipped("qwen3"), THOUGHTS[:2],
         ["<think>\nhm\nso\n</think>\n\nA1<|im_end|>"]),
    text("DeepSeek-R1, an answer without thoughts after <think>", shipped("deepseek_r1_distill"), turns("a", "<b> c"),
         ["<b> c<｜end▁of▁sentence｜>"]),
    text("Qwen3, thoughts of an earlier answer", shipped("qwen3"), THOUGHTS, [], refused="--chat_template qwen3"),
    text("Qwen3, an earlier answer", shipped("qwen3"), NO_SYSTEM, [], refused="turn 2 .*--chat_template qwen3"),
    text("DeepSeek-R1, thoughts in the text", shipped("deepseek_r1_distill"), INLINE[:2], [],
         refused="drops .* turn 2.*--chat_template deepseek-r1"),
    text("DeepSeek-R1, thoughts in a field", shipped("deepseek_r1_distill"), THOUGHTS[:2], [],
         refused="does not render `reasoning_content`, the reasoning of turn 2"),
    text("Llama 3, thoughts in a field, marked", NAMED["llama3"], THOUGHTS[:2], [], refused="reasoning of turn 2"),
    text("Llama 3, a call", shipped("llama3"), [*turns("a"), call(city="B")], [], refused="`tool_calls` of turn 2"),
    text("Llama 3, tools", shipped("llama3"), ASKED, [], tools=[WEATHER], refused="does not render `tools`"),
    text("Llama 3.1, two calls at once", shipped("llama3_1"), [*turns("a"), {
        **call(city="B"), "tool_calls": call(city="B")["tool_calls"] * 2}], [], refused="single tool-calls at once"),
    text("Llama 3.1, words beside a call", shipped("llama3_1"),
         [*turns("a"), {**call(city="B"), "content": "Let me see."}], [],
         refused="drops or changes .* content of turn 2"),
    *(completion(name, source, prompt, turns("", answer)[1:]) for name, source, prompt, answer in (
        ("Llama 3", shipped("llama3"), ASKED, "2. "), ("Llama 3, later", shipped("llama3"), TALK[:4], "Sure."),
        ("Mistral", OWN["Mistral"], NO_SYSTEM[:3], "b"), ("Qwen2.5", shipped("qwen2_5"), ASKED, "b"),
        ("Qwen3, later", shipped("qwen3"), NO_SYSTEM[:3], "<think>\nhm\n</think>\n\nb"),
        ("Qwen3, after thoughts", shipped("qwen3"), INLINE[:3], "b"),
        ("Qwen3, ours, after thoughts", NAMED["qwen3"], INLINE[:3], "b"),
        ("DeepSeek-R1", shipped("deepseek_r1_distill"), ASKED, "b"), ("Phi-4", OWN["Phi-4"], TALK[:4], "b"),
        ("DeepSeek-R1, ours", NAMED["deepseek-r1"], ASKED, "<think>\nhm\n</think>\n\nb"),
    )),
    *(prefill(name, source, chat) for name, source, chat in (
        ("Llama 3", shipped("llama3"), TALK[:3]), ("Llama 3, white space", shipped("llama3"), turns("a", "b \n")),
        ("Mistral", OWN["Mistral"], NO_SYSTEM[:2]), ("Qwen2.5", shipped("qwen2_5"), TALK[:3]),
        ("Qwen3", shipped("qwen3"), turns("a", "It is")), 
        ("Qwen3, thoughts", shipped("qwen3"), turns("a", "<think>\nSo")),
        ("DeepSeek-R1, thoughts", shipped("deepseek_r1_distill"), turns("a", "<think>\nSo")),
        ("Gemma", shipped("gemma"), turns("a", "It is")), ("Qwen3, ours", NAMED["qwen3"], turns("a", "It is")),
        ("the user's turn", shipped("llama3"), ASKED),
    )),
    prefill("DeepSeek-R1, ended thoughts", shipped("deepseek_r1_distill"), INLINE[:2], refused="cannot be continued"),
    prefill("a call", shipped("qwen2_5"), [*turns("a"), {**call(city="B"), "content": None}],
            refused="no content to continue"),
    *(same_text("llama3", "llama3", chat, prompt=prompt) for chat, prompt in ((TALK, False), (NO_SYSTEM[:3], True))),
    *(same_text("qwen2.5", "qwen2_5", chat, tools=tools, prompt=prompt) for chat, tools, prompt in (
        (TALK, None, False), (ASKED, None, True), (CALLS, [WEATHER], False), (TWO_CALLS, [WEATHER], True))),
    *(same_text("qwen3", "qwen3", chat, tools=tools, prompt=prompt, **variables) for chat, tools, prompt, variables in (
        (TALK[:3], None, False, {}), (ASKED, None, True, {"enable_thinking": False}), (ASKED, None, True, {}),
        (THOUGHTS[:2], None, False, {}), (INLINE[:2], None, False, {}))),
    *(same_text("qwen3", "qwen3_training", chat, tools=tools, prompt=prompt) for chat, tools, prompt in (
        (TWO_CALLS, [WEATHER], True), ([*TALK[:1], *CALLS], [WEATHER], False), (INLINE, None, False))),
    *(same_text("deepseek-r1", "deepseek_r1_distill_training", chat, prompt=prompt) for chat, prompt in (
        ([*TALK[:1], *INLINE], False), (ASKED, True))),
    ids("a clock that nobody set", "{{ strftime_now('%Y') }}", ASKED, refused="strftime_now"),
    ids("Gemma, a system message", shipped("gemma"), TALK, refused="System role not supported"),
    ids("roles that do not alternate", OWN["Mistral"], [*ASKED, *ASKED], refused="roles must alternate"),
    ids("a system message that is left out", "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        TALK[:2], refused="drops turn 1, of the system"),
    ids("a token that the tokenizer lacks", "{{ messages[0].content + sep_token }}", ASKED,
        refused="'sep_token' is undefined"),
    ids("a namespace with an underscore", "{% set ns = namespace(_a=1) %}{{ messages[0].content }}", ASKED,
        refused="_a"),
    ids("a method of dict", "{{ dict(a=1) }}{{ dict.fromkeys(['b'], messages[0].content) }}", ASKED),
    ids("scopes of {% generation %}", "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ messages[0].content }}"
        "{% endgeneration %}{{ x }}", ASKED, prompt=False),
)  # fmt: skip
"""llama3_1 contains a fixed date; llama3_2 does not, so `date_string` is given."""
