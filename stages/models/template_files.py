"""Read and write the files of chat templates: the default one, and named ones such as "tool_use".

A folder has them in chat_template.jinja and additional_chat_templates/NAME.jinja. In older folders
tokenizer_config.json has one, or a list of named ones; processors wrote chat_template.json.

Source: transformers 5.23, `PreTrainedTokenizerBase._from_pretrained` and `save_chat_templates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files

JINJA, OTHERS, PROCESSOR = "chat_template.jinja", "additional_chat_templates", "chat_template.json"
CONFIG = "tokenizer_config.json"
DEFAULT = "default"


class Templates(NamedTuple):
    """Templates of a model, jinja2.

    Fields:
        default: source of the default template, or None.
        others: (name, source) pairs, by name.
    """

    default: str | None = None
    others: tuple[tuple[str, str], ...] = ()


NONE = Templates()


def read(folder: Path) -> Templates:
    """Reads all templates of a folder.

    Args:
        folder: folder of a model, or of adapters.

    Returns:
        Templates; if there are .jinja files, those of tokenizer_config.json are ignored, as in transformers.

    Raises:
        ValueError: if a field is neither a text nor a list of named texts, or chat_template.json has another
            template than the tokenizer; it names the file.
    """
    paths = {path.stem: path for path in sorted((folder / OTHERS).glob("*.jinja"))}
    if (folder / JINJA).is_file():
        paths = {DEFAULT: folder / JINJA, **paths}
    if paths:
        sources = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    else:
        sources = _read_field(folder / CONFIG)
    older = _read_field(folder / PROCESSOR)
    if sources and older and sources.get(DEFAULT) != older.get(DEFAULT):
        raise ValueError(
            f"{folder / PROCESSOR}: its template is not the tokenizer's; remove the one with which the model "
            "was not trained"
        )
    return from_named(sources or older)


def from_named(sources: Mapping[str, str]) -> Templates:
    """Makes Templates of {name: source}."""
    others = tuple((name, source) for name, source in sorted(sources.items()) if name != DEFAULT)
    return Templates(sources.get(DEFAULT), others)


def from_gguf(fields: Mapping[str, Any]) -> Templates:
    """Reads the templates of a GGUF file: tokenizer.chat_template, and tokenizer.chat_template.NAME."""
    field = "tokenizer.chat_template"
    sources = {DEFAULT: fields[field]} if field in fields else {}
    for name, value in fields.items():
        if name.startswith(f"{field}."):
            sources[name.removeprefix(f"{field}.")] = value
    return from_named(sources)


def render(templates: Templates) -> tuple[dict[str, str], dict[str, Any]]:
    """Renders the files of templates.

    Args:
        templates: a model's templates.

    Returns:
        ({file: text}, {field of tokenizer_config.json: value}): one template is a file; several are the
        field, which every version of transformers reads.
    """
    if not templates.others:
        return ({JINJA: templates.default} if templates.default else {}), {}
    named = ([(DEFAULT, templates.default)] if templates.default else []) + list(templates.others)
    return {}, {"chat_template": [{"name": name, "template": source} for name, source in named]}


def _read_field(path: Path) -> dict[str, str]:
    """{name: source} of a file's field `chat_template`."""
    value = original = files.read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(value, list) and all(
        isinstance(x, Mapping) and {"name", "template"} <= x.keys() for x in value
    ):
        value = {x["name"]: x["template"] for x in value}
    elif value is not None and not isinstance(value, Mapping):
        value = {DEFAULT: value}
    sources = dict(value or {})
    if not all(isinstance(x, str) for pair in sources.items() for x in pair):
        raise ValueError(
            f"{path}: chat_template must be a text, or a list of objects with a name and a template, got "
            f"{original!r:.100}"
        )
    return sources
