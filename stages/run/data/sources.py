"""Record where the data of a run came from, in RUN/data.json: files, sizes, sha256, number of rows.

Nothing reads it to train: the fingerprint of a checkpoint compares the data itself. The model card tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipes import files
from data_pipes.digest import hash_blocks, hash_bytes
from data_pipes.source.text import files as list_files
from stages.checkpoint import directories

NAME = "data.json"


def record(folder: Path, data_path: str, rows: Mapping[str, int] | None = None) -> None:
    """Writes data.json, unless the run resumes: its data are then those of its first start.

    Args:
        folder: of the run.
        data_path: a file, a folder, a data set's name, or "embedded"; of the last two the name is recorded.
        rows: number of rows of each part; None if rows are not counted.

    Edge cases: a run of an earlier version that resumes gets no data.json, as its data may have changed
    since.

    Raises:
        OSError: if a file cannot be read, or data.json not written.
    """
    if directories.list_complete(folder):
        return
    root = Path(data_path)
    is_local = data_path != "embedded" and root.exists()
    listed = [_describe(root, path) for path in list_files(root)] if is_local else []
    lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in listed)
    fields: dict[str, Any] = {"data_path": data_path}
    if listed:
        fields |= {"files": listed, "sha256": hash_bytes(lines.encode("utf-8", "surrogateescape"))}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / NAME, {**fields, "rows": dict(rows or {})})


def read(folder: Path) -> dict[str, Any]:
    """Reads data.json.

    Args:
        folder: of a run.

    Returns:
        {"data_path", "files": [{"name", "bytes", "sha256"}], "sha256" of the lines "sha256  name", "rows":
        {part: number}}; without files, "files" and "sha256" are missing. {} if the run recorded nothing.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    fields = files.read_json(path)
    listed, rows = fields.get("files", []), fields.get("rows", {})
    is_sound = isinstance(rows, dict) and all(type(count) is int for count in rows.values())
    if not is_sound or not isinstance(listed, list) or not all(map(_is_file, listed)):
        raise ValueError(
            f"{path}: expected the files and rows of a run's data, and a field has another form; delete it"
        )
    return fields


def _describe(root: Path, path: Path) -> dict[str, Any]:
    """Name, size and sha256 of a file; the name is that in its folder."""
    name = path.name if path == root else path.relative_to(root).as_posix()
    return {"name": name, "bytes": path.stat().st_size, "sha256": hash_blocks(files.read_blocks(path))}


def _is_file(value: Any) -> bool:
    """Tests for an entry of "files"."""
    kinds = {"name": str, "bytes": int, "sha256": str}
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in kinds.items())
