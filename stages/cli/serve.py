"""`intro2llm serve`: an HTTP server with OpenAI's API, and a page to chat with the model."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from stages.run.options.groups import ChatModelFlags
from stages.run.options.ranges import AtLeast, Within

DEFAULT_LENGTH = 2048
"""Longest prompt and completion together, unless the model's context is shorter."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ChatModelFlags):
    """Serve a model over HTTP: OpenAI's API at /v1, a page to chat with it at /.

    A request with a seed gets the same tokens whatever else is being served. Ctrl-C ends the server.
    """

    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1 is reached from this machine only; any other needs --api_key."""
    port: Annotated[int, Within("[0, 65535]")] = 8000
    """Number of the port to listen on; 0 takes a free one."""
    api_key: str | None = None
    """Key that clients must send ("Authorization: Bearer KEY")."""
    model_name: str | None = None
    """Name of the model in the API; None takes the name of its folder."""
    max_batch: Annotated[int, AtLeast(1)] = 32
    """Number of completions that are sampled at once; more wait in a queue."""
    max_queue: Annotated[int, AtLeast(0)] = 256
    """Number of completions that may wait; a request beyond it is refused with status 429."""
    max_length: Annotated[int | None, AtLeast(2)] = None
    """Longest prompt and completion together, in tokens; None takes the model's context, at most 2048."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    device: str = "auto"
    """Device: cpu, cuda, or auto, which takes a GPU if there is one."""
    compile: bool = False
    """Compile the steps before the first request: several times faster, after minutes of compiling."""


def run(options: ServeOptions) -> int:
    """Loads the model and serves it until Ctrl-C.

    Returns:
        The exit code.

    Raises:
        ValueError: for another host than this machine without a key, a key that no header can have, an
            address that is in use, or a `max_length` beyond the model's context.
        ImportError: without starlette and uvicorn.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}; serve needs pip install 'intro2llm[serve]'") from None
    from stages.serve.address import is_local, listen
    from stages.serve.guard import check_api_key

    check_api_key(options.api_key)
    if options.api_key is None and not is_local(options.host):
        raise ValueError(
            f"--host {options.host} can be reached from other machines; add --api_key KEY, which clients "
            "must send, or leave --host out"
        )
    with listen(options.host, options.port) as listening:
        _say(f"loading {options.model_path}")
        _load_and_serve(options, listening)
    return 0


def _load_and_serve(options: ServeOptions, listening: socket.socket) -> None:
    """Loads the model and serves it."""
    import torch

    from stages.models import language_model
    from stages.models.hardware import pick_device
    from stages.serve.app import make_app
    from stages.serve.guard import LOCAL_NAMES, guard
    from stages.serve.machine import make_machine
    from stages.serve.server import make_served, name_of, run_server, start_service
    from stages.serve.shapes import try_shapes

    base = language_model.load(options.model_path, dtype=getattr(torch, options.dtype))
    base = language_model.move_to(base, pick_device(options.device))
    length = _choose_length(options.max_length, base.model.config.max_position_embeddings)
    machine = make_machine(base, max_rows=options.max_batch, max_length=length, compile=options.compile)
    served = make_served(
        base,
        machine,
        name=options.model_name or name_of(options.model_path),
        chat_template=options.chat_template,
        template_kwargs=options.template_kwargs,
    )
    if not try_shapes(machine, all_of_them=options.compile, say=_say):
        _say("warning: the slots of a batch round differently here: a seed's tokens may depend on the load")
    if served.template is None:
        _say(f"plain text only, /v1/completions: {served.why}")
    service = start_service(served, machine, base.params, most_queued=options.max_queue)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    _say(f"serving {served.name} at {address} (OpenAI's API: {address}/v1); Ctrl-C ends it")
    app = guard(make_app(service), api_key=options.api_key, names=(*LOCAL_NAMES, options.host.lower(), host))
    run_server(app, listening, service.engine)


def _choose_length(wanted: int | None, context: int) -> int:
    """Return the longest prompt and completion together.

    Raises:
        ValueError: if it is more than the context.
    """
    if wanted is not None and wanted > context:
        raise ValueError(f"--max_length {wanted}: the model's context has {context} tokens; use at most that")
    return wanted or min(context, DEFAULT_LENGTH)


def _say(line: str) -> None:
    """Prints a line to stderr, at once."""
    print(line, file=sys.stderr, flush=True)
