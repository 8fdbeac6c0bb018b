"""lm-evaluation-harness as a client: its hundreds of tasks, driven on our models.

    python -m stages.evaluate.harness --model intro2llm --model_args path=runs/sft --tasks hellaswag --limit
    100

is `lm_eval` with one model more; everything else is its own. In Python,
`lm_eval.simple_evaluate(model=harness(...))`. Needs `pip install lm-eval`.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from data_pipes.chat.chat import ChatTemplate, render
from data_pipes.chat.messages import Message
from data_pipes.chat.rendering import render_continuation
from pure.generation.sampling import Sampling
from stages.evaluate.completion import Decoding, complete
from stages.evaluate.likelihood import TOKENS, log_likelihoods, log_probabilities_of
from stages.evaluate.perplexity import windows
from stages.evaluate.request import encode_pairs, encode_text
from stages.models.chat_template import stop_ids, template_of
from stages.models.language_model import Pretrained
from stages.models.text_prompt import prefix_token

NEW_TOKENS = 256
"""Tokens of a completion where a task does not say."""

KNOWN = frozenset(("until", "do_sample", "temperature", "top_k", "top_p", "max_gen_toks"))
"""Options of a completion that are understood; another one is refused, not ignored."""

PASSED = frozenset(("batch_size", "max_batch_size", "trust_remote_code"))
"""Arguments that lm-eval adds by itself and that decide no number here."""

ROWS = 16
"""Prompts that are completed side by side."""


def harness(
    loaded: Pretrained,
    *,
    max_length: int | None = None,
    tokens: int = TOKENS,
    seed: int = 0,
    chat_template: str | None = None,
    template_kwargs: str | None = None,
) -> Any:
    """Makes a model of lm-evaluation-harness from one of ours.

    Args:
        loaded: model, params, tokenizer, chat template.
        max_length: tokens that the model sees at once; None takes max_position_embeddings.
        tokens: to read at a time, about.
        seed: of completions that are drawn.
        chat_template: file of a jinja2 chat template, or a name of `data_pipes.chat.presets.NAMED`; its turn
            end ends completions too. None takes the model's own, or ChatML.
        template_kwargs: variables of the chat template, a JSON object.

    Returns:
        An `lm_eval.api.model.LM`, with its log-likelihoods, rolling log-likelihoods, completions and chat
        template.

    Raises:
        ImportError: if lm-eval is not installed.
        ValueError: if the model has no token that documents begin with, or `chat_template` does not fit it.
        FileNotFoundError: if there is no such chat template.

    Source: lm_eval/api/model.py, lm-evaluation-harness 0.4.13.
    """
    from lm_eval.api.model import LM

    model, params, tokenizer = loaded[:3]
    most = max_length or model.config.max_position_embeddings
    found = prefix_token(loaded)
    if found is None:
        raise ValueError(
            "harness: the model has neither a bos nor an eos token, which lm-eval begins documents with"
        )
    prefix: int = found
    written = functools.cache(partial(template_of, chat_template, loaded, template_kwargs))
    stops = stop_ids(loaded, written() if chat_template else None)
    encode = partial(encode_text, tokenizer, prefix=prefix, special="all")

    class Ours(LM):
        """The protocol that lm-eval wants."""

        tokenizer_name = "intro2llm"

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """One (nats, greedy) for each (context, continuation)."""
            pairs = [
                encode_pairs(tokenizer, r.args[0], [r.args[1]], prefix=prefix, special="all")[0]
                for r in requests
            ]
            found = log_likelihoods(model, params, pairs, max_length=most, tokens=tokens)
            return [(x.logp, x.greedy) for x in found]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Nats of each text, in windows that do not overlap, as lm-eval cuts them."""
            cut = [windows(encode(r.args[0]), length=most, stride=most, prefix=prefix) for r in requests]
            found = iter(
                log_probabilities_of(model, params, [w for part in cut for w in part], tokens=tokens)
            )
            return [sum(next(found).logp for _ in part) for part in cut]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """A text for each (context, options)."""
            found: list[str] = []
            while len(found) < len(requests):
                options = requests[len(found)].args[1]
                part = [r for r in requests[len(found) : len(found) + ROWS] if r.args[1] == options]
                numbers = [(len(found) + i, 0) for i in range(len(part))]
                prompts = [encode(r.args[0]) for r in part]
                decoding = _decoding(options, seed, stops)
                texts = complete(model, params, tokenizer, prompts, numbers, decoding, max_length=most)
                found += [written.text for written in texts]
            return found

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            """Messages as one text, by the model's own template or ChatML. Without a generation prompt the
            last one is left open, to be continued."""
            said = [Message(turn["role"], turn["content"]) for turn in chat_history]
            return _chat_text(written(), said, add_generation_prompt)

    return Ours()


def register() -> None:
    """Gives lm-eval's command line the model "intro2llm".

    Its arguments: path, dtype, device, max_length, seed, chat_template (a file, or a name) and
    enable_thinking (a variable of the template, as lm-eval's own models have it).
    """
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    class Loaded(LM):
        """What the command line makes: it loads, and gives the model of `harness`."""

        loglikelihood = loglikelihood_rolling = generate_until = None  # type: ignore[assignment]

        def __new__(cls, path: str, **arguments: Any) -> Any:
            return _loaded(path, **arguments)

    register_model("intro2llm")(Loaded)


def _loaded(
    path: str,
    *,
    dtype: str = "float32",
    device: str | None = None,
    max_length: Any = None,
    seed: Any = 0,
    chat_template: str | None = None,
    enable_thinking: bool | None = None,
    **others: Any,
) -> Any:
    """The model of `harness` from lm-eval's arguments; one that is not understood is refused."""
    from stages.models import hardware, language_model

    if unknown := sorted(others.keys() - PASSED):
        raise ValueError(
            f"--model_args: {', '.join(unknown)} not understood; expected path, dtype, device, max_length, seed, "
            "chat_template, enable_thinking"
        )
    place = hardware.pick_device(device or "auto")
    loaded = language_model.move_to(language_model.load(path, dtype=hardware.pick_dtype(dtype, place)), place)
    variables = None if enable_thinking is None else json.dumps({"enable_thinking": bool(enable_thinking)})
    return harness(
        loaded,
        max_length=int(max_length) if max_length else None,
        seed=int(seed),
        chat_template=chat_template,
        template_kwargs=variables,
    )


def _chat_text(template: ChatTemplate, said: Sequence[Message], add_generation_prompt: bool) -> str:
    """A chat as lm-eval has it: where the template refuses a system's message it is left out, with a
    warning."""
    write = (
        partial(render, template, add_generation_prompt=True)
        if add_generation_prompt
        else partial(render_continuation, template)
    )
    try:
        return write(said)
    except ValueError as error:
        rest = [message for message in said if message.role != "system"]
        if not rest or len(rest) == len(said):
            raise
        warnings.warn(
            f"the chat is written without the system's message, which the template refuses: {error}",
            stacklevel=3,
        )
        return write(rest)


def _decoding(options: dict[str, Any], seed: int, stops: tuple[int, ...] = ()) -> Decoding:
    """lm-eval's options of a completion: greedy if it says so or gives no temperature, as its own models
    are."""
    if unknown := sorted(options.keys() - KNOWN):
        raise ValueError(
            f"generate_until: expected the options {', '.join(sorted(KNOWN))}, got {', '.join(unknown)}"
        )
    until = options.get("until") or []
    warmth = float(options.get("temperature") or 0.0)
    drawn = options.get("do_sample", warmth > 0) and warmth > 0
    sampling = Sampling(
        max_new_tokens=int(options.get("max_gen_toks", NEW_TOKENS)),
        temperature=warmth if drawn else 0.0,
        top_k=options.get("top_k") if drawn else None,
        top_p=options.get("top_p") if drawn else None,
        stop_tokens=stops,
    )
    texts = [until] if isinstance(until, str) else until
    return Decoding(sampling, stop=tuple(text for text in texts if text), seed=seed)


def main() -> None:
    """lm-eval's own command line, with our model in it."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
