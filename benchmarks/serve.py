"""The server: tokens per second beside the library's own call, the law of seeds under load, and memory.

Model: 5.8M parameters (`benchmarks/_model.py`), float32 or bfloat16. Each client sends one streamed request
after the other: 16 prompt tokens, 64 new ones, temperature 1. The peer is `pure.generation.generate` on as many
such prompts as there are clients, in this process, in turn with them. The law: the answers to 64 requests with
seeds, one at a time, and again among 32 clients with others that come and go. Memory: a small model's server
after 1,000 and 10,000 requests. The server is `intro2llm serve` at 127.0.0.1; the clients are in this process.

    python benchmarks/serve.py [--pairs N] [--dtype bfloat16] [--compile] [--requests N]
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import _timing
import torch
from _model import describe_setup, small_config

from data_pipes import tokenizer as tokenizers
from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.nn.transformer import transformer
from pure.plural import count_noun
from stages.models import language_model

PROMPT, NEW, CLIENTS = 16, 64, 32
PROMPTS = random.randint(random.key(1), (CLIENTS, PROMPT), 0, 256).tolist()
TEXT = ["def add(left, right): return left + right"] * 3


class Server(NamedTuple):
    """A running server: its port and its process."""

    port: int
    process: subprocess.Popen[str]


def write_model(folder: Path, **changes: Any) -> Path:
    """Write a freshly initialised model without a stop token."""
    model = transformer(small_config(**changes))
    tokenizer = tokenizers.train(TEXT, 290)
    return language_model.save(folder, language_model.Pretrained(model, model.init(random.key(0)), tokenizer))


@contextmanager
def running_server(model: Path, *flags: str) -> Iterator[Server]:
    """Start `intro2llm serve`, and end it."""
    command = [sys.executable, "-m", "stages.cli.main", "serve", "--model_path", str(model), "--port", "0"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if line.startswith("serving"))
        yield Server(int(line.split("127.0.0.1:")[1].split()[0]), process)
    finally:
        process.terminate()
        process.wait()


async def ask(port: int, body: dict[str, Any]) -> str:
    """Send a request for a completion on a connection of its own, and return the answer's text."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    text = []
    async for line in reader:
        if line.startswith(b'data: {"'):
            event = json.loads(line[6:])
            text.append(event["choices"][0]["text"])
        elif line.startswith((b'{"id"', b'{"error"')):
            text.append(json.loads(line)["choices"][0]["text"])
    writer.close()
    return "".join(text)


async def run_clients(port: int, bodies: Sequence[dict[str, Any]], clients: int) -> list[str]:
    """Send all requests, `clients` at a time, and return the texts in order."""
    left = iter(enumerate(bodies))
    texts = [""] * len(bodies)

    async def run_client() -> None:
        for index, body in left:
            texts[index] = await ask(port, body)

    await asyncio.gather(*[run_client() for _ in range(clients)])
    return texts


def make_body(seed: int, **changes: Any) -> dict[str, Any]:
    """Make a streamed request."""
    prompt = PROMPTS[seed % CLIENTS]
    return {"prompt": prompt, "max_tokens": NEW, "seed": seed, "stream": True, **changes}


def tokens_per_second(port: int, clients: int, count: int, **changes: Any) -> float:
    """Measure the rate of `count` requests of some clients."""
    bodies = [make_body(seed, **changes) for seed in range(count)]
    start = time.perf_counter()
    asyncio.run(run_clients(port, bodies, clients))
    return count * NEW / (time.perf_counter() - start)


def library_side(dtype: str, compiled: bool, count: int) -> Callable[[], Any]:
    """Return a function that generates for the first prompts by one call of the library."""
    model, key = transformer(small_config()), random.key(2)
    params = tree.cast(model.init(random.key(0)), getattr(torch, dtype))
    steps, sampling = stepper(model, compile=compiled), Sampling(max_new_tokens=NEW, vocabulary=290)
    return lambda: generate(model, params, PROMPTS[:count], sampling, key=key, compile=steps)


def compare_rates(server: Server, arguments: Any) -> None:
    """Print the rates of 1, 8 and 32 clients beside the library's with as many prompts."""
    asyncio.run(run_clients(server.port, [make_body(i) for i in range(CLIENTS)], CLIENTS))
    for clients in (1, 8, CLIENTS):
        library = library_side(arguments.dtype, arguments.compile, clients)
        library()
        print_rates(server, library, clients, "streamed", arguments.pairs)
    print_rates(server, library, CLIENTS, "not streamed", arguments.pairs, stream=False)


def print_rates(
    server: Server, library: Callable[[], Any], clients: int, name: str, count: int, **changes: Any
) -> None:
    """Print the medians of some pairs."""
    pairs = [compare_once(server, library, clients, **changes) for _ in range(count)]
    rate, peer, ratio, cpu = (statistics.median(values) for values in zip(*pairs, strict=True))
    aim = f"aim 0.80, {'reached' if ratio >= 0.8 else 'MISSED'}; " if clients == CLIENTS else ""
    print(
        f"{count_noun(clients, 'client')}, {name}: {rate:,.0f} tok/s; generate, {count_noun(clients, 'prompt')}: "
        f"{peer:,.0f} tok/s; ratio {ratio:.2f} ({aim}{count_noun(count, 'pair')}); CPU seconds a token {cpu:.2f} "
        "times its",
        flush=True,
    )


def compare_once(
    server: Server, library: Callable[[], Any], clients: int, **changes: Any
) -> tuple[float, ...]:
    """Return the server's rate, the library's, their ratio, and that of CPU seconds a token, ours over its."""
    count, begun = 3 * clients, cpu_seconds(server.process.pid)
    rate = tokens_per_second(server.port, clients, count, **changes)
    ours = (cpu_seconds(server.process.pid) - begun) / (count * NEW)
    begun = time.process_time()
    peer = clients * NEW / _timing.time_call(library)
    theirs = (time.process_time() - begun) / (clients * NEW)
    return rate, peer, rate / peer, ours / theirs


def cpu_seconds(process: int) -> float:
    """Read the CPU seconds of a process, of all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_law(server: Server) -> None:
    """Print how many of 64 answers with seeds are the same alone and under load."""
    asked = [
        make_body(
            seed, max_tokens=20 + seed, temperature=0.5 + seed % 3 / 2, prompt=PROMPTS[0] * (1 + seed % 9)
        )
        for seed in range(64)
    ]
    alone = asyncio.run(run_clients(server.port, asked, 1))
    others = [
        make_body(1000 + i, max_tokens=1 + i % 90, prompt=PROMPTS[0] * (1 + i % 20)) for i in range(192)
    ]
    mixed = [body for i, body in enumerate(asked) for body in (*others[3 * i : 3 * i + 3], body)]
    together = asyncio.run(run_clients(server.port, mixed, CLIENTS))[3::4]
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    print(f"seeds: {same} of {len(asked)} answers are the same alone and among {CLIENTS} clients", flush=True)


def measure_memory(model: Path, count: int) -> None:
    """Print the memory of a small model's server after a tenth of the requests, and after all."""
    with running_server(model, "--max_length", "128") as server:
        for begin, end in ((0, count // 10), (count // 10, count)):
            bodies = [make_body(i, max_tokens=1 + i % 8, stream=bool(i % 2)) for i in range(begin, end)]
            start = time.perf_counter()
            asyncio.run(run_clients(server.port, bodies, CLIENTS))
            seconds = time.perf_counter() - start
            rest = resident_mebibytes(server.process.pid)
            speed = (end - begin) / seconds
            print(
                f"memory after {end:,} requests: {rest:.0f} MiB ({speed:,.0f} requests a second)", flush=True
            )


def resident_mebibytes(process: int) -> float:
    """Read a process's resident memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def main() -> None:
    """Print all figures."""
    parser = _timing.make_parser(__doc__, pairs=5)
    parser.add_argument("--dtype", default="float32", help="precision of the weights (default float32)")
    parser.add_argument("--compile", action="store_true", help="compile both sides")
    parser.add_argument(
        "--requests", type=int, default=10_000, help="requests for the memory (default 10,000)"
    )
    arguments = parser.parse_args()
    print(describe_setup(), arguments.dtype)
    flags = ["--dtype", arguments.dtype, "--max_length", "512", *(["--compile"] if arguments.compile else [])]
    with tempfile.TemporaryDirectory() as folder:
        with running_server(write_model(Path(folder, "model")), *flags) as server:
            compare_rates(server, arguments)
            check_law(server)
        if arguments.requests:
            tiny = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 290}
            measure_memory(
                write_model(Path(folder, "tiny"), num_attention_heads=4, **tiny), arguments.requests
            )


if __name__ == "__main__":
    main()
