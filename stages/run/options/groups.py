"""Groups of flags that several subcommands share: dataclasses to inherit from, plain values only."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from stages.run.options.ranges import AtLeast, Probability, Seed

Class = TypeVar("Class", bound=type)


def defaults(**values: Any) -> Callable[[Class], Class]:
    """Overrides the defaults of inherited flags; stands directly below `@dataclass`.

    Args:
        values: flag -> its default in this class.

    Returns:
        A class decorator.

    Raises:
        TypeError: raised by the decorator, for a flag that the class does not inherit.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... @defaults(seed=7)
        ... class Flags(DeviceFlags):
        ...     pass
        >>> Flags()
        Flags(device='auto', seed=7)
    """

    def decorate(cls: Class) -> Class:
        hints = get_type_hints(cls, include_extras=True)
        if unknown := sorted(values.keys() - hints.keys()):
            raise TypeError(f"defaults: {cls.__name__} inherits no {', '.join(unknown)}")
        own = inspect.get_annotations(cls)
        cls.__annotations__ = {name: hints[name] for name in values} | own
        for name, value in values.items():
            setattr(cls, name, value)
        return cls

    return decorate


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """A model to load."""

    model_path: str
    """Model to load: a run's folder, its final_model, any folder in Hugging Face's layout, a name at
    huggingface.co, a GGUF file, or params that JAX wrote (an Orbax folder, NAME.msgpack) with config.json and
    tokenizer.json beside them."""


@dataclass(frozen=True, kw_only=True)
class ChatModelFlags(ModelFlags):
    """A model to load, and its chat template."""

    chat_template: str | None = None
    """Chat template: a jinja2 file, or qwen2.5, qwen3, llama3, deepseek-r1 or chatml; None takes the model's
    own, or else ChatML."""
    template_kwargs: str | None = None
    """Variables of the chat template as a JSON object, such as '{"enable_thinking": false}'; strftime_now is
    a date."""


@dataclass(frozen=True, kw_only=True)
class NewTokensFlags:
    """Control tokens to add."""

    add_tokens: tuple[str, ...] = ()
    """Control tokens to add to the tokenizer and the embedding, such as "<|im_start|>" "<|im_end|>" for a
    base model; their rows start at the mean of all others. Not with adapters, which do not train them."""
    vocabulary_multiple: int = 1
    """Pad the embedding to a multiple of this many rows (only with --add_tokens)."""


@dataclass(frozen=True, kw_only=True)
class DatasetFlags:
    """The part of a data set that is read."""

    subset: str | None = None
    """Subset (configuration) of the data set; in a folder, one that its README.md lists, or a subfolder."""
    split: str = "train"
    """Split of the data set; in a folder, files are matched by name as on the hub, such as train.jsonl and
    test.jsonl."""


@dataclass(frozen=True, kw_only=True)
class RowFlags(DatasetFlags):
    """The part of a data set that is read, and the handling of rows that cannot be read."""

    on_bad: Literal["stop", "skip"] = "stop"
    """On a row or file that cannot be read: stop, or skip it and list it in bad_rows.jsonl."""


@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """Text in files and columns."""

    field: str = "text"
    """Column with the text, for data that has rows."""
    encoding: str = "utf-8"
    """Encoding of text files."""


@dataclass(frozen=True, kw_only=True)
class TextSourceFlags(TextFlags, DatasetFlags):
    """Text in files, or in a data set."""


@dataclass(frozen=True, kw_only=True)
class WorkerFlags:
    """Processes that prepare text and rows."""

    workers: Annotated[int | None, AtLeast(1, "leave it out for one a core")] = None
    """Number of processes that tokenize text or rows, and of those that filter text; the result does not
    depend on it. None takes one a core, or one in all for a few megabytes."""


@dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """Device and random seed."""

    device: str = "auto"
    """Device: cpu, cuda, or auto, which takes a GPU if there is one."""
    seed: Seed = 0
    """Random seed; the same seed gives the same numbers."""


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """Sampling of tokens."""

    temperature: Annotated[float, AtLeast(0)] = 1.0
    """Sampling temperature, a factor that divides the logits; 0 decodes greedily."""
    top_p: Probability = None
    """Nucleus sampling: keep the most likely tokens whose probabilities add up to top_p; None keeps all."""
