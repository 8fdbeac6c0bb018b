"""The server as a process: it listens before it loads, and ends within a second of Ctrl-C."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from stages.serve.address import listen
from stages.serve.server import fingerprint, name_of
from tests.rules.source import ROOT
from tests.stages.serve.small_engine import make_base, make_small_machine
from tests.stages.small_stages import write_model

PROGRAM = """
import signal, sys
from stages.cli.main import main

if sys.argv.pop(1) == "asyncio":
    sys.modules["uvloop"] = None  # as if it were not installed
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.exit(main(sys.argv[1:]))
"""


def test_a_port_in_use_and_a_strange_address_are_refused_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"127.0.0.1:{port}: .* in use; .* choose another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(ValueError, match="use an address of this machine for --host"):
        listen("192.0.2.1", 0)


def test_the_fingerprint_changes_with_weights_and_shapes() -> None:
    base = make_base()
    machine = make_small_machine(base)
    first = fingerprint(machine, base.params)
    assert first == fingerprint(machine, base.params)
    other = {**base.params, "embedding": base.params["embedding"] + 1}
    assert first != fingerprint(machine, other)
    assert first != fingerprint(make_small_machine(base, max_rows=4), base.params)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_ctrl_c_ends_running_streams_with_an_error_and_the_process_with_130(
    loop: str, tmp_path: Path
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed (README)")
    model = write_model(tmp_path, max_position_embeddings=4096)
    command = [sys.executable, "-c", PROGRAM, loop, "serve", "--model_path", str(model), "--port", "0"]
    with subprocess.Popen(
        [*command, "--max_length", "4096", "--max_batch", "2"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if line.startswith("serving model at http://"))
            address = line.split()[3]
            body = {
                "prompt": "a",
                "max_tokens": 4000,
                "stream": True,
                "temperature": 0,
            }  # it never samples an end
            with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=20) as answer:
                lines = answer.iter_lines()
                next(lines)
                start = time.monotonic()
                process.send_signal(signal.SIGINT)
                last = [line for line in lines if line][-1]
                assert time.monotonic() - start < 1
            assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
            assert process.wait(20) == 130
            assert process.stderr.read().splitlines()[-1] == "intro2llm serve: interrupted"
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        finally:
            process.kill()


def test_a_model_is_named_after_its_folder() -> None:
    names = [name_of(path) for path in ("runs/a/final_model/", "b.gguf", "org/c", ".", "/")]
    assert names == ["a", "b.gguf", "c", "model", "model"]
