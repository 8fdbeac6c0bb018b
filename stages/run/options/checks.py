"""Check all flags of a run after pretraining before any work: numbers, names, files and the model's
context."""

from __future__ import annotations

from stages.models import chat_template, hardware, language_model, new_tokens
from stages.models.template_kwargs import template_variables
from stages.run import adapter_flags
from stages.run.options.tuning import OnlineOptions, TuningOptions, check_tuning_flags
from stages.run.rewards import functions


def check(options: TuningOptions) -> None:
    """Checks the flags, before the model is loaded.

    Args:
        options: the flags.

    Raises:
        ValueError: naming the flag, its value and what to type instead.
        FileNotFoundError: for a file that a flag names and that is not there.
    """
    check_tuning_flags(options)
    adapter_flags.check_dropout(options)
    new_tokens.check_flags(
        options.add_tokens, options.vocabulary_multiple, adapters=options.qlora or options.lora is not None
    )
    adapter_flags.lora_config_of(options)
    hardware.pick_device(options.device)
    if options.chat_template:
        chat_template.source_of(options.chat_template)
    template_variables(options.template_kwargs)
    tokens, flags = options.max_length, f"--max_length {options.max_length}"
    if isinstance(options, OnlineOptions):
        functions.refuse_unknown(options.reward)
        tokens += options.max_new_tokens
        flags += f" and --max_new_tokens {options.max_new_tokens}"
    context = language_model.read_config(options.model_path).max_position_embeddings
    if tokens > context:
        raise ValueError(
            f"{flags}: {tokens} tokens exceed the model's max_position_embeddings {context}; take fewer"
        )
