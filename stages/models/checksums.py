"""Write the sha256 of every file of a model's folder, and verify them when the model is read.

The file SHA256SUMS has the form of coreutils: `sha256sum -c SHA256SUMS` verifies it too. The model card,
README.md, is not in it: people and the hub's own editor change cards, and a changed card is no damaged model.
A list that somebody else wrote may name the card; it is not compared.

Lists of other models are read too: with `./` before a name, with comments, in the form `SHA256 (name) = ...`.

Source: FIPS 180-4 (SHA-256); GNU coreutils, "cksum output modes" (the form of the lines).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import torch

from data_pipes import files
from data_pipes.digest import hash_blocks
from stages.models import hub

NAME = "SHA256SUMS"
NOT_HASHED = (NAME, hub.CARD)
"""Files of the top folder that are left out: the list itself, and what users edit."""

_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_TAGGED = re.compile(r"SHA256 \((?P<name>.+)\) = (?P<digest>[0-9a-fA-F]{64})")


def write(folder: Path) -> Path:
    """Writes SHA256SUMS, with a line for every file in the folder and its folders, atomically.

    Args:
        folder: of a model, complete.

    Returns:
        The file.

    Raises:
        OSError: if a file cannot be read, or the list not written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{_hash_file(folder / name)}  {name}\n" for name in names if name not in NOT_HASHED]
    with files.writing(folder / NAME):
        files.write_atomically(folder / NAME, "".join(lines).encode())
    return folder / NAME


def verify(folder: Path) -> None:
    """Compares every file that SHA256SUMS lists with its sha256.

    A model whose weights were damaged by a disk or a copy still loads, and answers worse; this refuses it.
    Every byte is read: `python benchmarks/checkpoint_io.py` prints what that costs.

    Args:
        folder: of a model.

    Edge cases: a folder without SHA256SUMS is not verified; files that it does not list may be there. A
    listed file that is missing is refused if models are read from such files (`stages.models.hub.FILES`):
    of a model by name nothing else is downloaded.

    Raises:
        ValueError: if a file differs or is missing, or a line of the list is no checksum; it is named.
    """
    expected = read(folder)
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        found = pool.map(_hash_file, (folder / name for name in expected))
        for (name, digest), actual in zip(expected.items(), found, strict=True):
            if actual != digest and (actual or hub.is_model_file(name)):
                problem = f"its sha256 is {actual[:16]}..." if actual else "it is missing"
                raise ValueError(
                    f"{folder / name}: {problem}, expected sha256 {digest[:16]}... by {NAME}; copy it again "
                    f"from its source, or, if the change is yours, delete {NAME}"
                )


def read(folder: Path) -> Mapping[str, str]:
    """Reads SHA256SUMS.

    Args:
        folder: of a model.

    Returns:
        {name: sha256 in hexadecimal digits}, without the files of NOT_HASHED; {} if there is no list.

    Raises:
        ValueError: if a line is no checksum of a file in the folder; it is named by its number.
    """
    path, sums = folder / NAME, dict[str, str]()
    text = path.read_text("utf-8-sig", "replace") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line) or _TAGGED.fullmatch(line)
        name = PurePosixPath(match["name"]) if match else PurePosixPath("..")
        if match is None or name.is_absolute() or ".." in name.parts:
            raise ValueError(
                f"{path}, line {number}: expected 64 hexadecimal digits, two spaces and the name of a file "
                f"in the folder, got {line[:80]!r}; copy it again from its source, or delete it"
            )
        sums[str(name)] = match["digest"].lower()
    return {name: digest for name, digest in sums.items() if name not in NOT_HASHED}


def _hash_file(path: Path) -> str:
    """sha256 of a file's bytes; "" if there is no such file."""
    return hash_blocks(files.read_blocks(path)) if path.is_file() else ""
