"""`intro2llm chat`: talks with a model that was fine-tuned on conversations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stages.cli.flags import parse

if TYPE_CHECKING:
    from data_pipes.messages import Message
    from stages.run.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """A conversation with a model; an empty line or the end of the input ends it."""

    model_path: str
    """A run's folder, its final_model, or any folder in Hugging Face's layout."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to say, in the place of the keyboard; give the flag again for the next turn."""
    system: str | None = None
    """A message of the system that begins the conversation."""
    chat_template: str | None = None
    """File of a jinja2 chat template, or one of ours: qwen2.5, qwen3, llama3, deepseek-r1, chatml; None takes the
    model's own, or ChatML."""
    template_kwargs: str | None = None
    """Variables of the chat template, as a JSON object: '{"enable_thinking": false}'; strftime_now is a date."""
    max_new_tokens: int = 200
    """Tokens of an answer at most."""
    temperature: float = 0.7
    """Sharpness: 0 always takes the likeliest token, 1 samples as the model believes."""
    top_p: float | None = 0.95
    """Share of the probability: sample among the likeliest tokens that together have it; None takes all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a GPU where there is one."""
    seed: int = 0
    """Seed of everything random; the same gives the same conversation."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, loads, talks."""
    options = parse(ChatOptions, "chat", arguments)
    if sys.stderr.isatty():  # somebody waits; torch takes seconds to load
        print(f"loading {options.model_path}", file=sys.stderr, flush=True)
    import torch

    from data_pipes.messages import Message
    from stages.run import pretrained
    from stages.run.hardware import pick_device

    device = pick_device(options.device)
    base = pretrained.load(options.model_path, dtype=getattr(torch, options.dtype))
    base = pretrained.placed(base, device)
    answer = answering(base, options)
    said = [Message("system", options.system)] if options.system else []
    for text in _turns(options):
        said.append(Message("user", text))
        said.append(Message("assistant", answer(said)))
        print(f"{said[-1].content}\n")
    return 0


def answering(base: Pretrained, options: ChatOptions) -> Callable[[Sequence[Message]], str]:
    """Makes the function that answers a conversation; the oldest turns are forgotten where it grows too long.

    Args:
        base: model, params, tokenizer, chat template.
        options: how to sample.

    Returns:
        messages -> the next turn of the assistant.

    Raises:
        ValueError: (by the result) if the last turn alone is too long for the model.
    """
    from data_pipes.chat import encode_chat
    from pure import random
    from pure.generate import generate
    from stages.run.chat_template import ends, template_of

    template = template_of(options.chat_template, base, options.template_kwargs)
    stops = ends(base, template)
    room = base.model.config.max_position_embeddings - options.max_new_tokens

    def answer(said: Sequence[Message]) -> str:
        kept = list(said)
        while len(ids := encode_chat(template, base.tokenizer, kept, add_generation_prompt=True).tokens) > room:
            if len(kept) == 1:
                raise ValueError(
                    f"the last turn has {len(ids)} tokens, and the model has room for {room} besides --max_new_tokens; "
                    "say it in fewer words"
                )
            kept = kept[2:] if len(kept) > 2 else kept[1:]
        found = generate(
            base.model, base.params, [ids.tolist()], key=random.fold_in(random.key(options.seed), len(said)),
            max_new_tokens=options.max_new_tokens, temperature=options.temperature, top_p=options.top_p,
            stop_tokens=stops,
        )  # fmt: skip
        return base.tokenizer.decode(found.tokens[0, : int(found.lengths[0])].tolist(), skip_special=True).strip()

    return answer


def _turns(options: ChatOptions) -> Iterator[str]:
    """What the person says: from the flags, or line by line."""
    if options.prompt:
        for text in options.prompt:
            print(f"> {text}")
            yield text
        return
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.rstrip("\n")
