"""`intro2llm chat`: a conversation with a fine-tuned model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pure.plural import count_noun
from stages.cli import history
from stages.cli.notice import say_waiting
from stages.run.options.groups import ChatModelFlags, DeviceFlags, SamplingFlags, defaults
from stages.run.options.ranges import AtLeast, MayBeEmpty

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipes.chat.chat import ChatTemplate
    from data_pipes.chat.messages import Message
    from pure.generation.sampling import Sampling
    from stages.models.language_model import Pretrained

LONGEST_ANSWER = 200
"""Maximum tokens of an answer, unless --max_new_tokens is given or the context is short."""

Show = Callable[[str], object]
"""Prints the next piece of an answer."""

Answer = Callable[["Sequence[Message]", Show], str]
"""Answers a conversation: (messages, show) -> the assistant's next turn."""


@dataclass(frozen=True, kw_only=True)
@defaults(temperature=0.7, top_p=0.95)
class ChatOptions(DeviceFlags, SamplingFlags, ChatModelFlags):
    """Chat with a fine-tuned model.

    Ctrl-C stops an answer; at the prompt, Ctrl-C or Ctrl-D ends the session. Lines of earlier sessions come
    back with the arrow keys.
    """

    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """User message, in place of the keyboard; repeat the flag for further turns."""
    system: Annotated[str | None, MayBeEmpty()] = None
    """System message at the start of the conversation."""
    max_new_tokens: Annotated[int | None, AtLeast(1)] = None
    """Maximum tokens of an answer, which the context keeps free for it; None takes 200, or half of a context
    that is shorter than 400."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""


def run(options: ChatOptions) -> int:
    """Loads the model, and runs a session.

    Returns:
        The exit code.
    """
    say_waiting(f"loading {options.model_path}")
    import torch

    from pure import random
    from pure.generation.sampling import Sampling
    from stages.models import language_model
    from stages.models.chat_template import template_of
    from stages.models.hardware import pick_device

    base = language_model.load(options.model_path, dtype=getattr(torch, options.dtype))
    base = language_model.move_to(base, pick_device(options.device))
    template = template_of(options.chat_template, base, options.template_kwargs)
    context = base.model.config.max_position_embeddings
    longest = options.max_new_tokens or min(LONGEST_ANSWER, max(1, context // 2))
    sampling = Sampling(longest, temperature=options.temperature, top_p=options.top_p)
    answer = answer_fn(base, template, sampling, key=random.key(options.seed), say=_print_note)
    run_session(answer, system=options.system, prompts=options.prompt)
    return 0


def run_session(answer: Answer, *, system: str | None = None, prompts: Sequence[str] = ()) -> list[Message]:
    """Alternates between the user's turns and answers to them.

    Args:
        answer: the function that `answer_fn` returns.
        system: message at the start of the conversation.
        prompts: the user's turns; without any, they come from the keyboard.

    Returns:
        The conversation.

    Raises:
        ValueError: if one of the prompts is too long; one from the keyboard is skipped with a message.
    """
    from data_pipes.chat.messages import Message

    messages = [Message("system", system)] if system else []
    for text in _user_turns(prompts):
        pieces: list[str] = []

        def show(piece: str, pieces: list[str] = pieces) -> None:
            pieces.append(piece)
            print(piece, end="", flush=True)

        try:
            answer([*messages, Message("user", text)], show)
        except ValueError as error:
            if prompts:
                raise
            _print_note(f"{error}; this turn is skipped")
            continue
        except KeyboardInterrupt:
            _print_note("\nstopped; Ctrl-C again or Ctrl-D ends the session")
            if not "".join(pieces).strip():
                continue
        print("\n", flush=True)
        messages += [Message("user", text), Message("assistant", "".join(pieces).strip())]
    return messages


def answer_fn(
    base: Pretrained,
    template: ChatTemplate,
    sampling: Sampling,
    *,
    key: Tensor,
    say: Callable[[str], object] = lambda line: None,
) -> Answer:
    """Returns the function that answers a conversation.

    Args:
        base: model, params and tokenizer.
        template: the chat template.
        sampling: settings of the sampling; its vocabulary and stop tokens are taken from the model.
        key: [2] uint32; each answer folds in the number of messages before it.
        say: is called with a line if messages no longer fit into the context.

    Returns:
        (messages, show) -> the assistant's next turn, without surrounding white space; `show` gets each piece
        as soon as no later token can change it.

    Raises:
        ValueError: if --max_new_tokens leaves no room for a question (at once), or the system message and the
            last turn alone are too long (on the call).
    """
    import torch

    from data_pipes.chat.chat import encode_chat
    from data_pipes.tokenizer import stream, vocabulary_size
    from pure import random
    from pure.generation.generate import generate
    from stages.models.chat_template import stop_ids

    stops = stop_ids(base, template)
    sampling = sampling._replace(vocabulary=vocabulary_size(base.tokenizer), stop_tokens=stops)
    context = base.model.config.max_position_embeddings
    room = context - sampling.max_new_tokens
    if room < 1:
        raise ValueError(
            f"--max_new_tokens {sampling.max_new_tokens} leaves no room for a question in the model's "
            f"context of {context} tokens; use a smaller one"
        )

    def encode(messages: Sequence[Message]) -> list[int]:
        return encode_chat(template, base.tokenizer, messages, add_generation_prompt=True).tokens.tolist()

    def answer(messages: Sequence[Message], show: Show = lambda piece: None) -> str:
        ids, dropped = fit_to_context(messages, encode, room)
        if dropped:
            say(
                f"{count_noun(dropped, 'message')} dropped, the oldest: of the context's {context} tokens "
                f"{sampling.max_new_tokens} are kept for the answer; a smaller --max_new_tokens leaves more "
                "for the conversation"
            )
        state, step, finish = stream(base.tokenizer, skip_special=True)
        pieces: list[str] = []

        def add(piece: str) -> None:
            piece = piece if pieces else piece.lstrip()
            if piece:
                pieces.append(piece)
                show(piece)

        def add_last_token(tokens: Tensor, lengths: Tensor) -> Tensor:  # called after each token; never stops
            nonlocal state
            last = int(tokens[0, int(lengths[0]) - 1])
            if last not in stops:
                state, piece = step(state, last)
                add(piece)
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

        generate(
            base.model,
            base.params,
            [ids],
            sampling,
            key=random.fold_in(key, len(messages)),
            stop=add_last_token,
        )
        add(finish(state))
        return "".join(pieces).strip()

    return answer


def fit_to_context(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], room: int
) -> tuple[list[int], int]:
    """Encodes a conversation, and drops its oldest exchanges while it is too long.

    An exchange is a turn of the user and all that follows it up to the next one. The system message stays.

    Args:
        messages: the last is the user's.
        encode: messages -> ids.
        room: maximum number of tokens.

    Returns:
        (ids, number of dropped messages).

    Raises:
        ValueError: if the system message and the last exchange alone are too long.
    """
    starts = [i for i, message in enumerate(messages) if message.role == "user"]
    first, *later = starts or [len(messages)]
    head, rest = messages[:first], messages[first:]
    while len(ids := encode([*head, *rest])) > room:
        if not later:
            parts = "the system's message and the last turn have" if head else "the last turn has"
            raise ValueError(
                f"{parts} {len(ids)} tokens, and the model has room for {room} besides --max_new_tokens; "
                "shorten it"
            )
        rest = messages[later.pop(0) :]
    return ids, len(messages) - len(head) - len(rest)


def _user_turns(prompts: Sequence[str]) -> Iterator[str]:
    """Yields the user's turns: the prompts, or from the keyboard, with a line editor and a history."""
    if prompts:
        for text in prompts:
            print(f"> {text}")
            yield text
        return
    path = _load_history() if sys.stdin.isatty() else None
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line.strip():
            path = path and _keep_line(path, line)
            yield line


def _load_history() -> Path | None:
    """Gives input() line editing and the lines of earlier sessions; None if there can be no history."""
    import readline

    path = history.history_path(os.environ)
    try:
        for line in history.read_history(path):
            readline.add_history(line)
    except OSError as error:
        _print_note(f"without the history of earlier sessions: {path}: {error.strerror}")
        return None
    return path


def _keep_line(path: Path, line: str) -> Path | None:
    """Adds a line to the history, and returns its path; None if that fails, so that it is said once."""
    try:
        history.append_line(path, line)
    except OSError as error:
        _print_note(f"the history is not kept: {path}: {error.strerror}")
        return None
    return path


def _print_note(line: str) -> None:
    """Prints a line that is not part of the conversation to stderr."""
    print(line, file=sys.stderr, flush=True)
