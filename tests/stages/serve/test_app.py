"""The application (`app`, `channel`, `events`, `guard`, `page`), by OpenAI's client and by hand over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from stages.serve import app, events
from stages.serve.address import is_local
from stages.serve.machine import Machine
from stages.serve.page import read_page
from tests.rules.source import ROOT
from tests.stages.serve.small_engine import LENGTH, generated_ids, make_base, make_small_machine, slowed
from tests.stages.serve.small_service import Running, running_service

BASE = make_base()
HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_service(BASE) as running:
        yield running


@pytest.fixture(scope="module")
def slow_machine() -> Machine:
    return slowed(make_small_machine(BASE))


@pytest.fixture(scope="module")
def slow(slow_machine: Machine) -> Iterator[Running]:
    with running_service(BASE, machine=slow_machine, most_queued=8) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def wait_until_idle(running: Running) -> None:
    """Wait until no request is held and no row is sampled."""
    deadline = time.monotonic() + 10
    while running.service.engine.load()[:3] != (0, 0, 0):
        assert time.monotonic() < deadline, running.service.engine.load()
        time.sleep(0.002)


def test_a_completion_has_the_tokens_of_the_library_call(client: openai.OpenAI) -> None:
    prompt = BASE.tokenizer.encode("def add")
    answer = client.completions.create(model="small", prompt="def add", seed=5, max_tokens=20)
    expected = [id for id in generated_ids(BASE, 5, prompt, 20) if id != BASE.model.config.eos_token_id]
    assert answer.choices[0].text == BASE.tokenizer.decode(expected, skip_special=True)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 20)
    assert answer.model_extra == {"seed": 5, "system_fingerprint": answer.system_fingerprint} or (
        answer.model_extra == {"seed": 5}
    )
    by_ids = client.completions.create(model="small", prompt=prompt, seed=5, max_tokens=20)
    assert by_ids.choices[0].text == answer.choices[0].text


def test_the_clients_in_the_documentation_get_the_answer(
    running: Running, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf8")
    programs = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(programs) == 2  # the whole answer, and the same in pieces
    program = "".join(programs)
    exec(program.replace("http://127.0.0.1:8000", running.address).replace('"sft"', '"small"'), {})
    question: Any = [{"role": "user", "content": "2 times 3?"}]
    answer = client.chat.completions.create(model="small", messages=question, seed=7, max_tokens=16)
    assert capsys.readouterr().out == f"{answer.choices[0].message.content}\n" * 2


def test_a_stream_joins_to_the_answer_that_is_not_streamed(client: openai.OpenAI) -> None:
    options: Any = {"model": "small", "messages": HI, "seed": 1, "max_tokens": 30, "n": 2}
    options |= {"logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(**options)
    texts, tokens, finish = ["", ""], [[], []], ["", ""]
    usage = None
    with client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            usage = chunk.usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                tokens[choice.index] += choice.logprobs.content
                finish[choice.index] = choice.finish_reason or ""
    assert usage == answer.usage
    for choice in answer.choices:
        assert choice.message.content == texts[choice.index]
        assert choice.finish_reason == finish[choice.index]
        assert choice.logprobs is not None
        assert choice.logprobs.content == tokens[choice.index]
        joined = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
        assert joined.decode(errors="replace") == choice.message.content


def test_a_request_without_a_seed_gets_one_that_repeats_it(client: openai.OpenAI) -> None:
    first = client.completions.create(model="small", prompt="def", max_tokens=20)
    second = client.completions.create(model="small", prompt="def", max_tokens=20)
    assert first.choices[0].text != second.choices[0].text
    seed = first.model_extra["seed"]
    again = client.completions.create(model="small", prompt="def", max_tokens=20, seed=seed)
    assert again.choices[0].text == first.choices[0].text


def test_seeds_give_the_same_text_with_a_hundred_clients_at_once(running: Running) -> None:
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=100)) as client:

        def ask(seed: int) -> str:
            body = {"prompt": "def " * (seed % 7 + 1), "seed": seed, "max_tokens": 3 + seed % 11}
            return client.post(f"{running.address}/v1/completions", json=body).json()["choices"][0]["text"]

        alone = [ask(seed) for seed in range(12)]
        with ThreadPoolExecutor(100) as pool:
            assert list(pool.map(ask, [i % 12 for i in range(100)])) == [alone[i % 12] for i in range(100)]


def test_errors_have_openais_shape(client: openai.OpenAI, running: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9'"):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError, match="holds 300 tokens of prompt and completion") as caught:
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "a " * 400}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert client.models.retrieve("small") == client.models.list().data[0]
    for path, method in (("/v1/nothing", "GET"), ("/v1/completions", "GET"), ("/health", "POST")):
        error = httpx.request(method, running.address + path).json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
    refused = httpx.get(f"{running.address}/v1/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    plain = httpx.post(f"{running.address}/v1/completions", content='{"prompt": "a"}')
    assert plain.status_code == 415
    long = httpx.post(f"{running.address}/v1/completions", json={"prompt": "a" * 5_000_000})
    assert long.status_code == 413


def test_health_and_the_page_are_there(running: Running) -> None:
    health = httpx.get(f"{running.address}/health").json()
    assert (health["status"], health["model"], health["chat"]) == ("ok", "small", True)
    page = httpx.get(running.address)
    assert page.content == read_page().content
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"http" not in page.content.replace(b"https?:", b"").replace(b"http://www.w3.org", b"")


def test_a_client_that_goes_away_frees_its_rows(slow: Running) -> None:
    body = {"prompt": "a", "max_tokens": LENGTH - 1, "temperature": 0}
    url = f"{slow.address}/v1/completions"
    with httpx.stream("POST", url, json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the connection of an iterator that is dropped
        next(lines)
        deadline = time.monotonic() + 10
        while slow.service.engine.load().held != 1:
            assert time.monotonic() < deadline, slow.service.engine.load()
            time.sleep(0.01)
    wait_until_idle(slow)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json={**body, "n": 8}, timeout=0.05)
    wait_until_idle(slow)
    assert slow.service.engine.load().tokens < LENGTH


def test_a_slow_reader_delays_nobody_and_is_given_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SEND_SECONDS", 0.3)
    body = json.dumps({"prompt": "a", "max_tokens": 290, "n": 8, "stream": True, "logprobs": 5})
    host, port = running.address.removeprefix("http://").split(":")
    before = running.service.engine.load().tokens
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        slow.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        deadline = time.monotonic() + 60
        while running.service.engine.load().tokens == before:
            assert time.monotonic() < deadline, "the request was not begun in a minute"
            time.sleep(0.001)
        answer = httpx.post(f"{running.address}/v1/completions", json={"prompt": "b"}, timeout=20)
        assert answer.status_code == 200
        wait_until_idle(running)


def test_a_body_that_does_not_arrive_is_given_up(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    host, port = running.address.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as gone:
        gone.sendall(f"{head}content-length: 99\r\n\r\n{{".encode())
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(f"{head}content-length: 99\r\n\r\n{{".encode())
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert not [record for record in caplog.records if record.exc_info]


def test_headers_without_end_are_refused(running: Running) -> None:
    """Before the key is asked for; a parser without a limit would keep them all in memory."""
    host, port = running.address.removeprefix("http://").split(":")
    sent = 0
    with socket.create_connection((host, int(port)), timeout=10) as endless, suppress(ConnectionError):
        endless.sendall(f"GET /health HTTP/1.1\r\nhost: {host}:{port}\r\n".encode())
        while sent < 20_000_000:
            endless.sendall(f"x-{sent}: {'a' * 10_000}\r\n".encode())
            sent += 10_000
    assert sent < 20_000_000
    assert httpx.get(f"{running.address}/health").status_code == 200


def test_a_full_queue_is_429_with_a_time_to_wait(slow: Running) -> None:
    body = {"prompt": "a", "max_tokens": LENGTH - 1, "temperature": 0, "n": 12, "stream": True}
    url = f"{slow.address}/v1/completions"
    with httpx.stream("POST", url, json=body), httpx.stream("POST", url, json={**body, "n": 8}):
        refused = httpx.post(url, json={"prompt": "a"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    wait_until_idle(slow)


def test_with_a_key_only_its_holders_are_answered() -> None:
    with running_service(BASE, api_key="secret") as running:
        url = f"{running.address}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer wrong"}).json()["error"]["code"] == (
            "invalid_api_key"
        )
        good = {"Authorization": "Bearer secret", "Host": "any.name"}
        assert httpx.get(url, headers=good).status_code == 200
        assert httpx.get(f"{running.address}/health").status_code == 200


def test_a_body_nested_too_deeply_is_the_mistake_of_the_client(running: Running) -> None:
    with httpx.Client(base_url=running.address) as client:
        for depth in (400, 500, 700, 900, 5000):
            content = "[" * depth + "]" * depth
            body = f'{{"messages": [{{"role": "user", "content": {content}}}], "max_tokens": 1}}'
            headers = {"Content-Type": "application/json"}
            answer = client.post("/v1/chat/completions", content=body, headers=headers)
            assert answer.status_code == 400
        assert client.get("/health").status_code == 200


def test_without_a_key_other_names_are_refused(running: Running) -> None:
    for host, status in (("evil.example", 403), ("localhost:99", 200), ("[::1]:8", 200), ("[::1]", 200)):
        answer = httpx.get(f"{running.address}/v1/models", headers={"Host": host})
        assert answer.status_code == status, host
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == (
        [True, True, True, False, False]
    )


def test_an_answer_under_way_ends_with_an_error_when_the_engine_closes(slow_machine: Machine) -> None:
    with running_service(BASE, machine=slow_machine) as running:
        body = {"prompt": "a", "max_tokens": LENGTH - 1, "temperature": 0}
        url = f"{running.address}/v1/completions"
        with (
            httpx.stream("POST", url, json={**body, "stream": True}) as answer,
            ThreadPoolExecutor(1) as pool,
        ):
            lines = answer.iter_lines()
            next(lines)
            waiting = pool.submit(httpx.post, url, json=body)
            while running.service.engine.load().held < 2:
                time.sleep(0.001)
            running.service.engine.close()
            last = [line for line in lines if line][-1]
            assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
            assert waiting.result().status_code == 500
        assert httpx.post(url, json=body).status_code == 429
        while running.service.engine.thread.is_alive():
            time.sleep(0.001)
        assert httpx.get(f"{running.address}/health").status_code == 503


def test_a_stream_that_nobody_began_to_read_is_released() -> None:
    released = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(1)

    async def no_events() -> Any:
        yield b""

    asyncio.run(events.send_stream(no_events(), lambda: released.append(1), {}, receive, send))
    assert released == [1]
