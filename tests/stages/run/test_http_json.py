"""Every request to a server ends in time, and says in one line what went wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from stages.run.http_json import Calls, Server, cancel, parse_address, request, wait_until_up
from tests.stages.run.vllm_server import Fault, cut, drip, hang, serve
from tests.stages.test_online import MODEL

QUICK = {"seconds": 0.2, "waits": ()}


def send(fault: Fault | None, path: str = "/v1/models", **options: Any) -> Any:
    with serve(MODEL, fault=fault) as running:
        return request(Server(running.address, **(QUICK | options)), "GET", path)


def free_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def answer(data: bytes, status: int = 200) -> Fault:
    def fault(handler: Any, path: str, body: Any, right: bytes) -> bool:
        handler.send(data, status)
        return True

    return fault


def test_an_answer_is_parsed() -> None:
    assert send(None)["data"][0]["id"] == "policy"
    assert send(answer(b"")) is None
    with serve(MODEL) as running:
        request(Server(running.address), "POST", "/reset_prefix_cache", {"a": [1, 2.5]})
        assert running.log == [("/reset_prefix_cache", {"a": [1, 2.5]})]


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (hang, TimeoutError, "no complete answer within 0.2 s"),
        (drip, TimeoutError, "no complete answer within 0.2 s"),
        (cut, ConnectionError, "the connection broke before the answer was complete .IncompleteRead"),
        (lambda handler, *_: handler.wfile.close() or True, ConnectionError, "the connection broke"),
        (answer(b'{"data": [1, 2'), ValueError, "not valid JSON .*14 bytes, which end in"),
        (answer(b"[" * 100_000), ValueError, "not valid JSON .*100000 bytes"),
        (answer(b"<html>", 502), ValueError, "the server answered 502: <html>"),
        (answer(b'{"error": {"message": "a\\n b"}}', 400), ValueError, "the server answered 400: a b$"),
        (answer(b'{"detail": ["x"]}', 422), ValueError, r'the server answered 422: \["x"\]$'),
        (answer(b"", 500), ValueError, "the server answered 500: without a reason"),
        (answer(b"x" * 9999, 500), ValueError, "500: x{300}$"),
    ],
)
def test_every_failure_ends_in_time_and_is_one_line(
    fault: Fault, kind: type[Exception], message: str
) -> None:
    start = time.monotonic()
    with pytest.raises(kind, match=message) as caught:
        send(fault)
    assert time.monotonic() - start < 2
    assert "\n" not in str(caught.value)
    assert "/v1/models: " in str(caught.value)


def test_nothing_that_listens_is_named_and_waited_for_as_long_as_asked() -> None:
    address, lines = free_address(), []
    with pytest.raises(ConnectionError, match=rf"no server at {address} .Connection refused.$"):
        request(Server(address, waits=()), "GET", "/v1/models")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"no server at {address} .*waited 0.2 s"):
        wait_until_up(Server(address), "/v1/models", 0.2, lines.append)
    assert time.monotonic() - start < 1
    assert lines == [f"waiting up to 0.2 s for the server at {address}"]


def fail_first(count: int, failure: Callable[..., bool]) -> tuple[Fault, list[int]]:
    """A server whose first answers fail, and a list with one number per request."""
    seen: list[int] = []

    def fault(handler: Any, *rest: Any) -> bool:
        seen.append(len(seen))
        return len(seen) <= count and failure(handler, *rest)

    return fault, seen


@pytest.mark.parametrize(
    ("failure", "repeats"), [(cut, True), (answer(b"", 503), True), (answer(b"{}", 500), False)]
)
def test_only_a_request_that_may_be_repeated_is_repeated(failure: Fault, repeats: bool) -> None:
    for repeat, waits in ((True, (0.01, 0.01)), (True, (0.01,)), (False, (0.01, 0.01))):
        fault, seen = fail_first(2, failure)
        with serve(MODEL, fault=fault) as running:
            server = Server(running.address, waits=waits)
            if repeats and repeat and len(waits) == 2:
                assert request(server, "GET", "/v1/models", repeat=True)["data"]
                assert len(seen) == 3
            else:
                with pytest.raises((ConnectionError, ValueError)):
                    request(server, "GET", "/v1/models", repeat=repeat)
                assert len(seen) == (1 + len(waits) if repeats and repeat else 1)


def test_a_timeout_is_not_repeated() -> None:
    fault, seen = fail_first(9, hang)
    with serve(MODEL, fault=fault) as running, pytest.raises(TimeoutError):
        request(Server(running.address, 0.1, (0.01, 0.01)), "GET", "/v1/models", repeat=True)
    assert len(seen) == 1


def test_cancelled_requests_end_at_once() -> None:
    calls = Calls(threading.Event(), [])
    with serve(MODEL, fault=hang) as running:
        timer = threading.Timer(0.1, cancel, [calls])
        timer.start()
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            request(Server(running.address, 60.0), "GET", "/v1/models", repeat=True, calls=calls)
        assert time.monotonic() - start < 1
        with pytest.raises(ConnectionError, match="cancelled"):
            request(Server(running.address, 60.0), "GET", "/v1/models", calls=calls)
        timer.join()


def test_a_key_is_sent_as_a_bearer_token() -> None:
    seen: list[str | None] = []

    def fault(handler: Any, *rest: Any) -> bool:
        seen.append(handler.headers.get("Authorization"))
        return False

    with serve(MODEL, fault=fault) as running:
        for key in (None, "secret"):
            request(Server(running.address, api_key=key), "GET", "/v1/models")
    assert seen == [None, "Bearer secret"]


@pytest.mark.parametrize(
    "address",
    ["", "localhost:8000", "ftp://a", "http://", "http://a:b", "http://a:0", "http://u@a", "http://a?b"],
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected the address of a server, such as http://localhost:8000, got"
    ):
        parse_address(address)
    assert parse_address("https://a.b/vllm/") == "https://a.b/vllm"
