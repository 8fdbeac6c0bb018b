"""The page in a real browser, headless Chromium; where there is none these tests are skipped.

apt-get install chromium chromium-driver
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest

from stages.serve.app import Service
from stages.serve.queue import Put
from stages.serve.row import Piece, Row
from tests.stages.serve.small_engine import make_base
from tests.stages.serve.small_service import Running, running_service

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no chromium and chromedriver; apt-get install chromium-driver"
)

ENDLESS = "endless"
"""A text that goes on until its request is released."""

MARKDOWN = """# Title

Some *slanted*, **bold** and `code`, snake_case_name, 2 * 3 * 4, a [link](https://example.org/a_(b)),
a [trap](javascript:alert(1)) and <script>alert(1)</script><img src=x onerror=alert(1)>.

1. one
2. two
   - inner **deep**

```python
print("<b>")  # **not bold**
```

| a | b |
|---|---|
| 1 | `x` |

> quoted

~~gone~~ https://pytorch.org/docs."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1000,800",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


class Script(NamedTuple):
    """Texts that the engine answers with, the first to the next request; and what it was asked for."""

    texts: list[str]
    asked: list[Row]
    released: list[int]
    tickets: list[int]


@pytest.fixture(scope="module")
def everything() -> Iterator[tuple[Running, Script]]:
    script = Script([], [], [], [0])
    with running_service(make_base(), change=partial(follow, script)) as running:
        yield running, script


@pytest.fixture
def running(everything: tuple[Running, Script]) -> Running:
    return everything[0]


@pytest.fixture
def script(everything: tuple[Running, Script]) -> Script:
    everything[1].texts.clear()
    everything[1].asked.clear()
    return everything[1]


def follow(script: Script, service: Service) -> Service:
    """Answer with the texts of the script, in pieces of four characters."""

    def submit(rows: Sequence[Row], put: Put) -> int:
        script.asked.extend(rows)
        script.tickets.append(ticket := len(script.tickets))
        text = script.texts.pop(0)

        def send() -> None:
            for at in range(0, len(text), 4):
                put(0, Piece(text[at : at + 4], sampled=at // 4 + 1))
            more = iter(range(20))  # a conversation with it still fits into the context
            while text == ENDLESS and ticket not in script.released:
                put(0, Piece("more " * (next(more, None) is not None), sampled=1))
                time.sleep(0.005)
            put(0, Piece(sampled=len(text) // 4 + 1, finish="stop"))

        threading.Thread(target=send).start()
        return ticket

    engine = service.engine._replace(submit=submit, release=script.released.append)
    return service._replace(engine=engine)


@pytest.fixture
def page(browser: Any, running: Running) -> Any:
    """The page, without a conversation and with the settings of a first visit."""
    browser.get(running.address)
    browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    browser.get(running.address)
    wait_for(lambda: text_of(browser, "#name") == "small")
    return browser


def find_all(page: Any, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)


def text_of(page: Any, selector: str) -> str:
    """The text of the last element that a selector finds; "" if there is none."""
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].at(-1)?.innerText ?? ''", selector
    )


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.02)


def type_into(page: Any, selector: str, text: str) -> None:
    find_all(page, selector)[0].send_keys(text)


def test_an_answer_is_streamed_and_its_markdown_is_shown_as_elements_never_as_html(
    page: Any, script: Script
) -> None:
    script.texts.append(MARKDOWN)
    type_into(page, "#question", "Show me\n")
    wait_for(lambda: text_of(page, ".assistant .note").startswith("9"))
    texts = {
        selector: [element.text for element in find_all(page, f".assistant .body {selector}")]
        for selector in (
            "h1",
            "em",
            "strong",
            "p > code",
            "ol > li",
            "ul > li",
            "pre",
            "td",
            "blockquote",
            "del",
        )
    }
    assert texts == {
        "h1": ["Title"],
        "em": ["slanted"],
        "strong": ["bold", "deep"],
        "p > code": ["code"],
        "ol > li": ["one", "two\ninner deep"],
        "ul > li": ["inner deep"],
        "pre": ['print("<b>")  # **not bold**'],
        "td": ["1", "x"],
        "blockquote": ["quoted"],
        "del": ["gone"],
    }
    links = [link.get_attribute("href") for link in find_all(page, ".assistant a")]
    assert links == ["https://example.org/a_(b)", "https://pytorch.org/docs"]
    assert find_all(page, ".assistant script, .assistant img") == []
    shown = text_of(page, ".assistant .body")
    assert "snake_case_name, 2 * 3 * 4" in shown
    assert "a trap and <script>alert(1)</script><img src=x onerror=alert(1)>." in shown
    page.refresh()
    wait_for(lambda: text_of(page, ".assistant h1") == "Title")
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_settings_are_sent_and_the_conversation_with_them(
    page: Any, running: Running, script: Script
) -> None:
    script.texts.extend(["Hello", "Bye"])
    find_all(page, "#open")[0].click()
    type_into(page, "#system", "Be brief.")
    type_into(page, "#seed", "7")
    type_into(page, "#tokens", "9")
    page.execute_script(
        "const t = document.getElementById('temperature'); t.value = 0.3; t.dispatchEvent(new Event('input'))"
    )
    assert text_of(page, "#shown") == "0.30"
    type_into(page, "#question", "Hi\n")
    wait_for(lambda: "seed 7" in text_of(page, ".assistant .note"))
    type_into(page, "#question", "More\n")
    wait_for(lambda: len(script.asked) == 2)
    decode = running.service.served.base.tokenizer.decode
    assert decode(script.asked[1].prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "Hello<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (script.asked[1].temperature, script.asked[1].max_new_tokens) == (0.3, 9)
    wait_for(lambda: find_all(page, "#send")[0].is_displayed())
    find_all(page, "#new")[0].click()
    assert text_of(page, "#log") == "Ask something."


def test_stop_ends_the_answer_and_releases_its_request(page: Any, script: Script) -> None:
    script.texts.extend([ENDLESS, "Bye"])
    type_into(page, "#question", "Go on\n")
    wait_for(lambda: "more more" in text_of(page, ".assistant .body"))
    assert not find_all(page, "#send")[0].is_displayed()
    find_all(page, "#stop")[0].click()
    wait_for(lambda: text_of(page, ".assistant .note") == "stopped")
    wait_for(lambda: script.tickets[-1] in script.released)
    type_into(page, "#question", "And?\n")
    wait_for(lambda: text_of(page, ".assistant .body") == "Bye")


def test_a_refused_message_is_explained_and_can_be_changed(page: Any) -> None:
    page.execute_script("document.getElementById('question').value = 'word '.repeat(400)")
    find_all(page, "#send")[0].click()
    wait_for(lambda: "tokens of prompt and completion" in text_of(page, ".assistant .error"))
    assert find_all(page, "#question")[0].get_attribute("value").startswith("word word")


def test_it_follows_the_systems_dark_mode_and_fits_a_phone(page: Any, script: Script) -> None:
    def background() -> str:
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    def emulate(command: str, **options: Any) -> None:
        page.execute_cdp_cmd(f"Emulation.{command}", options)

    row = "| " + " | ".join(["column"] * 9) + " |"
    script.texts.append(f"{row}\n|{'---|' * 9}\n{row}\n\n{MARKDOWN}")
    assert background() == "rgb(255, 255, 255)"
    emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    emulate("setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2, mobile=True)
    try:
        wait_for(lambda: background() == "rgb(22, 24, 28)")
        type_into(page, "#question", "Show me")
        find_all(page, "#send")[0].click()
        wait_for(lambda: "pytorch" in text_of(page, ".assistant .body"))
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        cell = find_all(page, ".assistant th")[0].rect  # a wide table scrolls, and no word of it is cut
        assert cell["width"] > cell["height"]
        for selector in ("#question", "#send", "#open"):
            box = find_all(page, selector)[0].rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 640
        find_all(page, "#theme")[0].click()
        assert background() == "rgb(255, 255, 255)"
    finally:
        emulate("setEmulatedMedia", features=[])
        emulate("clearDeviceMetricsOverride")
