"""Files of a run and of a token store after a crash, an editor or a third party: cut, changed, with a digest
that fits."""

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

WHOLE = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": "nan"}\n'


def _manifest(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Writes a store, and its manifest changed, with the digest of what then stands there."""

    def write(folder: Path) -> None:
        write_store(folder / "s", [[1, 2], [3]], vocab_size=9, tokenizer="abc")
        path = folder / "s" / "manifest.json"
        facts = {name: value for name, value in json.loads(path.read_text()).items() if name != "digest"}
        change(facts)
        path.write_text(json.dumps({**facts, "digest": hash_json(facts)}))

    return write


def _config(change: dict) -> Callable[[Path], None]:
    """Writes a run's config.json with changed flags; ... leaves one out."""

    def write(folder: Path) -> None:
        flags = json.loads(json.dumps(vars(SFTOptions(model_path="m")))) | change
        flags = {name: value for name, value in flags.items() if value is not ...}
        (folder / config_file.NAME).write_text(json.dumps({"stage": "sft", "options": flags}))

    return write


def _log(data: bytes) -> Callable[[Path], list]:
    """Writes metrics.jsonl; the rows that stand whole in it."""

    def write(folder: Path) -> list:
        (folder / "metrics.jsonl").write_bytes(data)
        return [json.loads(line) for line in WHOLE.splitlines()]

    return write


def _opened(folder: Path) -> Any:
    return open_store(folder / "s")


def _resumed(folder: Path) -> Any:
    return vars(config_file.read(folder, SFTOptions))


def _read(folder: Path) -> Any:
    log.json_lines(folder / "metrics.jsonl", 9, lambda text: None).close()
    return list(log.read_lines(folder / "metrics.jsonl"))


FORMS = (
    Form("store", "no tokenizer", "changed", _manifest(lambda f: f.pop("tokenizer")), _opened, "tokenizer is null"),
    Form("store", "one digest of two", "changed", _manifest(lambda f: f["sha256"].pop("tokens.bin")), _opened,
         "sha256 is"),
    Form("store", "a digest that is a number", "changed", _manifest(lambda f: f["sha256"].update({"tokens.bin": -0.0})),
         _opened, "expected a digest for each"),
    Form("store", "digests in a list", "changed", _manifest(lambda f: f.update(sha256=[[f["sha256"]]])), _opened,
         "sha256 is"),
    Form("store", "documents that are no number", "changed", _manifest(lambda f: f.update(documents="2")), _opened,
         'documents is "2"'),
    Form("run", "no model_path", "changed", _config({"model_path": ...}), _resumed, "flags model_path are missing"),
    Form("run", "a batch that is text", "changed", _config({"batch_size": "4"}), _resumed,
         "batch_size is .4.*whole number"),
    Form("run", "a flag of a later version", "changed", _config({"later": 1}), _resumed, "unknown flags later"),
    Form("run", "a log with a torn last line", "a crash", _log(WHOLE + b'{"step": 3, "lo'), _read),
    Form("run", "a log with bytes at its end", "a crash", _log(WHOLE + b"\xff\xfe\x00"), _read),
    Form("run", "a log with a damaged middle", "a crash", _log(b"\xff\n" + WHOLE), _read, "metrics.jsonl:1: expected"),
)  # fmt: skip
