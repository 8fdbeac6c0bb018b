"""Special tokens, chat templates and end ids, as transformers, tokenizers and gguf files hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_pipes.chat.chat import encode_chat
from data_pipes.chat.messages import PLAIN as PLAIN_CONTEXT
from data_pipes.chat.messages import Context, Message
from stages.models import chat_template, language_model, text_prompt
from tests.outside import written
from tests.outside.form import Form

CHAT = (("user", " What is it? "), ("assistant", "It is a text."), ("user", "12 + 34?"))
ASKED = [{"role": role, "content": content} for role, content in CHAT]

HEADER = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}
TOOLS = "{{ bos_token }}{% for t in tools %}{{ t.function.name }}{% endfor %}" + HEADER
PLAIN = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
MARKS = (
    "{{ bos_token }}[{{ eos_token }}|{{ pad_token }}|{{ unk_token }}]{% for m in messages %}{{ m.content }}"
    "{{ eos_token }}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|eot_id|>",
    "chat_template": MARKS,
    "tokenizer_class": "PreTrainedTokenizerFast",
}
DECODER = {
    "0": {
        "content": "<|begin_of_text|>",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
}

# name -> (control tokens, named tokens, template): structures like those of the published models
FAMILIES: Mapping[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "Llama 3": (written.LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, HEADER),
    "Gemma": (
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), {"bos_token": "<bos>", "eos_token": "<eos>"},
        "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    "Mistral": (
        ("<unk>", "<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>"},
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    ),
    "Zephyr": (
        ("<unk>", "<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    "Llama 2": (
        ("<unk>", "<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>"},
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
    ),
    "Qwen2.5": (
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}" + CHATML,
    ),
    "R1": (
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
        "{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
    ),
    "Phi": (
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    ),
    "Command-R": (
        ("<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
         "<|CHATBOT_TOKEN|>"),
        {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "pad_token": "<PAD>"},
        "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + ('<|USER_TOKEN|>' if m.role == 'user' "
        "else '<|CHATBOT_TOKEN|>') + m.content | trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
    ),
}  # fmt: skip
TURN_ENDS = {"Llama 3": "<|eot_id|>", "Gemma": "<end_of_turn>", "Mistral": "</s>", "Zephyr": "</s>", "Llama 2": "</s>",
             "Qwen2.5": "<|im_end|>", "R1": "<｜end▁of▁sentence｜>", "Phi": "<|end|>",
             "Command-R": "<|END_OF_TURN_TOKEN|>"}  # fmt: skip


def _ids(folder: Path, context: Context = PLAIN_CONTEXT) -> list[int]:
    """Our ids of the chat."""
    base = language_model.load(folder)
    messages = [Message(role, content) for role, content in CHAT]
    template = chat_template.template_of(None, base)
    return encode_chat(
        template, base.tokenizer, messages, add_generation_prompt=True, context=context
    ).tokens.tolist()


def _their_ids(folder: Path) -> list[int]:
    """transformers' ids of the chat."""
    tokenizer = written.tokenizer(folder)
    return tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)


def _chat(name: str, **options: Any) -> Form:
    """A folder whose chat has the ids of transformers."""
    return Form(
        "special tokens",
        name,
        "transformers",
        lambda folder: _their_ids(written.model(folder, **options)),
        _ids,
    )


def _refused(
    name: str, pattern: str, ours: Callable[[Path], Any] = language_model.load, **options: Any
) -> Form:
    """A folder that is refused."""
    return Form(
        "special tokens",
        name,
        "transformers",
        lambda folder: written.model(folder, **options) and None,
        ours,
        refused=pattern,
    )


def _family(name: str) -> Form:
    """A chat by a template with the structure of a family's."""
    tokens, named, template = FAMILIES[name]
    return _chat(f"the structure of {name}", tokens=tokens, chat_template=template, **named)


def _turn(name: str) -> Form:
    """The id that ends a turn of a family's template."""
    tokens, named, template = FAMILIES[name]

    def theirs(folder: Path) -> int:
        written.model(folder, tokens=tokens, chat_template=template, **named)
        return written.tokenizer(folder).convert_tokens_to_ids(TURN_ENDS[name])

    def ours(folder: Path) -> int | None:
        base = language_model.load(folder)
        return chat_template.turn_end(chat_template.template_of(None, base), base)

    return Form("special tokens", f"the turn end of {name}", "published", theirs, ours)


def _ends(name: str, right: set[int], **options: Any) -> Form:
    """A folder and the ids that must end an answer."""
    options = {"chat_template": HEADER, "bos_token": "<|begin_of_text|>"} | options
    return Form(
        "ends of answers",
        name,
        "transformers",
        lambda folder: sorted(right) if written.model(folder, **options) else [],
        lambda folder: sorted(chat_template.stop_ids(language_model.load(folder))),
    )


def _save_again(folder: Path) -> Path:
    """Load the folder and save it with our own code."""
    return language_model.save(folder / "again", language_model.load(folder))


def _read_facts(folder: Path) -> dict[str, Any]:
    """Fields and ids that transformers reads from a folder."""
    import transformers

    tokenizer, config = written.tokenizer(folder), transformers.AutoConfig.from_pretrained(folder)
    has = (folder / "generation_config.json").is_file()
    kind = transformers.GenerationConfig
    generation = kind.from_pretrained(folder) if has else kind.from_model_config(config)
    return {
        "named": tokenizer.special_tokens_map,
        "extra": sorted(map(str, tokenizer.extra_special_tokens)),
        "template": tokenizer.chat_template,
        "length": tokenizer.model_max_length,
        "ids": tokenizer("It is").input_ids,
        "config": config.eos_token_id,
        "generation": {
            name: getattr(generation, name)
            for name in ("eos_token_id", "bos_token_id", "temperature", "do_sample")
        },
    }


def _round_trip(name: str, **options: Any) -> Form:
    """A folder that transformers reads alike before and after our code loads and saves it."""
    return Form(
        "special tokens",
        name,
        "transformers",
        lambda folder: _read_facts(written.model(folder, **options)),
        lambda folder: _read_facts(_save_again(folder)),
    )


def _prompts(name: str, **options: Any) -> Form:
    """Ids of a text, with those that the tokenizer adds."""
    texts = ("It is", "<|begin_of_text|>It is")
    return Form(
        "special tokens",
        name,
        "transformers",
        lambda folder: written.tokenizer(written.model(folder, **options))(texts[0]).input_ids,
        lambda folder: text_prompt.encode_prompt(language_model.load(folder), texts[0], special="all"),
    )


def _plain_added(folder: Path) -> Path:
    """Write a ChatML model whose tokenizer has the ChatML tokens as added tokens that are not special."""
    written.model(
        folder,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        chat_template=CHATML,
        eos_token="<|endoftext|>",
        config={"eos_token_id": 0},
    )
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [{**t, "special": "im_" not in t["content"]} for t in content["added_tokens"]]
    path.write_text(json.dumps(content))
    return folder


def _their_plain_added(folder: Path) -> list[Any]:
    """transformers' ids of a chat, ids of the answer, and end ids."""
    tokenizer, messages = written.tokenizer(_plain_added(folder)), ASKED[:2]
    assert "<|im_end|>" not in tokenizer.all_special_tokens
    ids, prompt = (
        tokenizer.apply_chat_template(messages[:n], add_generation_prompt=n == 1, return_dict=False)
        for n in (2, 1)
    )
    return [ids, ids[len(prompt) : ids.index(2, len(prompt)) + 1], [0, 2]]


def _our_plain_added(folder: Path) -> list[Any]:
    """Our ids of a chat, trained ids, and end ids."""
    base = language_model.load(folder)
    template = chat_template.template_of(None, base)
    found = encode_chat(template, base.tokenizer, [Message(role, content) for role, content in CHAT[:2]])
    ids, trained = found.tokens.tolist(), found.trained.tolist()
    return [
        ids,
        [i for i, flag in zip(ids, trained, strict=True) if flag],
        [*chat_template.stop_ids(base)],
    ]


def _gguf(folder: Path, **fields: Any) -> Path:
    """Write the folder's model as a GGUF file with further tokenizer fields."""
    from tests.stages.models.gguf_writer import write

    base = language_model.load(written.model(folder, chat_template=HEADER, **FAMILIES["Llama 3"][1]))
    return write(
        folder / "model.gguf",
        base.model.config,
        base.params,
        base.tokenizer,
        tokenizer_fields={"chat_template": HEADER, "ggml.bos_token_id": 0, **fields},
    )


FORMS = (
    *map(_family, FAMILIES),
    Form("special tokens", "ChatML's tokens are added ones, and not special", "transformers", _their_plain_added,
         _our_plain_added),
    *map(_turn, FAMILIES),
    _chat("bos_token as an object", files={"tokenizer_config.json": CONFIG | {"bos_token": {
        "__type": "AddedToken", "content": "<|begin_of_text|>", "lstrip": False, "normalized": False, "rstrip": False,
        "single_word": False}}}),
    _chat("names in special_tokens_map.json only",
          files={"tokenizer_config.json": {"chat_template": MARKS, "tokenizer_class": "PreTrainedTokenizerFast"},
                 "special_tokens_map.json": {"bos_token": "<|begin_of_text|>", "eos_token": {
                     "content": "<|eot_id|>", "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False}}}),
    _chat("special_tokens_map.json wins without added_tokens_decoder",
          files={"tokenizer_config.json": CONFIG, "special_tokens_map.json": {"bos_token": "<|pad|>"}}),
    _chat("special_tokens_map.json is out of use with added_tokens_decoder",
          files={"tokenizer_config.json": CONFIG | {"added_tokens_decoder": DECODER},
                 "special_tokens_map.json": {"bos_token": "<|pad|>"}}),
    _chat("pad_token and unk_token in a template", files={"tokenizer_config.json": CONFIG | {
        "pad_token": "<|pad|>", "unk_token": None}}),
    _chat("a name of the model's own in a template", files={"tokenizer_config.json": CONFIG | {
        "chat_template": "{{ turn_token }}" + MARKS, "extra_special_tokens": {"turn_token": "<|end_header_id|>"}}}),
    _chat("additional_special_tokens that tokenizer.json lacks", files={"tokenizer_config.json": CONFIG | {
        "chat_template": MARKS + "<|new|>", "additional_special_tokens": ["<|new|>"]}}),
    _chat("a named token that tokenizer.json lacks",
          files={"tokenizer_config.json": CONFIG | {"pad_token": "[PAD]"}}),
    _chat("a named token of the vocabulary that is no added token",
          files={"tokenizer_config.json": CONFIG | {"eos_token": "Ġis"}}),
    _chat("chat_template as a list of named ones", files={"tokenizer_config.json": CONFIG | {"chat_template": [
        {"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": MARKS}]}}),
    Form("special tokens", "the template tool_use where a row has tools", "transformers",
         lambda folder: written.tokenizer(written.model(folder, files={"tokenizer_config.json": CONFIG | {
             "chat_template": [{"name": "default", "template": HEADER}, {"name": "tool_use", "template": TOOLS}]}})
         ).apply_chat_template(ASKED, tools=[TOOL], add_generation_prompt=True, return_dict=False),
         lambda folder: _ids(folder, Context((TOOL,)))),
    _chat("chat_template.jinja wins over tokenizer_config.json",
          files={"tokenizer_config.json": CONFIG | {"chat_template": "{{ 1 }}"}, "chat_template.jinja": MARKS}),
    _chat("additional_chat_templates next to chat_template.jinja",
          files={"tokenizer_config.json": CONFIG, "chat_template.jinja": HEADER,
                 "additional_chat_templates/rag.jinja": "{{ documents }}"}),
    Form("special tokens", "chat_template.json of a processor", "published",
         lambda folder: _their_ids(written.model(folder, chat_template=HEADER, **FAMILIES["Llama 3"][1])),
         lambda folder: _ids(written.model(folder, files={
             "tokenizer_config.json": {name: x for name, x in CONFIG.items() if name != "chat_template"},
             "chat_template.json": {"chat_template": HEADER}}))
         if (folder / "chat_template.jinja").unlink() is None else []),
    _refused("chat_template.json that contradicts the tokenizer", "chat_template.json: its template is not",
             files={"tokenizer_config.json": CONFIG, "chat_template.json": {"chat_template": HEADER}}),
    _refused("chat_template as a number", "tokenizer_config.json: chat_template must be a text",
             files={"tokenizer_config.json": CONFIG | {"chat_template": 5}}),
    _refused("named templates without a default", "has the chat templates rag, and none called default", _ids,
             files={"tokenizer_config.json": CONFIG | {"chat_template": [{"name": "rag", "template": MARKS}]}}),
    _refused("no template and no ChatML", "has no chat template, and its tokenizer lacks the tokens of ChatML", _ids,
             **FAMILIES["Llama 3"][1]),
    _refused("a template for other tokens", "a turn ends with <|im_end|>, which is no token of the tokenizer", _ids,
             chat_template=CHATML, **FAMILIES["Llama 3"][1]),
    _refused("bos_token as a number", "tokenizer_config.json: bos_token must be a text or an object",
             files={"tokenizer_config.json": CONFIG | {"bos_token": 5}}),
    _refused("a named token without a row of the embedding", "names '<|row 351|>'.*rows has no room",
             files={"tokenizer_config.json": CONFIG | {"extra_special_tokens": [f"<|row {i}|>" for i in range(319, 353)]
                                                       }}),
    _prompts("a post_processor with a bos token", before=("<|begin_of_text|>",)),
    _prompts("a post_processor with a bos and an eos token", before=("<|begin_of_text|>",), after=("<|end_of_text|>",)),
    _prompts("a post_processor that adds nothing"),
    _prompts("add_bos_token that tokenizer.json overrules", files={"tokenizer_config.json": CONFIG | {
        "add_bos_token": True}}),
    Form("special tokens", "a prompt that brings its own bos token has one", "tokenizers",
         lambda folder: written.tokenizer(written.model(folder, before=("<|begin_of_text|>",)))("It is").input_ids,
         lambda folder: text_prompt.encode_prompt(
             language_model.load(folder), "<|begin_of_text|>It is", special="all")),
    _ends("one id in config.json", {1, 4}),
    _ends("several ids in config.json", {1, 5, 4}, config={"eos_token_id": [1, 5]}),
    _ends("several ids in generation_config.json", {1, 3, 5, 4}, generation={"eos_token_id": [3, 5]}),
    _ends("another eos_token of the tokenizer", {1, 4, 5}, eos_token="<|pad|>"),
    _ends("an empty list", {4}, config={"eos_token_id": []}),
    _ends("-1", {4}, config={"eos_token_id": -1}, generation={"eos_token_id": [-1]}),
    _ends("null", {4}, config={"eos_token_id": None}, generation={"eos_token_id": None}),
    _ends("a turn that ends with plain text", {1}, chat_template=PLAIN),
    _refused("an end beyond the vocabulary in config.json", "config.json.*eos_token_id", config={"eos_token_id": 999}),
    _refused("an end beyond the vocabulary in a list", "config.json: eos_token_id must be an id below 352",
             config={"eos_token_id": [1, 999]}),
    _refused("an end beyond the vocabulary in generation_config.json",
             "generation_config.json: eos_token_id must be an id below 352", generation={"eos_token_id": 999}),
    _refused("an end that is a text", "eos_token_id", generation={"eos_token_id": "<|eot_id|>"}),
    _refused("nothing ends an answer", "must end with a control token of the tokenizer", _ids,
             chat_template=PLAIN, config={"eos_token_id": None}),
    _round_trip("a Llama 3 read and written", before=("<|begin_of_text|>",), chat_template=HEADER,
          config={"eos_token_id": [1, 4]}, generation={"eos_token_id": [1, 4, 5], "temperature": 0.6, "do_sample": True,
                                                       "bos_token_id": 0},
          extra_special_tokens=["<|end_header_id|>"], pad_token="<|pad|>", model_max_length=99,
          **FAMILIES["Llama 3"][1]),
    _round_trip("named templates read and written", files={"tokenizer_config.json": CONFIG | {"chat_template": [
        {"name": "default", "template": HEADER}, {"name": "tool_use", "template": MARKS}]}}),
    Form("special tokens", "greedy text after a bos token, to the second of two ends", "transformers",
         lambda folder: written.greedy(written.model(
             folder, before=("<|begin_of_text|>",), generation={"eos_token_id": [1, 201]},
             **FAMILIES["Llama 3"][1]), "What is"),
         lambda folder: _generate_greedily(folder, "What is")),
    Form("special tokens", "bos_token of a GGUF file in its template", "gguf",
         lambda folder: _their_ids(_gguf(folder).parent), lambda folder: _ids(folder / "model.gguf")),
    Form("special tokens", "add_bos_token of a GGUF file", "gguf",
         lambda folder: [0, *written.tokenizer(_gguf(folder, **{"ggml.add_bos_token": True}).parent)("It is")[
             "input_ids"]],
         lambda folder: text_prompt.encode_prompt(language_model.load(folder / "model.gguf"), "It is")),
    Form("special tokens", "a Llama 3 GGUF file that does not say add_bos_token", "llama.cpp's rule",
         lambda folder: [0, *written.tokenizer(_gguf(folder).parent)("It is")["input_ids"]],
         lambda folder: text_prompt.encode_prompt(language_model.load(folder / "model.gguf"), "It is")),
    Form("ends of answers", "eos, eot and eom of a GGUF file", "gguf",
         lambda folder: [1, 3, 4] if _gguf(folder, **{"ggml.eos_token_id": 1, "ggml.eot_token_id": 4,
                                                      "ggml.eom_token_id": 3}) else [],
         lambda folder: sorted(chat_template.stop_ids(language_model.load(folder / "model.gguf")))),
)  # fmt: skip


def _generate_greedily(folder: Path, text: str) -> str:
    """Our greedy continuation of a text."""
    from pure import random
    from pure.generation.sampling import Sampling
    from stages.cli.generate import generate_texts

    sampling = Sampling(12, temperature=0.0)
    return generate_texts(language_model.load(folder), [text], sampling, key=random.key(0))[0]
