"""Client of lm-evaluation-harness: its tasks, run on our models.

    python -m stages.evaluate.harness --model intro2llm --model_args path=runs/sft --tasks hellaswag

This is the `lm_eval` command with one more model, "intro2llm". In Python:
`lm_eval.simple_evaluate(model=harness(...))`. Needs `pip install lm-eval`.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from data_pipes.chat.chat import ChatTemplate, render
from data_pipes.chat.messages import Message
from data_pipes.chat.rendering import render_continuation
from pure.generation.sampling import Sampling
from stages.evaluate.completion import Decoding, complete
from stages.evaluate.likelihood import TOKENS, log_likelihoods, window_log_likelihoods
from stages.evaluate.perplexity import cut_windows
from stages.evaluate.request import encode_pairs, encode_text
from stages.models import hardware, language_model
from stages.models.chat_template import stop_ids, template_of
from stages.models.language_model import Pretrained
from stages.models.text_prompt import prefix_token

NEW_TOKENS = 256
"""Tokens of a completion, if a task does not set them."""

COMPLETION_OPTIONS = frozenset(("until", "do_sample", "temperature", "top_k", "top_p", "max_gen_toks"))
"""Supported generation options of a task; any other is refused."""

IGNORED_ARGUMENTS = frozenset(("batch_size", "max_batch_size", "trust_remote_code"))
"""Arguments that lm-eval adds by itself and that change no result here."""

BATCH = 16
"""Largest number of prompts that are completed in one batch."""


class Client(NamedTuple):
    """Everything that the methods of lm-eval's LM need: one of our models, and its settings.

    Fields:
        loaded: model, params, tokenizer, chat template.
        prefix: id that documents begin with.
        max_length: tokens that the model reads at once.
        tokens: number of tokens per forward pass, approximately.
        seed: seed of the sampling.
        stop_tokens: ids that end a completion.
        template: returns the compiled chat template.
        window: tokens that the model reads at once in a text that is scored as a whole.
    """

    loaded: Pretrained
    prefix: int
    max_length: int
    tokens: int
    seed: int
    stop_tokens: tuple[int, ...]
    template: Callable[[], ChatTemplate]
    window: int


def harness(
    loaded: Pretrained,
    *,
    max_length: int | None = None,
    tokens: int = TOKENS,
    seed: int = 0,
    chat_template: str | None = None,
    template_kwargs: str | None = None,
) -> Any:
    """Make a model of lm-evaluation-harness from one of ours.

    Args:
        loaded: model, params, tokenizer, chat template.
        max_length: tokens that the model reads at once; None takes max_position_embeddings,
            and for windows of a text the length of the rows that the model was pretrained on, if it is known.
        tokens: number of tokens per forward pass, approximately.
        seed: seed of the sampling.
        chat_template: file of a jinja2 chat template, or a name of `data_pipes.chat.presets.NAMED`; the
            token that ends its turns ends completions too. None takes the model's own, or ChatML.
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

    prefix = prefix_token(loaded)
    if prefix is None:
        raise ValueError(
            "harness: the model has neither a bos nor an eos token, which lm-eval begins documents with"
        )
    longest = max_length or loaded.model.config.max_position_embeddings
    window = max_length or loaded.trained_length or longest
    template = functools.cache(partial(template_of, chat_template, loaded, template_kwargs))
    stop_tokens = stop_ids(loaded, template() if chat_template else None)
    client = Client(loaded, prefix, longest, tokens, seed, stop_tokens, template, window)

    class HarnessModel(LM):
        """lm-eval's view of the model: the methods that it calls."""

        tokenizer_name = "intro2llm"

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Return one (log-likelihood in nats, is greedy) per (context, continuation)."""
            return _score_pairs(client, [request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Return the log-likelihood of each text, nats."""
            return _score_texts(client, [request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Return one completion per (prompt, options)."""
            return _complete_prompts(client, [request.args for request in requests])

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            """Render messages as one text; without a generation prompt the model continues the last one."""
            messages = [Message(turn["role"], turn["content"]) for turn in chat_history]
            return _render_chat(client.template(), messages, add_generation_prompt)

    return HarnessModel()


def register() -> None:
    """Register the model "intro2llm" for lm-eval's command line.

    Its arguments: path, dtype, device, max_length, seed, chat_template (a file, or a name) and
    enable_thinking (a variable of the template, as lm-eval's own models have it).
    """
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    class Loader(LM):
        """Class that the command line instantiates: loads a model and returns the LM that `harness` makes."""

        # LM's abstract methods, never called: __new__ returns an object of another class.
        loglikelihood = loglikelihood_rolling = generate_until = None  # type: ignore[assignment]

        def __new__(cls, path: str, **arguments: Any) -> Any:
            return _load(path, **arguments)

    register_model("intro2llm")(Loader)


def main() -> None:
    """Run lm-eval's own command line with our model registered."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


def _load(
    path: str,
    *,
    dtype: str = "float32",
    device: str | None = None,
    max_length: int | str | None = None,
    seed: int | str = 0,
    chat_template: str | None = None,
    enable_thinking: bool | None = None,
    **others: Any,
) -> Any:
    """Load a model by the arguments in lm-eval's --model_args; an unknown one is refused."""
    if unknown := sorted(others.keys() - IGNORED_ARGUMENTS):
        raise ValueError(
            f"--model_args: unknown {', '.join(unknown)}; expected path, dtype, device, max_length, "
            f"seed, chat_template, enable_thinking"
        )
    target = hardware.pick_device(device or "auto")
    loaded = language_model.load(path, dtype=hardware.pick_dtype(dtype, target))
    loaded = language_model.move_to(loaded, target)
    variables = None if enable_thinking is None else json.dumps({"enable_thinking": bool(enable_thinking)})
    return harness(
        loaded,
        max_length=int(max_length) if max_length else None,
        seed=int(seed),
        chat_template=chat_template,
        template_kwargs=variables,
    )


def _encode(client: Client, text: str) -> list[int]:
    """Encode a text; the text of a control token, such as <|im_end|>, becomes that token."""
    return encode_text(client.loaded.tokenizer, text, prefix=client.prefix, special="all")


def _score_pairs(client: Client, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Score (context, continuation) pairs: nats, and whether the continuation is the greedy one."""
    model, params, tokenizer = client.loaded[:3]
    requests = []
    for context, continuation in pairs:
        requests += encode_pairs(tokenizer, context, [continuation], prefix=client.prefix, special="all")
    scores = log_likelihoods(model, params, requests, max_length=client.max_length, tokens=client.tokens)
    return [(score.logp, score.greedy) for score in scores]


def _score_texts(client: Client, texts: Sequence[str]) -> list[float]:
    """Score whole texts in windows that do not overlap, as lm-eval cuts them."""
    length = client.window
    windows = [
        cut_windows(_encode(client, text), length=length, stride=length, prefix=client.prefix)
        for text in texts
    ]
    model, params, _ = client.loaded[:3]
    all_windows = [window for part in windows for window in part]
    scores = iter(window_log_likelihoods(model, params, all_windows, tokens=client.tokens))
    return [sum(next(scores).logp for _ in part) for part in windows]


def _complete_prompts(client: Client, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Complete (prompt, options) requests; consecutive ones with equal options share a batch."""
    model, params, tokenizer = client.loaded[:3]
    texts: list[str] = []
    while len(texts) < len(requests):
        start, options = len(texts), requests[len(texts)][1]
        prompts = []
        for prompt, prompt_options in requests[start : start + BATCH]:
            if prompt_options != options:
                break
            prompts.append(prompt)
        completions = complete(
            model,
            params,
            tokenizer,
            [_encode(client, prompt) for prompt in prompts],
            [(start + i, 0) for i in range(len(prompts))],
            _decoding(options, client.seed, client.stop_tokens),
            max_length=client.max_length,
        )
        texts += [completion.text for completion in completions]
    return texts


def _render_chat(template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """Render a chat as lm-eval does: drop a system message that the template refuses, with a warning."""
    render_fn = partial(render_continuation, template)
    if add_generation_prompt:
        render_fn = partial(render, template, add_generation_prompt=True)
    try:
        return render_fn(messages)
    except ValueError as error:
        without_system = [message for message in messages if message.role != "system"]
        if not without_system or len(without_system) == len(messages):
            raise
        warnings.warn(
            f"the chat is rendered without its system message, which the template refuses: {error}",
            stacklevel=3,
        )
        return render_fn(without_system)


def _decoding(options: Mapping[str, Any], seed: int, stop_tokens: tuple[int, ...] = ()) -> Decoding:
    """Convert lm-eval's generation options to Decoding; as in lm-eval, no temperature means greedy."""
    if unknown := sorted(options.keys() - COMPLETION_OPTIONS):
        raise ValueError(
            f"generate_until: expected the options {', '.join(sorted(COMPLETION_OPTIONS))}, got "
            f"{', '.join(unknown)}"
        )
    temperature = float(options.get("temperature") or 0.0)
    sampling = Sampling(
        max_new_tokens=int(options.get("max_gen_toks", NEW_TOKENS)), temperature=0.0, stop_tokens=stop_tokens
    )
    if temperature > 0 and options.get("do_sample", True):
        top_k, top_p = options.get("top_k"), options.get("top_p")
        sampling = sampling._replace(temperature=temperature, top_k=top_k, top_p=top_p)
    until = options.get("until") or []
    texts = [until] if isinstance(until, str) else until
    return Decoding(sampling, stop=tuple(text for text in texts if text), seed=seed)


if __name__ == "__main__":
    main()
