"""Which files of a folder belong to a split: the layouts of the Hugging Face hub.

    README.md with configs            files of each split, by patterns
    data/train-00000-of-00002.parquet, data/test_sft-00000-of-00001.parquet      any name before the number
    train/a.jsonl, my-test/b.jsonl    a word of WORDS in the name of a folder
    train.jsonl, x_valid_2.csv        a word of WORDS in the name of a file
    a.jsonl, b.jsonl                  no splits: one part, read as "train" and as "test"

The first of these that fits any file is taken, as the library `datasets` does. Unlike there, capital letters
do not count, and a file that belongs to two splits, or to none beside files that do, is refused: rows of
another split are never read, and rows of this one never left out, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split -> words in names that stand for it."""

WHOLE = ("train", "test")
"""Names under which a folder without splits is read: what the commands that train and that evaluate ask
for."""

_APART = r"[-._ 0-9]"
_SHARD = re.compile(r"data/(.+)-\d{5}-of-\d{5}[^/]*\.[^/]*")


def of_split(top: Path, found: Sequence[Path], split: str, subset: str | None = None) -> list[Path]:
    """Chooses the files of one split.

    Args:
        top: the folder.
        found: its files of rows.
        split: a name that the layout has; a word of WORDS stands for its split.
        subset: a configuration of README.md, or a folder below `top`.

    Returns:
        The files, in their order.

    Raises:
        ValueError: if there is no such split or subset (with those there are), or a file belongs to two
            splits, or to none.
    """
    splits = _configured(top, found, subset)
    if splits is None and subset is not None:
        found = [file for file in found if file.relative_to(top).parts[0] == subset and file.parent != top]
        top = top / subset
        if not found:
            raise ValueError(
                f"source: {top.parent} has no subset {subset!r}: no such folder or entry of README.md"
            )
    splits = _by_names(top, found) if splits is None else splits
    if not splits:
        if split not in WHOLE:
            raise ValueError(
                f"source: {top} has no split {split!r}, as no name in it says one; leave --split out"
            )
        return list(found)
    return _chosen(top, found, splits, split)


def in_split(top: Path, found: Sequence[Path]) -> bool:
    """Tells whether every file of a folder has the word of a split in its name or its folders' names."""
    paths = [file.relative_to(top).as_posix() for file in found]
    return bool(paths) and all(map(named_splits, paths))


def named_splits(path: str, words: Mapping[str, tuple[str, ...]] = WORDS) -> list[str]:
    """Returns the splits of which a file's name, or that of one of its folders, has a word.

    Args:
        path: below the folder of the data, with "/" between names.
        words: split -> its words.

    Example:
        >>> named_splits("test/anatomy_test.csv"), named_splits("train/test.jsonl"), named_splits("latest.csv")
        (['test'], ['train', 'test'], [])
    """
    return [name for name, some in words.items() if _in_folder(path, some) or _in_name(path, some)]


def _chosen(top: Path, found: Sequence[Path], splits: Mapping[str, list[Path]], split: str) -> list[Path]:
    """The files of one of several splits."""
    names = [name for name in splits if name == split] or [n for n in splits if _plain(n) == _plain(split)]
    if len(names) == 1:
        twice = [file for file in splits[names[0]] if sum(file in files for files in splits.values()) > 1]
        if twice:
            raise ValueError(
                f"source: the name of {twice[0]} has the words of two splits; rename it, or name the file"
            )
        return splits[names[0]]
    exact = [file for file in found if split in (_stem(file), *file.relative_to(top).parts[:-1])]
    if not exact or _plain(split) in WORDS:
        raise ValueError(
            f"source: {top} has no split {split!r}; it has {', '.join(sorted(splits))}; pass --split"
        )
    return exact


def _by_names(top: Path, found: Sequence[Path]) -> dict[str, list[Path]]:
    """Splits by the first layout that fits a file; none of an empty dict."""
    paths = {file: file.relative_to(top).as_posix() for file in found}
    sharded: dict[str, list[Path]] = {}
    for file, path in paths.items():
        if match := _SHARD.fullmatch(path):
            sharded.setdefault(match[1], []).append(file)
    layouts = [sharded]
    for fits in (_in_folder, _in_name):
        by = {
            name: [file for file, path in paths.items() if fits(path, words)] for name, words in WORDS.items()
        }
        layouts.append({name: files for name, files in by.items() if files})
    splits = next((layout for layout in layouts if layout), {})
    named = {file for files in splits.values() for file in files}
    if splits and (stray := [path for file, path in paths.items() if file not in named]):
        count = f" and {len(stray) - 1} others" if len(stray) > 1 else ""
        raise ValueError(
            f"source: {top / stray[0]}{count} belong to none of the splits {', '.join(sorted(splits))}, "
            "which other names in the folder say; move or rename what is of no split, or name one file"
        )
    return splits


def _configured(top: Path, found: Sequence[Path], subset: str | None) -> dict[str, list[Path]] | None:
    """Splits by the configurations that README.md lists, or None if it lists none."""
    configs = [config for config in _configs(top) if config.get("data_files") or config.get("data_dir")]
    if not configs:
        return None
    names = [str(config.get("config_name", "default")) for config in configs]
    wanted = subset or next(
        (n for n, c in zip(names, configs, strict=True) if c.get("default") or n == "default"), ""
    )
    if not wanted and len(configs) == 1:
        wanted = names[0]
    if wanted not in names:
        asked = "several subsets" if subset is None else f"no subset {subset!r}"
        raise ValueError(f"source: {top} has {asked}; README.md lists {', '.join(names)}; pass --subset")
    config = configs[names.index(wanted)]
    base = top / str(config.get("data_dir") or ".")
    if not config.get("data_files"):
        inside = [file for file in found if base.resolve() in file.resolve().parents]
        return _by_names(base, inside) or {"train": inside}
    splits = {
        split: [file for p in patterns for file in _matching(base, p)]
        for split, patterns in _patterns(config["data_files"]).items()
    }
    if empty := [split for split, files in splits.items() if not files]:
        raise ValueError(
            f"source: README.md of {top} names files of the split {empty[0]!r} that are not there"
        )
    return splits


def _configs(top: Path) -> list[dict[str, Any]]:
    """The entry `configs` of the YAML before README.md's text."""
    import yaml

    try:
        text = (top / "README.md").read_text(encoding="utf-8-sig")
        match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        head = yaml.safe_load(match[1]) if match else {}
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that nobody can read: names decide
        return []
    configs = head.get("configs") if isinstance(head, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Split -> patterns, of any of the ways to write them."""
    if isinstance(data_files, dict):
        return {str(split): _listed(patterns) for split, patterns in data_files.items()}
    entries = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(entry, dict) and "split" in entry and "path" in entry for entry in entries):
        return {str(entry["split"]): _listed(entry["path"]) for entry in entries}
    return {"train": [str(entry) for entry in entries]}


def _matching(base: Path, pattern: str) -> list[Path]:
    """The files of a pattern, sorted."""
    found = base.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
    return sorted(file for file in found if file.is_file() and not file.name.startswith("."))


def _listed(value: Any) -> list[str]:
    """One text or several."""
    return [str(x) for x in value] if isinstance(value, list) else [str(value)]


def _in_folder(path: str, words: Sequence[str]) -> bool:
    """True if a folder of the path has one of the words."""
    return any(_has(part, words, end=True) for part in path.split("/")[:-1])


def _in_name(path: str, words: Sequence[str]) -> bool:
    """True if the file's name has one of the words."""
    return _has(path.rsplit("/", 1)[-1], words, end=False)


def _has(name: str, words: Sequence[str], *, end: bool) -> bool:
    """True if a word stands apart in a name; at its end only if `end`."""
    after = rf"(?:{_APART}|$)" if end else _APART
    return re.search(rf"(?:^|{_APART})(?:{'|'.join(words)}){after}", name, re.IGNORECASE) is not None


def _plain(split: str) -> str:
    """The split that a word stands for."""
    return next((name for name, words in WORDS.items() if split.lower() in words), split)


def _stem(file: Path) -> str:
    """A file's name without its endings and the number of its shard."""
    return re.sub(r"(-\d{5}-of-\d{5}.*|\..*)$", "", file.name)
