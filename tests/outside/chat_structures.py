"""Chat templates with the structure of published ones, written for the tests, and conversations for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISTRAL = """{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set turns = messages if system is none else messages[1:] %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- if message.role == 'user' %}
        {%- set begin = system + '\\n\\n' if loop.first and system is not none else '' %}
        {{- ' [INST] ' + begin + message.content + ' [/INST]' }}
    {%- else %}{{ ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""

LLAMA2 = """{%- if messages[0].role == 'system' %}
    {%- set begin = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}
{%- else %}{% set begin = '' %}{% set turns = messages %}{% endif %}
{%- for message in turns %}
    {%- set content = begin + message.content if loop.index0 == 0 else message.content %}
    {%- if message.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

ZEPHYR = """{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

PHI4 = """{% for message in messages %}
{{- '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

COMMAND_R = """{{- bos_token }}
{%- macro turn(role, text) %}
    {{- '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + text + '<|END_OF_TURN_TOKEN|>' }}
{%- endmacro %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{ turn('SYSTEM', message.content) }}
    {%- elif message.role == 'user' %}{{ turn('USER', message.content.strip()) }}
    {%- else %}{{ turn('CHATBOT', message.content | trim) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

EVERY_TOKEN = """{{- [bos_token, eos_token, unk_token, pad_token, sep_token is defined, tools, documents] | join('/') }}
{%- for message in messages %}{{ message | tojson }}{{ message | tojson(indent=2, sort_keys=true) }}{% endfor %}
{{- messages | tojson(ensure_ascii=true, separators=(',', ':')) }}{{ none }}{{ true }}{{ nothing }}"""

OWN: Mapping[str, str] = {
    "Mistral": MISTRAL, "Llama 2": LLAMA2, "Zephyr": ZEPHYR, "Phi-4": PHI4, "Command-R": COMMAND_R,
}  # fmt: skip

CONTROLS = (
    "<s>", "</s>", "<unk>", "<pad>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|eom_id|>", "<|python_tag|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<start_of_turn>", "<end_of_turn>",
    "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
)  # fmt: skip
"""Special tokens of all templates."""

ADDED_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that are not special, as in Qwen3."""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Tells the "weather" <today> & tomorrow, é.',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def turns(*contents: str, system: str = "") -> list[dict[str, Any]]:
    """A system message, if there is one, and turns of user and assistant."""
    chat = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *chat] if system else chat


def call(**arguments: Any) -> dict[str, Any]:
    """An assistant turn that calls the function `weather`."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": arguments}}],
    }


def result(text: str) -> dict[str, Any]:
    """A tool turn with the return value of `weather`."""
    return {"role": "tool", "name": "weather", "content": text}


ASKED = turns(" Is 1 + 1 = 2?\n")
TALK = turns("Hi  ", "Yes.\n", " Sure?\n\n", "é, two.", system="Be brief. ")
NO_SYSTEM = TALK[1:]
CALLS = [
    *turns("Weather in Bern?"),
    call(city="Bern", days=[1, 2]),
    result('{"t": "3 °C"}'),
    *turns("", "3 °C.")[1:],
]
TWO_CALLS = [*turns("Both?", system="Help."), call(city="A"), call(city="B"), result("1"), result("2")]
THOUGHTS = [
    *turns("Q1"), {"role": "assistant", "content": "A1", "reasoning_content": "hm\nso"},
    *turns("Q2"), {"role": "assistant", "content": "A2", "reasoning_content": "aha"},
]  # fmt: skip
INLINE = turns("Q1", "<think>\nhm\n</think>\n\nA1", "Q2", "<think>\nso\n</think>\n\nA2")
