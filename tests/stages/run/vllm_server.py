"""A small server that speaks vLLM's protocol (0.32) and samples by our sampler, on the weights that it is sent.

It stands in for a real vLLM in tests. Seeds are the keys of completions, so that it samples the tokens that
`stages.rollout.rollout` samples. Unlike vLLM, its log-probabilities are always those of the whole distribution.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.interop import hf
from pure.types import Model, Tree

Fault = Callable[[Any, str, Any, bytes], bool]
"""A misbehaviour: (handler, path, body, answer) -> True if it has answered, or never will."""


class Running(NamedTuple):
    """A running server.

    Fields:
        address: "http://127.0.0.1:PORT".
        log: (path, body) of every request, in order.
        weights: names of the weights of each update.
        hand_over: takes {name: tensor} as an update, in the place of NCCL.
    """

    address: str
    log: list[tuple[str, Any]]
    weights: list[list[str]]
    hand_over: Callable[[dict[str, Tensor]], None]


@contextmanager
def serve(
    model: Model,
    params: Tree | None = None,
    *,
    fault: Fault | None = None,
    mode: str | None = "processed_logprobs",
    context: int = 32,
    dev_mode: bool = True,
) -> Iterator[Running]:
    """Run a server in a thread.

    Args:
        model: its weights come by an update.
        params: the weights that it starts with; None: it cannot generate before the first update.
        fault: called before each answer.
        mode: the --logprobs-mode that it reports; None reports none.
        context: the max_model_len that it reports.
        dev_mode: serve the paths that need VLLM_SERVER_DEV_MODE=1.
    """
    state: dict[str, Any] = {"params": params, "awake": threading.Event()}
    state["awake"].set()
    log: list[tuple[str, Any]] = []
    weights: list[list[str]] = []

    def hand_over(named: dict[str, Tensor]) -> None:
        weights.append(list(named))
        state["params"] = hf.from_weights(model.spec, {name: x.float() for name, x in named.items()})

    def complete(body: Any) -> Any:
        assert state["awake"].wait(5), "the server was never resumed"
        return sample(model, state["params"], body)

    def call_workers(body: Any) -> Any:
        assert body["method"] == "reload_weights", body
        hand_over(load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors"))
        return {"results": [None]}

    always: dict[str, Callable[[Any], Any]] = {
        "/v1/models": lambda body: {"data": [{"id": "policy", "max_model_len": context}]},
        "/v1/completions": complete,
    }
    in_dev_mode: dict[str, Callable[[Any], Any]] = {
        "/server_info?config_format=json": lambda body: {
            "vllm_config": {"model_config": {} if mode is None else {"logprobs_mode": mode}}
        },
        "/get_world_size": lambda body: {"world_size": 2},
        "/pause?mode=wait": lambda body: state["awake"].clear(),
        "/resume": lambda body: state["awake"].set(),
        "/reset_prefix_cache": lambda body: None,
        "/collective_rpc": call_workers,
        "/init_weight_transfer_engine": lambda body: {"message": "Weight transfer initialized"},
        "/start_weight_update": lambda body: {"message": "Weight update started"},
        "/update_weights": lambda body: {"message": "Weights updated"},
        "/finish_weight_update": lambda body: {"message": "Weight update finished"},
    }
    paths = {**always, **(in_dev_mode if dev_mode else {})}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(json.loads(data) if data else None)

        def reply(self, body: Any) -> None:
            log.append((self.path, body))
            status, answer = 200, b""
            try:
                result = paths[self.path](body) if self.path in paths else KeyError
                if result is KeyError:
                    status, answer = 404, b'{"detail": "Not Found"}'
                elif result is not None:
                    answer = json.dumps(result).encode()
            except ValueError as error:  # as vLLM reports an error of its workers
                status, answer = 500, json.dumps({"error": {"message": str(error)}}).encode()
            if fault is None or not fault(self, self.path, body, answer):
                self.send(answer, status)

        def send(self, answer: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a client that went away
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{server.server_port}", log, weights, hand_over)
    finally:
        server.shutdown()
        server.server_close()


def sample(model: Model, params: Tree, body: Any) -> Any:
    """Answer a request for one completion."""
    biased = [int(i) for i in body.get("logit_bias", {})]
    sampling = Sampling(
        max_new_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_k=body["top_k"] or None,
        top_p=None if body["top_p"] == 1 else body["top_p"],
        min_p=body["min_p"] or None,
        stop_tokens=tuple(body["stop_token_ids"]),
        vocabulary=min(biased) if biased else None,
    )
    bits = body["seed"] % (1 << 64)
    key = torch.tensor([[bits >> 32, bits & 0xFFFFFFFF]], dtype=torch.int64).to(torch.uint32)
    with torch.no_grad():
        found = generate(model, params, [body["prompt"]], sampling, key=key, compact=False)
    length = int(found.lengths[0])
    tokens = found.tokens[0, :length].tolist()
    choice = {
        "index": 0,
        "text": "",
        "token_ids": tokens,
        "prompt_token_ids": body["prompt"],
        "logprobs": {"token_logprobs": found.logprobs[0, :length].tolist()},
        "finish_reason": "stop" if tokens[-1] in sampling.stop_tokens else "length",
    }
    return {"id": "cmpl-0", "object": "text_completion", "model": body["model"], "choices": [choice]}


def hang(handler: Any, path: str, body: Any, answer: bytes) -> bool:
    """Never answer, until the client goes away."""
    handler.rfile.read(1)
    return True


def drip(handler: Any, path: str, body: Any, answer: bytes) -> bool:
    """Send one byte of the answer after the other, so slowly that it never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.02)


def cut(handler: Any, path: str, body: Any, answer: bytes) -> bool:
    """Close the connection in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(answer) + 1))
    handler.end_headers()
    handler.wfile.write(answer[: len(answer) // 2])
    handler.close_connection = True
    return True
