"""`intro2llm serve`: its flags, and what it says before it listens."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from stages.cli.main import main
from stages.serve.engine import Engine
from tests.stages.small_stages import write_model


def test_mistakes_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(write_model(tmp_path))
    for flags, message in (
        (["--host", "0.0.0.0"], "can be reached from other machines; add --api_key KEY"),
        (["--api_key", "secret "], "--api_key: expected printable ASCII characters without spaces"),
        (["--api_key", "sécret"], "--api_key: expected printable ASCII characters without spaces"),
        (["--max_length", "129"], "--max_length 129: the model's context has 128 tokens"),
        (["--max_batch", "0"], "--max_batch: expected at least 1, got 0"),
        (["--chat_template", "llama3"], "does not fit the tokenizer"),
    ):
        assert main(["serve", "--model_path", model, "--port", "0", *flags]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("intro2llm serve: ")
        assert message in error
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model_path", model]) == 1
    assert "serve needs pip install 'intro2llm[serve]'" in capsys.readouterr().err


def test_it_says_what_it_does_and_where_it_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"  # elsewhere only the latter is there

    def note_call(app: Any, listening: socket.socket, engine: Engine) -> None:
        calls.append(listening.getsockname()[1])
        with TestClient(app, base_url=f"http://{host}:{calls[0]}") as client:
            assert client.get("/health").status_code == 200
        engine.close()

    monkeypatch.setattr("stages.serve.server.run_server", note_call)
    model = write_model(tmp_path)
    flags = ["--port", "0", "--max_batch", "2", "--model_name", "mine", "--host", host]
    assert main(["serve", "--model_path", str(model), *flags]) == 0
    loading, trying, serving = capsys.readouterr().err.splitlines()
    address = f"http://{host}:{calls[0]}"
    assert loading == f"loading {model}"
    assert trying == "first steps with 128 positions"
    assert serving == f"serving mine at {address} (OpenAI's API: {address}/v1); Ctrl-C ends it"
