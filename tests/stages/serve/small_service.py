"""A running server of a small model, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import uvicorn

from stages.models.language_model import Pretrained
from stages.serve.address import listen
from stages.serve.app import Service, make_app
from stages.serve.guard import guard
from stages.serve.machine import Machine
from stages.serve.server import make_config, make_served, start_service
from tests.stages.serve.small_engine import make_base, make_small_machine


class Running(NamedTuple):
    """A server: its address, its service, and the machine of its engine."""

    address: str
    service: Service
    machine: Machine


@contextmanager
def running_service(
    base: Pretrained | None = None,
    *,
    api_key: str | None = None,
    most_queued: int = 128,
    machine: Machine | None = None,
    change: Callable[[Service], Service] = lambda service: service,
) -> Iterator[Running]:
    """Serve a small model at a free port of 127.0.0.1; `change` may replace parts of the service."""
    base = base or make_base()
    machine = machine or make_small_machine(base)
    served = make_served(base, machine, name="small")
    service = change(start_service(served, machine, base.params, most_queued=most_queued))
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(make_config(guard(make_app(service), api_key=api_key)))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service, machine)
    finally:
        service.engine.close()
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
        service.engine.thread.join(10)
        assert not service.engine.thread.is_alive()
