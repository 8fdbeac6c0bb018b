"""Run the server: load the model, listen, and end within a second of Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.types import ASGIApp

from data_pipes.tokenizer import vocabulary_size
from pure.types import Tree
from stages.models.chat_template import stop_ids, template_of
from stages.models.identity import hash_weights
from stages.models.language_model import Pretrained
from stages.serve.address import CONNECTIONS
from stages.serve.app import Service
from stages.serve.engine import Engine, start_engine
from stages.serve.machine import Machine
from stages.serve.request import Served
from stages.serve.token_text import token_bytes


def make_served(
    base: Pretrained,
    machine: Machine,
    *,
    name: str,
    chat_template: str | None = None,
    template_kwargs: str | None = None,
) -> Served:
    """Describe the model for requests; one without a chat template that fits serves plain text only.

    Args:
        base: the model.
        machine: the model as the engine runs it.
        name: its name in the API.
        chat_template: as in `stages.models.chat_template.template_of`; a wrong one is an error.
        template_kwargs: as in `stages.models.chat_template.template_of`.

    Returns:
        Served.

    Raises:
        ValueError: for a template or variables that were given and do not fit.
    """
    template, why = None, ""
    try:
        template = template_of(chat_template, base, template_kwargs)
    except ValueError as error:
        if chat_template or template_kwargs:
            raise
        why = str(error)
    bytes_of = token_bytes(base.tokenizer)
    return Served(
        name=name,
        base=base,
        template=template,
        why=why,
        max_length=machine.lengths[-1],
        longest_token=max(len(bytes_of(id)) for id in range(vocabulary_size(base.tokenizer))),
        most_rows=machine.most_rows,
        text_ends=frozenset(stop_ids(base)),
        chat_ends=frozenset(stop_ids(base, template)) if template else frozenset(),
    )


def start_service(served: Served, machine: Machine, params: Tree, *, most_queued: int) -> Service:
    """Start the engine, and gather what the application needs.

    Args:
        served: from `make_served`.
        machine: the model as the engine runs it.
        params: the model's as they were loaded, for the fingerprint.
        most_queued: rows that may wait for a slot.

    Returns:
        Service.
    """
    return Service(
        served=served,
        engine=start_engine(machine, most_queued=most_queued),
        fingerprint=fingerprint(machine, params),
        bytes_of=token_bytes(served.base.tokenizer),
        created=int(time.time()),
    )


def fingerprint(machine: Machine, params: Tree) -> str:
    """Digest of what decides the tokens of a seed besides the request, for `system_fingerprint`.

    Args:
        machine: its shapes, dtype and device.
        params: the weights.

    Returns:
        "fp_" and 16 hexadecimal digits. Two servers with the same one give the same tokens for a seed.
    """
    parts = (
        hash_weights(params),
        machine.model.config,
        machine.base,
        machine.lengths,
        machine.dtype,
        machine.device.type,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        type(machine.decode[machine.most_rows, machine.lengths[-1]]).__name__,
        torch.__version__,
        version("intro2llm"),
    )
    return "fp_" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def run_server(app: ASGIApp, listening: socket.socket, engine: Engine) -> None:
    """Serve until SIGINT or SIGTERM; running answers then end with an error.

    Args:
        app: the application.
        listening: from `listen`.
        engine: is closed at the end.

    Raises:
        KeyboardInterrupt: after SIGINT.
    """
    server = uvicorn.Server(make_config(app))
    gc.freeze()  # what was loaded stays to the end: it is not searched again
    try:
        _run_until_complete(_serve(server, listening, engine))
    finally:
        engine.close()
        gc.unfreeze()  # else triton 3.9 calls what is not collected at the end a leak, on stderr


def _run_until_complete(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in an event loop: in that of uvloop where it is installed, as it takes less time."""
    try:
        import uvloop
    except ImportError:  # it is not there for Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


def make_config(app: ASGIApp) -> uvicorn.Config:
    """Return the settings of uvicorn."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        http="h11",  # limits a request's headers; httptools, which uvicorn takes if it is there, does not
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )


async def _serve(server: uvicorn.Server, listening: socket.socket, engine: Engine) -> None:
    """Run the server, and close the engine as soon as the server is asked to end."""
    watch = asyncio.ensure_future(_close_at_end(server, engine.close))
    try:
        await server.serve([listening])
    finally:
        watch.cancel()


async def _close_at_end(server: uvicorn.Server, close: Callable[[], None]) -> None:
    """Close the engine once the server is asked to end, so that running answers end."""
    while not server.should_exit:
        await asyncio.sleep(0.05)
    close()


def name_of(model_path: str) -> str:
    """Return a model's name in the API: the last part of its path, or of the run that it belongs to.

    Example:
        >>> name_of("runs/sft/final_model"), name_of("runs/sft/"), name_of("HuggingFaceTB/SmolLM2-135M")
        ('sft', 'sft', 'SmolLM2-135M')
    """
    parts = [part for part in Path(model_path).parts if part not in ("/", ".", "..", "final_model")]
    return parts[-1] if parts else "model"
