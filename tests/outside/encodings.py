"""Rows of JSON lines with a byte-order mark or CR LF."""

from __future__ import annotations

import json
from pathlib import Path

from data_pipes.source.path import rows
from tests.outside.form import Form

ROW = {"question": "1 + 1?", "answer": "2"}


def _write(folder: Path, data: bytes) -> list[dict]:
    (folder / "rows.jsonl").write_bytes(data)
    return [ROW]


def _read(folder: Path) -> list[dict]:
    return [row.values for row in rows(str(folder / "rows.jsonl"))]


FORMS = (
    Form("row", "JSON lines with a byte-order mark", "json",
         lambda folder: _write(folder, b"\xef\xbb\xbf" + json.dumps(ROW).encode()), _read),
    Form("row", "JSON lines that end in CR LF", "json",
         lambda folder: _write(folder, json.dumps(ROW).encode() + b"\r\n"), _read),
)  # fmt: skip
