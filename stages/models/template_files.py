"""Chat templates on disk: a model's own, and those that it has for other uses, such as "tool_use".

A folder holds them in chat_template.jinja and additional_chat_templates/NAME.jinja; in older ones
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
        default: the one that is used where none is asked for by name, or None.
        others: (name, source) pairs, by name.
    """

    default: str | None = None
    others: tuple[tuple[str, str], ...] = ()


NONE = Templates()


def read(folder: Path) -> Templates:
    """Reads all templates of a folder.

    Args:
        folder: of a model, or of adapters.

    Returns:
        Templates; where there are files of their own, tokenizer_config.json's are out of use, as in
        transformers.

    Raises:
        ValueError: if a field is neither a text nor a list of named texts, or chat_template.json has another
            template than the tokenizer; it names the file.
    """
    files = {path.stem: path for path in sorted((folder / OTHERS).glob("*.jinja"))}
    if (folder / JINJA).is_file():
        files = {DEFAULT: folder / JINJA, **files}
    if files:
        found = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    else:
        found = _field(folder / CONFIG)
    older = _field(folder / PROCESSOR)
    if found and older and found.get(DEFAULT) != older.get(DEFAULT):
        raise ValueError(
            f"{folder / PROCESSOR}: its template is not the tokenizer's; remove one of them, so that it is clear with "
            "which the model was trained"
        )
    return of(found or older)


def of(found: Mapping[str, str]) -> Templates:
    """{name: source} -> Templates."""
    return Templates(
        found.get(DEFAULT), tuple((name, x) for name, x in sorted(found.items()) if name != DEFAULT)
    )


def from_gguf(fields: Mapping[str, Any]) -> Templates:
    """Reads those of a GGUF file: tokenizer.chat_template, and tokenizer.chat_template.NAME."""
    start = "tokenizer.chat_template"
    named = {
        name.removeprefix(f"{start}."): value
        for name, value in fields.items()
        if name.startswith(f"{start}.")
    }
    return of(({DEFAULT: fields[start]} if start in fields else {}) | named)


def written(templates: Templates) -> tuple[dict[str, str], dict[str, Any]]:
    """Says how templates are written.

    Args:
        templates: of a model.

    Returns:
        ({file: text}, {field of tokenizer_config.json: value}): one template in a file of its own; several in
        the field, which every version of transformers reads.
    """
    if not templates.others:
        return ({JINJA: templates.default} if templates.default else {}), {}
    every = ([(DEFAULT, templates.default)] if templates.default else []) + list(templates.others)
    return {}, {"chat_template": [{"name": name, "template": source} for name, source in every]}


def _field(path: Path) -> dict[str, str]:
    """{name: source} of the field `chat_template`."""
    value = files.read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(value, list) and all(
        isinstance(x, Mapping) and {"name", "template"} <= x.keys() for x in value
    ):
        value = {x["name"]: x["template"] for x in value}
    found = value if isinstance(value, Mapping) else {} if value is None else {DEFAULT: value}
    if not all(isinstance(x, str) for pair in found.items() for x in pair):
        raise ValueError(
            f"{path}: chat_template must be a text, or a list of objects with a name and a template, got {value!r:.100}"
        )
    return dict(found)
