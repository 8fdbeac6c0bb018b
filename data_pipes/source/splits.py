"""Select the files of a split in a folder, by the layouts of the Hugging Face hub.

    README.md with configs            patterns of the files of each split
    data/train-00000-of-00002.parquet, data/test_sft-00000-of-00001.parquet   any name before the number
    train/a.jsonl, my-test/b.jsonl    a word of WORDS in the name of a folder
    train.jsonl, x_valid_2.csv        a word of WORDS in the name of a file
    a.jsonl, b.jsonl                  no splits: all files, read as "train" and as "test"

The first layout that matches any file is used, as in the library `datasets`. Unlike there, case is ignored,
and a file that matches two splits, or none although other files match one, is refused, so that rows of
another split are never read, and rows of this one never left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipes.source.text import refuse_broken_links

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split -> words in file names that mean it."""

WHOLE = ("train", "test")
"""Names of splits under which a folder without splits is read: the defaults of training and evaluation."""

_BOUNDARY = r"[-._ 0-9]"
_SHARD = re.compile(r"data/(.+)-\d{5}-of-\d{5}[^/]*\.[^/]*")


def select_split(top: Path, row_files: Sequence[Path], split: str, subset: str | None = None) -> list[Path]:
    """Selects the files of one split.

    Args:
        top: the folder.
        row_files: its files of rows.
        split: name of a split in the layout, or a word of WORDS.
        subset: a configuration in README.md, or a folder below `top`.

    Returns:
        The files, in their order.

    Raises:
        ValueError: if there is no such split or subset, or a file belongs to two splits, or to none.
    """
    splits = _configured_splits(top, row_files, subset)
    if splits is None and subset is not None:
        row_files = [
            file for file in row_files if file.relative_to(top).parts[0] == subset and file.parent != top
        ]
        top = top / subset
        if not row_files:
            raise ValueError(
                f"source: {top.parent} has no subset {subset!r}: no such folder or entry of README.md"
            )
    splits = _splits_by_names(top, row_files) if splits is None else splits
    if not splits:
        if split not in WHOLE:
            raise ValueError(
                f"source: {top} has no split {split!r}, as no file name in it has a split; leave --split out"
            )
        return list(row_files)
    return _split_files(top, row_files, splits, split)


def all_name_splits(top: Path, files: Sequence[Path]) -> bool:
    """Returns True if every file has the word of a split in its name or its folders' names."""
    paths = [file.relative_to(top).as_posix() for file in files]
    return bool(paths) and all(map(find_splits, paths))


def find_splits(path: str, words: Mapping[str, tuple[str, ...]] = WORDS) -> list[str]:
    """Finds the splits that have a word in a file's name or its folders' names.

    Args:
        path: path relative to the data folder, with "/" between names.
        words: split -> words that mean it.

    Returns:
        Names of the splits, in the order of `words`.

    Example:
        >>> find_splits("test/anatomy_test.csv"), find_splits("train/test.jsonl"), find_splits("latest.csv")
        (['test'], ['train', 'test'], [])
    """
    return [name for name, own in words.items() if _in_folder(path, own) or _in_name(path, own)]


def _split_files(
    top: Path, row_files: Sequence[Path], splits: Mapping[str, list[Path]], split: str
) -> list[Path]:
    """Selects the files of one of several splits, by its name, its meaning or the names of files."""
    names = [name for name in splits if name == split]
    names = names or [name for name in splits if _canonical(name) == _canonical(split)]
    if len(names) == 1:
        ambiguous = [file for file in splits[names[0]] if sum(file in files for files in splits.values()) > 1]
        if ambiguous:
            raise ValueError(
                f"source: the name of {ambiguous[0]} has words of two splits; rename it, or pass the file's "
                "path"
            )
        return splits[names[0]]
    exact = [file for file in row_files if split in (_stem(file), *file.relative_to(top).parts[:-1])]
    if not exact or _canonical(split) in WORDS:
        raise ValueError(
            f"source: {top} has no split {split!r}; it has {', '.join(sorted(splits))}; pass --split"
        )
    return exact


def _splits_by_names(top: Path, row_files: Sequence[Path]) -> dict[str, list[Path]]:
    """Split -> files in the first layout that matches a file; empty if none does."""
    paths = {file: file.relative_to(top).as_posix() for file in row_files}
    sharded: dict[str, list[Path]] = {}
    for file, path in paths.items():
        if match := _SHARD.fullmatch(path):
            sharded.setdefault(match[1], []).append(file)
    layouts = [sharded]
    for fits in (_in_folder, _in_name):
        layout = {}
        for name, words in WORDS.items():
            if files := [file for file, path in paths.items() if fits(path, words)]:
                layout[name] = files
        layouts.append(layout)
    splits = next(filter(None, layouts), {})
    in_splits = {file for files in splits.values() for file in files}
    if splits and (stray := [path for file, path in paths.items() if file not in in_splits]):
        count = f" and {len(stray) - 1} others" if len(stray) > 1 else ""
        raise ValueError(
            f"source: {top / stray[0]}{count} belong to none of the splits {', '.join(sorted(splits))}, "
            "to which other files in the folder belong; move or rename them, or pass the path of one file"
        )
    return splits


def _configured_splits(
    top: Path, row_files: Sequence[Path], subset: str | None
) -> dict[str, list[Path]] | None:
    """Split -> files of a configuration in README.md, or None if it lists no configurations."""
    configs = [config for config in _configs(top) if config.get("data_files") or config.get("data_dir")]
    if not configs:
        return None
    names = [str(config.get("config_name", "default")) for config in configs]
    defaults = [n for n, c in zip(names, configs, strict=True) if c.get("default") or n == "default"]
    if not defaults and len(configs) == 1:
        defaults = names
    name = subset or next(iter(defaults), "")
    if name not in names:
        problem = "several subsets" if subset is None else f"no subset {subset!r}"
        raise ValueError(f"source: {top} has {problem}; README.md lists {', '.join(names)}; pass --subset")
    config = configs[names.index(name)]
    base = top / str(config.get("data_dir") or ".")
    if not config.get("data_files"):
        inside = [file for file in row_files if base.resolve() in file.resolve().parents]
        return _splits_by_names(base, inside) or {"train": inside}
    splits = {
        split: [file for p in patterns for file in _glob_files(base, p)]
        for split, patterns in _patterns(config["data_files"]).items()
    }
    if empty := [split for split, files in splits.items() if not files]:
        raise ValueError(
            f"source: README.md of {top} names files of the split {empty[0]!r} that do not exist; download "
            "them, or correct data_files"
        )
    return splits


def _configs(top: Path) -> list[dict[str, Any]]:
    """Configurations in the YAML header of README.md; empty if it cannot be read."""
    import yaml

    try:
        text = (top / "README.md").read_text(encoding="utf-8-sig")
        match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        head = yaml.safe_load(match[1]) if match else {}
    except (OSError, ValueError, yaml.YAMLError):  # without a readable card, file names say the splits
        return []
    configs = head.get("configs") if isinstance(head, dict) else None
    if not isinstance(configs, list):
        return []
    return [config for config in configs if isinstance(config, dict)]


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Split -> patterns of files, from any of the forms of `data_files` in README.md."""
    if isinstance(data_files, dict):
        return {str(split): _as_list(patterns) for split, patterns in data_files.items()}
    entries = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(entry, dict) and "split" in entry and "path" in entry for entry in entries):
        return {str(entry["split"]): _as_list(entry["path"]) for entry in entries}
    return {"train": [str(entry) for entry in entries]}


def _glob_files(base: Path, pattern: str) -> list[Path]:
    """The visible files that match a pattern, sorted."""
    matches = base.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
    visible = [file for file in matches if not file.name.startswith(".")]
    refuse_broken_links(visible)
    return sorted(file for file in visible if file.is_file())


def _as_list(value: Any) -> list[str]:
    """Strings of a list, or of one value."""
    return [str(x) for x in value] if isinstance(value, list) else [str(value)]


def _in_folder(path: str, words: Sequence[str]) -> bool:
    """True if a folder of the path has one of the words."""
    return any(_has_word(part, words, end=True) for part in path.split("/")[:-1])


def _in_name(path: str, words: Sequence[str]) -> bool:
    """True if the file's name has one of the words."""
    return _has_word(path.rsplit("/", 1)[-1], words, end=False)


def _has_word(name: str, words: Sequence[str], *, end: bool) -> bool:
    """True if a name has one of the words between boundaries; `end` allows the end of the name as one."""
    after = rf"(?:{_BOUNDARY}|$)" if end else _BOUNDARY
    return re.search(rf"(?:^|{_BOUNDARY})(?:{'|'.join(words)}){after}", name, re.IGNORECASE) is not None


def _canonical(split: str) -> str:
    """The split that a word of WORDS means; any other word is returned unchanged."""
    return next((name for name, words in WORDS.items() if split.lower() in words), split)


def _stem(file: Path) -> str:
    """A file's name without suffixes and shard number."""
    return re.sub(r"(-\d{5}-of-\d{5}.*|\..*)$", "", file.name)
