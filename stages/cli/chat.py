"""`intro2llm chat`: talks with a model that was fine-tuned on conversations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stages.run.options.groups import ChatModelFlags, DeviceFlags, SamplingFlags, defaults
from stages.run.options.ranges import AtLeast

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipes.chat.messages import Message
    from pure.generation.sampling import Sampling
    from stages.models.language_model import Pretrained

Show = Callable[[str], object]
"""Takes the next piece of an answer."""


@dataclass(frozen=True, kw_only=True)
@defaults(temperature=0.7, top_p=0.95)
class ChatOptions(DeviceFlags, SamplingFlags, ChatModelFlags):
    """Chat with a fine-tuned model.

    Ctrl-C stops an answer; at the prompt, Ctrl-C or Ctrl-D ends the session.
    """

    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """User message, in place of the keyboard; repeat the flag for further turns."""
    system: str | None = None
    """System message at the start of the conversation."""
    max_new_tokens: Annotated[int, AtLeast(1)] = 200
    """Maximum tokens of an answer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""


def run(options: ChatOptions) -> int:
    """Loads, talks.

    Returns:
        The exit code.
    """
    if sys.stderr.isatty():  # somebody waits; torch takes seconds to load
        print(f"loading {options.model_path}", file=sys.stderr, flush=True)
    import torch

    from stages.models import language_model
    from stages.models.hardware import pick_device

    base = language_model.load(options.model_path, dtype=getattr(torch, options.dtype))
    base = language_model.move_to(base, pick_device(options.device))
    talk(answering(base, options, say=_note), options)
    return 0


def talk(answer: Callable[[Sequence[Message], Show], str], options: ChatOptions) -> list[Message]:
    """Goes through the turns of a session.

    Args:
        answer: see `answering`.
        options: what is said, or None for the keyboard.

    Returns:
        The conversation.

    Raises:
        ValueError: if a turn of --prompt is too long; one from the keyboard is left out, and said so.
    """
    from data_pipes.chat.messages import Message

    said = [Message("system", options.system)] if options.system else []
    for text in _turns(options):
        shown: list[str] = []

        def show(piece: str, shown: list[str] = shown) -> None:
            shown.append(piece)
            print(piece, end="", flush=True)

        try:
            answer([*said, Message("user", text)], show)
        except ValueError as error:
            if options.prompt:
                raise
            _note(f"{error}; this turn is left out")
            continue
        except KeyboardInterrupt:
            _note("\nstopped; Ctrl-C again or Ctrl-D ends the session")
            if not "".join(shown).strip():
                continue
        print("\n", flush=True)
        said += [Message("user", text), Message("assistant", "".join(shown).strip())]
    return said


def answering(
    base: Pretrained, options: ChatOptions, say: Callable[[str], object] = lambda line: None
) -> Callable[[Sequence[Message], Show], str]:
    """Makes the function that answers a conversation.

    Args:
        base: model, params, tokenizer, chat template.
        options: how to sample.
        say: is told what is forgotten.

    Returns:
        (messages, show) -> the next turn of the assistant, without white space around it; `show` gets each
        piece as soon as no later token can change it.

    Raises:
        ValueError: if --max_new_tokens leave no room for a question; by the result, if the system's message
            and the last turn alone are too long.
    """
    import torch

    from data_pipes.chat.chat import encode_chat
    from data_pipes.tokenizer import stream
    from pure import random
    from pure.generation.generate import generate
    from stages.models.chat_template import stop_ids, template_of

    template = template_of(options.chat_template, base, options.template_kwargs)
    stops = stop_ids(base, template)
    most = base.model.config.max_position_embeddings
    room = most - options.max_new_tokens
    if room < 1:
        raise ValueError(
            f"--max_new_tokens {options.max_new_tokens} leave no room for a question in the model's context of {most} "
            "tokens; ask for fewer"
        )

    def encode(said: Sequence[Message]) -> list[int]:
        return encode_chat(template, base.tokenizer, said, add_generation_prompt=True).tokens.tolist()

    def answer(said: Sequence[Message], show: Show = lambda piece: None) -> str:
        ids, forgotten = remembered(said, encode, room)
        if forgotten:
            say(f"the context is full: the oldest {forgotten} messages are forgotten")
        state, step, finish = stream(base.tokenizer, skip_special=True)
        pieces: list[str] = []

        def tell(piece: str) -> None:
            piece = piece if pieces else piece.lstrip()
            if piece:
                pieces.append(piece)
                show(piece)

        def look(tokens: Tensor, lengths: Tensor) -> Tensor:
            nonlocal state
            last = int(tokens[0, int(lengths[0]) - 1])
            if last not in stops:
                state, piece = step(state, last)
                tell(piece)
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

        generate(
            base.model,
            base.params,
            [ids],
            _sampling(options, base, stops),
            key=random.fold_in(random.key(options.seed), len(said)),
            stop=look,
        )
        tell(finish(state))
        return "".join(pieces).strip()

    return answer


def remembered(
    said: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], room: int
) -> tuple[list[int], int]:
    """Encodes a conversation, without its oldest exchanges where it is too long.

    An exchange is a turn of the user and all that follows it up to the next one. The system's message stays.

    Args:
        said: messages, the user's last.
        encode: messages -> ids.
        room: tokens at most.

    Returns:
        (ids, number of messages that are left out).

    Raises:
        ValueError: if what must stay is too long.
    """
    first = next((i for i, message in enumerate(said) if message.role == "user"), len(said))
    head, rest = list(said[:first]), list(said[first:])
    while len(ids := encode([*head, *rest])) > room:
        following = [i for i, message in enumerate(rest) if message.role == "user"][1:]
        if not following:
            beside = "the system's message and the last turn have" if head else "the last turn has"
            raise ValueError(
                f"{beside} {len(ids)} tokens, and the model has room for {room} besides --max_new_tokens; say it in "
                "fewer words"
            )
        rest = rest[following[0] :]
    return ids, len(said) - len(head) - len(rest)


def _sampling(options: ChatOptions, base: Pretrained, stops: tuple[int, ...]) -> Sampling:
    """Sampling parameters of the flags, for the model."""
    from data_pipes.tokenizer import vocabulary_size
    from pure.generation.sampling import Sampling

    return Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        vocabulary=vocabulary_size(base.tokenizer),
        stop_tokens=stops,
    )


def _turns(options: ChatOptions) -> Iterator[str]:
    """What the person says: from the flags, or line by line, with a line editor and the session's history."""
    if options.prompt:
        for text in options.prompt:
            print(f"> {text}")
            yield text
        return
    if sys.stdin.isatty():
        import readline  # noqa: F401  (input() then edits its line)
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line.strip():
            yield line


def _note(line: str) -> None:
    """A line that is no part of the conversation."""
    print(line, file=sys.stderr, flush=True)
