"""Shorten flags and paths to what may be published: no secrets, no home folders.

A card is made to be uploaded. A relative path is as the user typed it; of an absolute one, and of one that
leads out of the current folder, the last part is left.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

HIDDEN = "HIDDEN"
"""Stands for what is not published."""

PLACEHOLDERS: Mapping[str, str] = MappingProxyType({"rollout_server": "ADDRESS", "rollout_folder": "FOLDER"})
"""Flags that name a machine of the user -> what stands for their values."""

WITHOUT_EFFECT = ("resume", "workers", "wandb", "tensorboard")
"""Flags that are left out: they change no number, and may name accounts."""

_SECRET_NAME = re.compile(
    r"(api|access|auth|private)[_-]?key|secret|passw|credential|bearer|(^|[_-])token$|authorization",
    re.IGNORECASE,
)
_SECRET_FIELD = re.compile(
    r"""((?:api[_-]?key|access[_-]?key|secret|passw(?:or)?d|token|authorization)["']?\s*[:=]\s*["']?)"""
    r"""([^"',}&]+)""",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"\b(?:hf|gh[pousr]|github_pat|glpat|xox[abprs]|sk|pk|rk)[-_][\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+"
)
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_QUERY = re.compile(r"(\w+://[^\s?#\"']+)[?#][^\s\"']*")
_FILE_HOST = re.compile(r"file://[\w.-]+(?=/)")
_QUOTED = re.compile(r"""(?<=["'])(?:file://)?(?:/[^"'/\s][^"'/\n]*/|[A-Za-z]:[\\/])[^"'\n]*(?=["'])""")
_PART = r"""[^\s"'`<>|:;,(){}\[\]/\\]+"""
_WITHIN = re.compile(
    rf"(?:(?<![\w.~/\\-])|(?<=://))(?:/(?:{_PART}/+)+|[A-Za-z]:[\\/]+(?:{_PART}[\\/]+)+){_PART}[\\/]*"
)
"""Absolute paths within a text: in quotes, with spaces, or of two parts and more without."""
_ABSOLUTE = re.compile(r"[\\/~]|[A-Za-z]:[\\/]")


def publish(name: str, value: Any, home: str = "") -> Any:
    """Return a flag's value as it may be published.

    Args:
        name: of the flag.
        value: JSON: a text, a number, a truth value, null, or a list of these.
        home: the user's home folder; it is replaced by "~" wherever it is in a text.

    Returns:
        The value; of a text without secrets, and with paths as `shorten_path` gives them.

    Example:
        >>> publish("data_path", "/srv/ada/chats.jsonl"), publish("api_key", "abc"), publish("seed", 3)
        ('chats.jsonl', 'HIDDEN', 3)
        >>> publish("template_kwargs", '{"token": "abc", "thinking": false}')
        '{"token": "HIDDEN", "thinking": false}'
        >>> publish("data_path", ["https://ada:pw@host/x.jsonl?sig=1", "hf_abcdefghijklmnopqrst"])
        ['https://host/x.jsonl', 'HIDDEN']
    """
    if isinstance(value, list | tuple):
        return [publish(name, item, home) for item in value]
    if not isinstance(value, str):
        return value
    if name in PLACEHOLDERS or _SECRET_NAME.search(name):
        return PLACEHOLDERS.get(name, HIDDEN)
    if len(home) > 1 and value.rstrip("/") == home:
        return "~"
    text = _hide_secrets(value)
    short = shorten_path(text)
    return clean(short) if short != text else publish_text(text, home)


def publish_text(text: str, home: str = "") -> str:
    """Return a text as it may be published: in one line, without secrets, with short paths.

    Args:
        text: words, with paths among them.
        home: the user's home folder; it is replaced by "~".

    Example:
        >>> publish_text('{"p": "/srv/ada/my x"}, at /srv/ada/y and https://host/a/b')
        '{"p": "my x"}, at y and https://host/a/b'
        >>> publish_text("file:///srv/ada/x, file:///data/eve/x", "/srv/ada")
        'file://~/x, file://x'
    """
    text = _FILE_HOST.sub("file://", _hide_secrets(text))
    if len(home) > 1:
        own = re.escape(home.rstrip("/"))
        text = re.sub(rf"(?:(?<![\w./~-])|(?<=://)){own}(?![\w.-])", "~", text)
    text = _QUOTED.sub(lambda found: shorten_path(found[0].removeprefix("file://")), text)
    return clean(_WITHIN.sub(lambda found: shorten_path(found[0]), text))


def _hide_secrets(text: str) -> str:
    """The text without keys and tokens, and addresses without users and queries."""
    text = _QUERY.sub(r"\1", _USER_IN_URL.sub(r"\1", text))
    return _SECRET_VALUE.sub(HIDDEN, _SECRET_FIELD.sub(rf"\1{HIDDEN}", text))


def shorten_path(path: str) -> str:
    """Return a path without the folders that only the user has.

    Example:
        >>> shorten_path("data/a.jsonl"), shorten_path("/srv/ada/data/a.jsonl"), shorten_path("../../ada/b/")
        ('data/a.jsonl', 'a.jsonl', 'b')
        >>> shorten_path("/srv/ada/my_reward.py:score"), shorten_path(r"C:\\Users\\ada\\x")
        ('my_reward.py:score', 'x')
        >>> shorten_path("/srv/ada/runs/sft/final_model"), shorten_path("/"), shorten_path("ada/model")
        ('sft/final_model', 'HIDDEN', 'ada/model')
    """
    parts = re.split(r"[\\/]", path)
    if "://" in path or not (_ABSOLUTE.match(path) or ".." in parts):
        return path
    named = [part for part in parts if part not in ("", ".", "..")]
    return "/".join(named[-2:] if named[-1:] == ["final_model"] else named[-1:]) or HIDDEN


def clean(text: str) -> str:
    """Return a text in one line: what is not printable, or no Unicode, becomes an escape.

    Example:
        >>> clean("a\\nb\\u2028数据"), clean("\\udcff")
        ('a\\\\nb\\\\u2028数据', '\\\\udcff')
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def render_command(name: str, flags: Mapping[str, Any]) -> str:
    """Render a command line.

    Args:
        name: of the subcommand.
        flags: flag -> value that may be published; lists are several words, null is left out.

    Example:
        >>> render_command("sft", {"data_path": "my chats.jsonl", "compile": False, "reward": ["a", "b"]})
        "intro2llm sft --data_path 'my chats.jsonl' --no_compile --reward a b"
    """
    return shlex.join(["intro2llm", name, *(word for item in flags.items() for word in _split_flag(*item))])


def _split_flag(name: str, value: Any) -> Iterator[str]:
    """The words of a flag."""
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no_{name}"
    elif value is not None and value != []:
        yield f"--{name}"
        yield from map(str, value if isinstance(value, list) else [value])
