"""Damaged or edited files of a token store and of a run: each is refused, or read up to the damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipes.digest import hash_json
from data_pipes.store import open_store, write_store
from stages.run import config_file, log
from stages.run.options.tuning import SFTOptions
from tests.outside.form import Form

COMPLETE_LOG = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": "nan"}\n'


def _manifest(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Write a store and change its manifest, whose digest is then computed anew."""

    def write(folder: Path) -> None:
        write_store(folder / "s", [[1, 2], [3]], vocab_size=9, tokenizer="abc")
        path = folder / "s" / "manifest.json"
        fields = {name: value for name, value in json.loads(path.read_text()).items() if name != "digest"}
        change(fields)
        path.write_text(json.dumps({**fields, "digest": hash_json(fields)}))

    return write


def _config(change: dict) -> Callable[[Path], None]:
    """Write a run's config.json with changed flags; `...` removes one."""

    def write(folder: Path) -> None:
        flags = json.loads(json.dumps(vars(SFTOptions(model_path="m")))) | change
        flags = {name: value for name, value in flags.items() if value is not ...}
        (folder / config_file.NAME).write_text(json.dumps({"stage": "sft", "options": flags}))

    return write


def _log(data: bytes) -> Callable[[Path], list]:
    """Write metrics.jsonl, and return its complete rows."""

    def write(folder: Path) -> list:
        (folder / "metrics.jsonl").write_bytes(data)
        return [json.loads(line) for line in COMPLETE_LOG.splitlines()]

    return write


def _open_store(folder: Path) -> Any:
    return open_store(folder / "s")


def _read_config(folder: Path) -> Any:
    return vars(config_file.read_options(folder, SFTOptions))


def _read_log(folder: Path) -> Any:
    log.json_lines(folder / "metrics.jsonl", 9, lambda text: None).close()
    return list(log.read_lines(folder / "metrics.jsonl"))


FORMS = (
    Form("store", "no tokenizer", "changed", _manifest(lambda f: f.pop("tokenizer")), _open_store, "tokenizer is null"),
    Form("store", "one digest of two", "changed", _manifest(lambda f: f["sha256"].pop("tokens.bin")), _open_store,
         "sha256 is"),
    Form("store", "a digest that is a number", "changed", _manifest(lambda f: f["sha256"].update({"tokens.bin": -0.0})),
         _open_store, "expected a digest for each"),
    Form("store", "digests in a list", "changed", _manifest(lambda f: f.update(sha256=[[f["sha256"]]])), _open_store,
         "sha256 is"),
    Form("store", "documents that are no number", "changed", _manifest(lambda f: f.update(documents="2")), _open_store,
         'documents is "2"'),
    Form("run", "no model_path", "changed", _config({"model_path": ...}), _read_config, "flags model_path are missing"),
    Form("run", "a batch that is text", "changed", _config({"batch_size": "4"}), _read_config,
         "batch_size is .4.*whole number"),
    Form("run", "a flag of a later version", "changed", _config({"later": 1}), _read_config, "unknown flags later"),
    Form("run", "a log with a torn last line", "a crash", _log(COMPLETE_LOG + b'{"step": 3, "lo'), _read_log),
    Form("run", "a log with bytes at its end", "a crash", _log(COMPLETE_LOG + b"\xff\xfe\x00"), _read_log),
    Form("run", "a log with a damaged middle", "a crash", _log(b"\xff\n" + COMPLETE_LOG), _read_log,
         "metrics.jsonl:1: expected"),
)  # fmt: skip
