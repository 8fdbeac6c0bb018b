"""Find a model's chat template, and the ids that end its answers.

An answer ends with any of: the ids of `eos_token_id` in config.json and in generation_config.json, the
tokenizer's eos_token, and the token with which the template ends a turn of the assistant. Generation stops at
`stop_ids`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_pipes.chat.chat import CHATML, ChatTemplate, chat_template, render
from data_pipes.chat.messages import Message
from data_pipes.chat.presets import NAMED
from data_pipes.tokenizer.spec import special_tokens as control_tokens
from stages.models import special_tokens
from stages.models.language_model import Pretrained, has_chatml, named_tokens
from stages.models.template_kwargs import check_variables, template_variables

ANSWER = "qwxz"
"""The assistant's text in the conversation that is rendered to find the token that ends its turn."""

LOOKS_LIKE_CONTROL = re.compile(r"\s*(<[|｜][^<>\s]+[|｜]>)")


def template_of(path: str | None, base: Pretrained, template_kwargs: str | None = None) -> ChatTemplate:
    """Finds the chat template: from a file, the model's, or ChatML if the tokenizer has its tokens.

    Args:
        path: path of a jinja2 file, a name of `data_pipes.chat.presets.NAMED`, or None (--chat_template).
        base: a model; its special tokens are the template's variables bos_token, eos_token and so on.
        template_kwargs: further variables of the template, a JSON object (--template_kwargs).

    Returns:
        ChatTemplate.

    Raises:
        ValueError: if there is none, it does not compile, it lacks a variable of `template_kwargs`, or
            nothing would end an answer.
        FileNotFoundError: if there is no such file.
    """
    source = source_of(path) if path else base.chat_template
    if source is None:
        source = _chatml(base)
    variables = template_variables(template_kwargs)
    tool_use = None if path else dict(base.other_templates).get("tool_use")
    template = _compile(source, base, variables, tool_use)
    check_variables(variables, template.program.names)
    try:
        if not stop_ids(base, template):
            raise ValueError(
                "a turn of the assistant must end with a control token of the tokenizer, such as <|im_end|>, "
                "or the model must have an eos_token; name one in tokenizer_config.json, or give a "
                "--chat_template that uses the tokens there are"
            )
    except ValueError as error:
        raise ValueError(f"{path or 'the chat template'} does not fit the tokenizer: {error}") from None
    return template


def turn_end(template: ChatTemplate, base: Pretrained) -> int | None:
    """Finds the token that ends a turn of the assistant.

    Args:
        template: the template; it is rendered with one question and one answer.
        base: the model; its tokenizer has the control tokens.

    Returns:
        The id of the first control token after the answer, or of the added token right after it, which some
        tokenizers do not mark as special; if neither follows, of the control token with which the next turn
        begins; None if the turn ends with plain text.

    Raises:
        ValueError: if the template refuses the two turns, leaves the answer out, or ends it with a text that
            looks like a control token but is none of the tokenizer's.
    """
    chat = [Message("user", "a"), Message("assistant", ANSWER)]
    text = render(template, chat)
    if ANSWER not in text:
        raise ValueError("the template leaves out what the assistant says; give another --chat_template")
    after = text[text.rindex(ANSWER) + len(ANSWER) :]
    id_by_text = dict(control_tokens(base.tokenizer))
    eos = named_tokens(base).get("eos_token")
    if (number := special_tokens.id_of(base.tokenizer, eos)) is not None:
        id_by_text[str(eos)] = number
    for token in base.tokenizer.spec.added_tokens:
        if token.content.strip() and after.lstrip().startswith(token.content):
            id_by_text[token.content] = token.id
    pattern = "|".join(map(re.escape, sorted(id_by_text, key=len, reverse=True)))
    pattern = pattern or r"(?!)"  # no tokens: match nothing
    if match := re.search(pattern, after) or re.match(pattern, _next_turn(template, chat, text)):
        return id_by_text[match[0]]
    if unknown := LOOKS_LIKE_CONTROL.match(after):
        raise ValueError(
            f"a turn ends with {unknown[1]}, which is no token of the tokenizer; add it to the tokenizer, or "
            "give a --chat_template that uses the tokens there are"
        )
    return None


def _next_turn(template: ChatTemplate, chat: list[Message], text: str) -> str:
    """The text that one more user turn appends; "" if the template refuses it or changes the text before."""
    try:
        more = render(template, [*chat, chat[0]])
    except ValueError:
        return ""
    return more[len(text) :] if more.startswith(text) else ""


def stop_ids(base: Pretrained, template: ChatTemplate | None = None) -> tuple[int, ...]:
    """Returns every id that ends an answer.

    Args:
        base: a model.
        template: template of the prompts; None takes the model's own, if it has one that fits.

    Returns:
        Ids, each once: those of config.json, of generation_config.json, of the tokenizer's eos_token, and of
        the template's turn end. Empty if nothing ends an answer.

    Raises:
        ValueError: as in `turn_end`, if `template` is given.
    """
    special, config = base.special, base.model.config
    eos = special_tokens.id_of(base.tokenizer, named_tokens(base).get("eos_token"))
    turn = turn_end(template, base) if template is not None else _own_turn_end(base)
    ids = [config.eos_token_id, *special.config_ends, *special_tokens.generation_ends(special), eos, turn]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def with_template(base: Pretrained, template: ChatTemplate) -> Pretrained:
    """Returns the model with the template of its training, which is saved with it.

    The token that ends the template's turns is saved too, as one that ends answers.
    """
    turn = turn_end(template, base)
    special = base.special
    if turn is not None and turn not in special_tokens.generation_ends(special):
        special = special._replace(turn_ends=(*special.turn_ends, turn))
    same = template.source == base.chat_template
    return base._replace(
        chat_template=template.source, special=special, other_templates=base.other_templates if same else ()
    )


def _compile(
    source: str, base: Pretrained, variables: tuple[tuple[str, Any], ...] = (), tool_use: str | None = None
) -> ChatTemplate:
    """Compiles a template, with the model's special tokens as variables."""
    return chat_template(source, special_tokens=named_tokens(base), variables=variables, tool_use=tool_use)


def source_of(path: str) -> str:
    """Reads the template of --chat_template: one of `NAMED`, or a file.

    Raises:
        FileNotFoundError: if it is neither.
    """
    if path in NAMED:
        return NAMED[path]
    if not Path(path).is_file():
        names = ", ".join(NAMED)
        raise FileNotFoundError(
            f"--chat_template {path}: expected a file of a jinja2 template, or one of {names}"
        )
    return Path(path).read_text(encoding="utf-8")


def _own_turn_end(base: Pretrained) -> int | None:
    """The turn end of the model's own template; None where there is none, or it does not fit."""
    if base.chat_template is None and not has_chatml(base):
        return None
    try:
        return turn_end(_compile(base.chat_template or CHATML, base), base)
    except ValueError:
        return None


def _chatml(base: Pretrained) -> str:
    """Returns ChatML's source, if the tokenizer has its tokens.

    Raises:
        ValueError: if the model has named templates only, or the tokenizer lacks ChatML's tokens.
    """
    if base.other_templates:
        names = ", ".join(name for name, _ in base.other_templates)
        raise ValueError(
            f"the model has the chat templates {names}, and none called default; write one of them into a "
            "file, and name it by --chat_template"
        )
    if not has_chatml(base):
        raise ValueError(
            "the model has no chat template, and its tokenizer lacks the tokens of ChatML, <|im_start|> "
            "and <|im_end|>; add them (sft --add_tokens '<|im_start|>' '<|im_end|>', which trains the whole "
            "model), or give a --chat_template that uses the tokens there are"
        )
    return CHATML
