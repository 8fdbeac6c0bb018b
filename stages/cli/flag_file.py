"""Flags from a file: YAML or JSON, written by hand or by a run (its config.json).

A value is read by the type of its flag, as on the command line: `1e-4` is a number for a learning rate, `no`
is false for a switch and the text "no" for a name. So none of the surprises of YAML 1.1 can happen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from stages.cli.mistakes import suggest_name, types_and_literals
from stages.run.options.ranges import Flags
from stages.run.options.values import describe_type, fits

SUFFIXES = (".json", ".yaml", ".yml")
"""Ends of the names of files with flags."""

SWITCH: Mapping[str, bool] = MappingProxyType(
    {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
)
"""Words for a flag that is on or off."""

TOO_DEEP = "it is nested too deeply; expected flags and their values, such as batch_size: 16"

NULL = ("", "~", "null", "Null", "NULL")
"""YAML's words for no value, when they are not quoted."""


def read_flags(path: str, kind: type[Flags], stage: str) -> dict[str, Any]:
    """Reads the flags of a stage from a file.

    Args:
        path: NAME.yaml, NAME.yml or NAME.json: flags and their values, or the config.json of a run.
        kind: the dataclass of the stage's flags.
        stage: name of the stage.

    Returns:
        {flag: value}, each of its flag's type; ranges are not checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another form, a run of another stage, a flag that is unknown or given twice, or a
            value of another type; it names the file and the flag.
    """
    values = _read_values(Path(path))
    if isinstance(values.get("options"), dict):
        written_by = values.get("stage", "pretrain")
        if written_by != stage:
            raise ValueError(
                f"{path} was written by a run of {written_by}, and this is {stage}; start intro2llm "
                f"{written_by}, or copy the flags that both have into a file of your own"
            )
        values = values["options"]
    hints = get_type_hints(kind)
    flags: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in hints:
            raise ValueError(f"{path}: {key}: unknown flag of {stage}{_suggest(name, hints)}")
        if name in flags:
            raise ValueError(f"{path}: {name} is given twice; keep one of them")
        flags[name] = convert(value, hints[name])
        if not fits(flags[name], hints[name]):
            shown = json.dumps(value, ensure_ascii=False)[:60]
            raise ValueError(f"{path}: {key}: expected {describe_type(hints[name])}, got {shown}")
    return flags


def convert(value: Any, hint: Any) -> Any:
    """Converts a value to the type of its flag, as the command line would; one that has no such form stays.

    Args:
        value: text, a number, true, false, None, or a list of these.
        hint: the flag's type.

    Example:
        >>> convert("1e-4", float), convert("no", bool), convert("no", str), convert("None", int | None)
        (0.0001, False, 'no', None)
        >>> convert(["0.5", 1], tuple[float, ...]), convert("four", int)
        ((0.5, 1.0), 'four')
    """
    if get_origin(hint) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(convert(item, get_args(hint)[0]) for item in items)
    allowed = tuple(types_and_literals(hint))
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed and int not in allowed:
        return float(value)
    if not isinstance(value, str):
        return value
    if type(None) in allowed and value == "None":
        return None
    if str in allowed or value in allowed:
        return value
    if bool in allowed:
        return SWITCH.get(value.lower(), value)
    for number in (each for each in (int, float) if each in allowed):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def _suggest(name: str, known: Iterable[str]) -> str:
    """Suggests the flag with the most similar name, or says where a flag belongs."""
    names = tuple(known)
    if name in ("config_file", "dry_run"):
        return "; it is for the command line only"
    if name.startswith("no_") and name[3:] in names:
        return f"; write {name[3:]}: false"
    return suggest_name(name, names)


def _read_values(path: Path) -> dict[str, Any]:
    """Reads the entries of a file; text, numbers, lists of them, and entries of entries."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--config_file {path}: expected a file named {' or '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got {error.reason} at byte {error.start}") from None
    values = _read_json(path, text) if path.suffix == ".json" else _read_yaml(path, text)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected flags and their values, such as batch_size: 16")
    return values


def _read_json(path: Path, text: str) -> Any:
    """Reads JSON; a key may stand once."""

    def join(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(path, [key for key, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=join)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno} is no JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: {TOO_DEEP}") from None


def _read_yaml(path: Path, text: str) -> Any:
    """Reads YAML without its types: each scalar is text, or None."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "it"
        raise ValueError(f"{path}: {line} is no YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: it is no YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: {TOO_DEEP}") from None
    return {} if node is None else _value_of(path, node, 0)


def _value_of(path: Path, node: Any, depth: int) -> Any:
    """The value of a YAML node; flags are scalars or lists of them, in the file or in its entry "options"."""
    if node.id == "scalar":
        return None if node.style is None and node.value in NULL else node.value
    if depth > 2:
        raise ValueError(f"{path}: line {node.start_mark.line + 1}: expected a value or a list of values")
    if node.id == "sequence":
        return [_value_of(path, item, depth + 1) for item in node.value]
    keys = [key.value if key.id == "scalar" else "" for key, _ in node.value]
    _refuse_twice(path, keys)
    values = (_value_of(path, value, depth + 1) for _, value in node.value)
    return dict(zip(keys, values, strict=True))


def _refuse_twice(path: Path, keys: list[str]) -> None:
    """Raises if a key stands twice, of which a parser would take the last."""
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{path}: {key} is given twice; keep one of them")
