"""Named chat templates for training, with {% generation %} blocks around the trained text.

Each renders the text that models of that name were trained on, and no turn changes earlier ones. Where a
model's own template drops the reasoning of earlier turns (Qwen3, DeepSeek-R1), the template here keeps it, so
that every turn is trained as it was generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML: <|im_start|>role, a line end, the content, <|im_end|>, a line end."""

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
"""Llama 3: a header, a blank line, the content without white space around it, <|eot_id|>."""

_TOOLS = r"""{{- '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' }}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}
{%- for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}
{{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' }}
{{- '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, """
_TOOLS += r""""arguments": <args-json-object>}\n' }}
{{- '</tool_call>' }}
"""
"""Qwen's list of tools in the system message."""

_CALLS = r"""{%- for call in message.tool_calls or [] %}
    {%- set function = call.function if call.function is defined else call %}
    {{- '\n' if message.content or not loop.first else '' }}
    {{- '<tool_call>\n{"name": "' + function.name + '", "arguments": ' }}
    {{- ARGUMENTS + '}\n</tool_call>' }}
{%- endfor %}
"""
"""Qwen's loop over the tool calls of a turn; ARGUMENTS is replaced by the expression of the arguments."""

_RESULT = r"""{{- '' if loop.previtem is defined and loop.previtem.role == 'tool' else '<|im_start|>user' }}
        {{- '\n<tool_response>\n' + (message.content or '') + '\n</tool_response>' }}
        {{- '' if loop.nextitem is defined and loop.nextitem.role == 'tool' else '<|im_end|>\n' }}
"""
"""Qwen's tool results: consecutive ones share a turn of the user."""

_LOOP_END = r"""{{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
"""
"""End of Qwen's loop over turns: closes the assistant's turn, and renders the turns of other roles."""

QWEN2_5 = (
    r"""{%- set given = messages[0].role == 'system' %}
{{- '<|im_start|>system\n' }}
{{- messages[0].content if given else 'You are Qwen, created by Alibaba Cloud. """
    + r"""You are a helpful assistant.' }}
{%- if tools %}
{{- '\n\n' }}
"""
    + _TOOLS
    + r"""{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in (messages[1:] if given else messages) %}
    {%- if message.role == 'tool' %}
        """
    + _RESULT
    + r"""    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
        {{- message.content or '' }}
        """
    + _CALLS.replace("ARGUMENTS", "function.arguments | tojson")
    + _LOOP_END
    + r"""{{- '<|im_start|>assistant\n' if add_generation_prompt else '' }}"""
)
"""Qwen2.5: ChatML with a default system message, tools in it, tool calls and results."""

QWEN3 = (
    r"""{%- set given = messages[0].role == 'system' %}
{%- set silent = enable_thinking is defined and enable_thinking is false %}
{%- if tools %}
{{- '<|im_start|>system\n' + (messages[0].content + '\n\n' if given else '') }}
"""
    + _TOOLS
    + r"""{{- '<|im_end|>\n' }}
{%- elif given %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in (messages[1:] if given else messages) %}
    {%- if message.role == 'tool' %}
        """
    + _RESULT
    + r"""    {%- elif message.role == 'assistant' %}
        {%- set ns = namespace(said=message.content or '', thoughts=message.reasoning_content or '') %}
        {%- if message.reasoning_content is not string and '</think>' in ns.said %}
            {%- set ns.thoughts = ns.said.split('</think>')[0].rstrip('\n')"""
    + r""".split('<think>')[-1].lstrip('\n') %}
            {%- set ns.said = ns.said.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- set block = '<think>\n' + ns.thoughts.strip('\n') + '\n</think>\n\n' %}
        {%- set given_block = silent and not ns.thoughts.strip('\n') %}
        {{- '<|im_start|>assistant\n' + (block if given_block else '') }}
        {%- generation %}
        {{- ('' if given_block else block) + ns.said.lstrip('\n') }}
        """
    + _CALLS.replace("message.content", "ns.said").replace(
        "ARGUMENTS",
        "(function.arguments if function.arguments is string else function.arguments | tojson)",
    )
    + _LOOP_END
    + r"""{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' + ('<think>\n\n</think>\n\n' if silent else '') }}
{%- endif %}"""
)
"""Qwen3: as Qwen2.5; an assistant turn begins with its reasoning, left empty by enable_thinking=false."""

DEEPSEEK_R1 = r"""{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('the system message must be the first') }}{% endif %}
        {{- message.content }}
    {%- elif message.role == 'user' %}
        {{- '<｜User｜>' + message.content }}
    {%- elif message.role == 'assistant' %}
        {{- '<｜Assistant｜>' }}
        {%- generation %}
        {%- if message.reasoning_content %}
            {{- '<think>\n' + message.reasoning_content.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- message.content + eos_token }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{{- '<｜Assistant｜><think>\n' if add_generation_prompt else '' }}"""
"""DeepSeek-R1 and models distilled from it: reasoning is kept; the generation prompt ends with <think>."""

NAMED: Mapping[str, str] = MappingProxyType(
    {"chatml": CHATML, "deepseek-r1": DEEPSEEK_R1, "llama3": LLAMA3, "qwen2.5": QWEN2_5, "qwen3": QWEN3}
)
"""Value of `--chat_template` -> template."""
