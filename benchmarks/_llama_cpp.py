"""Talk to llama.cpp in a process of its own, in the virtual environment that `benchmarks/llama_cpp.sh` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

WORKER = Path(__file__).with_name("_llama_cpp_worker.py")


class LlamaCpp(NamedTuple):
    """A process with llama.cpp.

    Fields:
        process: reads requests, writes answers.
        version: of llama-cpp-python.
    """

    process: subprocess.Popen
    version: str


def default_folder() -> Path:
    """Return the folder of the virtual environment: $LLAMA_CPP, or one in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LLAMA_CPP") or cache / "intro2llm" / "llama_cpp")


def start(folder: str | Path) -> LlamaCpp:
    """Start the process.

    Args:
        folder: the virtual environment.

    Raises:
        SystemExit: if it has no llama-cpp-python; the message says how to build it.
    """
    python = Path(folder) / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        version = subprocess.run(
            [python, "-c", "import llama_cpp; print(llama_cpp.__version__)"],
            env=environment, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(
            f"{folder} has no llama-cpp-python; build it with bash benchmarks/llama_cpp.sh {folder}"
        ) from None
    process = subprocess.Popen(
        [python, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    return LlamaCpp(process, version)


def call(llama: LlamaCpp, name: str, **arguments: Any) -> Any:
    """Send one request to the functions of `_llama_cpp_worker.py`, and return the answer.

    Raises:
        RuntimeError: if llama.cpp refused, or its process ended (an assertion of ggml ends it).
    """
    assert llama.process.stdin
    assert llama.process.stdout
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
    try:
        llama.process.stdin.write(json.dumps([name, arguments]) + "\n")
        llama.process.stdin.flush()
        line = llama.process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise RuntimeError(f"llama.cpp: {name}: the process ended with code {llama.process.wait()}")
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(f"llama.cpp: {name}: {answer['error']}")
    return answer["answer"]


def stop(llama: LlamaCpp) -> None:
    """End the process."""
    assert llama.process.stdin
    llama.process.stdin.close()
    llama.process.wait()
