"""The page is one file below 1.5 MB that loads nothing, and a browser draws its curves."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.report import draw
from stages.report.page import make_page
from stages.report.record import read_run
from tests.stages.report.test_record import write_completions, write_run

ATTACK = "</td><script>document.title = 'changed'</script><img src=http://x.test/a.png>"


def unpack(page: str, name: str) -> str:
    match = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    assert match
    return gzip.decompress(base64.b64decode(match[1])).decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two runs, one of 3,000 steps."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("long", 3000), ("short", 5)):
        write_completions(write_run(folder / name, steps, beta=steps / 10), ATTACK)
    return make_page([read_run(folder / "long"), read_run(folder / "short")], ["long", "short"])


def test_it_is_small_and_loads_nothing(page: str) -> None:
    assert len(page.encode()) < 1_500_000
    tags = re.findall(r"<[a-z][^>]*>", page)
    assert [tag for tag in tags if re.search(r"\b(?:src|href|srcset|action)\s*=", tag)] == []
    assert not {"<img", "<link", "<iframe", "<object", "<base"} & {tag.split()[0].rstrip(">") for tag in tags}
    assert "url(" not in page
    assert "default-src 'none'; script-src 'sha256-" in page
    assert "<script>document" not in page
    assert unpack(page, "library") == draw.read_library()


def test_it_has_curves_legend_and_flags_of_both(page: str) -> None:
    drawings = json.loads(unpack(page, "drawings"))
    assert len(drawings) == 2
    assert page.count('class="figure" data-number=') == 2
    assert page.count('class="swatch"') == 2
    assert re.search(r"\d{3} of 3,000 values: the smallest and the largest", page)
    differing = page[page.index("In which the runs differ") : page.index("All flags")]
    assert "--beta" in differing
    assert "--seed" not in differing
    assert "long: loss: 1 of 3,000 values cannot be drawn (step 2)" in page
    assert "short: the updates of 1 of 5 steps were skipped" in page


def test_an_empty_run_has_a_page_without_scripts_to_unpack(tmp_path: Path) -> None:
    page = make_page([read_run(write_run(tmp_path / "r", steps=0))], ["r"])
    assert "No step is logged yet." in page
    assert 'id="library"' not in page
    run = read_run(tmp_path / "r")
    with pytest.raises(ValueError, match="expected at most 24 runs in one page, got 25; give fewer"):
        make_page([run] * 25, ["r"] * 25)


def test_a_browser_draws_the_curves_and_runs_no_other_script(page: str, tmp_path: Path) -> None:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with its driver is installed")
    from selenium import webdriver

    (tmp_path / "page.html").write_text(page)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1000,2000",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        chrome.get((tmp_path / "page.html").as_uri())
        for scale in ("linear", "log"):
            drawn = "return [...document.querySelectorAll('.figure')].filter(f => f.firstElementChild?.shadowRoot)"
            wait_until(lambda: len(chrome.execute_script(drawn)) == 2)  # noqa: B023
            if scale == "linear":
                chrome.find_element("id", "log").click()
        heads = chrome.find_elements("css selector", "th button")
        head = next(head for head in heads if head.text == "step")
        head.click()
        head.click()
        first = head.find_element("xpath", "ancestor::table").find_element("css selector", "tbody td").text
        assert chrome.title == "long, short"
        assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert first == "2"  # sorted from the last step


def wait_until(is_true: Callable[[], bool]) -> None:
    """Waits at most a minute."""
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)
