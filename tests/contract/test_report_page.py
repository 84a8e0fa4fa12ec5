"""The report in a real browser: nothing is loaded, nothing is logged, and a telephone can show it."""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from ttsgan.data.simulate import simulate
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit
from ttsgan.evaluation.report import Pictures, render

BROWSER = "/usr/bin/chromium"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
pytestmark = pytest.mark.skipif(not Path(BROWSER).exists(), reason=f"{BROWSER} is not installed")

# letters that lie on other letters of the same picture, as "first text / second text"
OVERLAPS = """[...document.querySelectorAll('.panel svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
    .filter(([b, q]) => p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2)
    .map(([b, q]) => svg.getAttribute('aria-label').slice(0, 30) + ': ' + a + ' / ' + b));
})"""
# letters outside their card
OUTSIDE = """[...document.querySelectorAll('.panel svg text')].filter(t => {
  const p = t.getBoundingClientRect(), q = t.closest('.card').getBoundingClientRect();
  return p.left < q.left || p.right > q.right || p.bottom > q.bottom;
}).map(t => t.textContent)"""
SMALLEST = """Math.min(...[...document.querySelectorAll('.panel svg text')].map(t =>
  parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a))"""


class Browser:
    """One headless Chromium, spoken to by the DevTools protocol over a pair of pipes (file descriptors 3 and 4)."""

    def __init__(self, profile: Path) -> None:
        to_read, self.write_end = os.pipe()
        self.read_end, to_write = os.pipe()
        # the numbers 3 and 4 are given inside the new process; high copies cannot be overwritten on the way
        high = [os.dup2(end, 200 + index) for index, end in enumerate((to_read, to_write))]
        command = f"exec {BROWSER} {' '.join(FLAGS)} --user-data-dir={profile} about:blank 3<&200 4>&201 200<&- 201>&-"
        self.process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (to_read, to_write, *high):
            os.close(end)
        self.buffer, self.count, self.session, self.events = b"", 0, None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def _receive(self, until: float) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_end], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self.read_end, 1 << 16)
            assert data, "the browser has ended"
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def send(self, method: str, **parameters) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 40
        while True:
            answer = self._receive(until)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, url: str, width: int, height: int = 900) -> None:
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        self.send("Page.navigate", url=url)
        until = time.monotonic() + 40
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive(until))

    def ask(self, script: str):
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press_tab(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    def methods(self, name: str) -> list[dict]:
        return [event["params"] for event in self.events if event.get("method") == name]

    def close(self) -> None:
        self.session = None
        self.send("Browser.close")
        self.process.wait(timeout=20)
        os.close(self.write_end)
        os.close(self.read_end)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    profile = tmp_path_factory.mktemp("profile")
    chromium = Browser(profile)
    yield chromium
    chromium.close()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    homes = simulate(180)
    thirds = [
        Judged(
            values=homes.values[rows], entities=homes.ids[rows], starts=homes.starts[rows],
            step_seconds=homes.step_seconds, unit=homes.unit,
        )
        for rows in np.split(np.arange(180), 3)
    ]  # fmt: skip
    page = render(
        title="Sample <population>",
        evaluation=evaluate(*thirds, bootstrap=20),
        audit=audit(*thirds) | {"attempts": [{"seed": 0, "verdict": "UNPROVEN"}]},
        pictures=Pictures(*thirds),
        facts=[("recipe", "quick")],
        first_line="Accepted without proof.",
        simulated=True,
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def test_nothing_is_logged_and_nothing_leaves(browser, url):
    browser.open(url, 1280)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    asked = [params["request"]["url"] for params in browser.methods("Network.requestWillBeSent")]
    assert [address for address in asked if not address.startswith(("data:", "blob:"))] == [url]
    assert browser.methods("Log.entryAdded") == []
    assert browser.methods("Runtime.consoleAPICalled") == []
    assert browser.methods("Runtime.exceptionThrown") == []
    assert browser.ask("document.title") == "Sample <population>: " + browser.ask(
        "document.querySelector('.word').lastChild.textContent"
    )


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_the_page_fits_and_its_letters_can_be_read(browser, url, width):
    browser.open(url, width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(OVERLAPS) == []
    assert browser.ask(OUTSIDE) == []
    assert browser.ask(SMALLEST) >= 8


def test_every_figure_has_content(browser, url):
    browser.open(url, 1280)
    figures = browser.ask(
        """[...document.querySelectorAll('.panel')].map(f => {
          const svg = f.querySelector('svg[role=img]'), box = svg.getBoundingClientRect();
          return [box.width > 100 && box.height > 60, svg.querySelectorAll('path, image, use').length,
                  svg.querySelectorAll('text').length, svg.getAttribute('aria-label').length];
        })"""
    )
    assert len(figures) == 8 + 6 + 3 + 3 + 6 + 3 + 2
    for large, marks, texts, label in figures:
        assert large
        assert min(marks - 3, texts - 2, label - 30) > 0
    pictures = "[...document.querySelectorAll('.panel image')].map(i => i.getBoundingClientRect().width)"
    assert min(browser.ask(pictures)) > 5


def test_the_verdict_and_a_bound_are_on_the_first_screen(browser, url):
    browser.open(url, 1280, 800)
    bottom = "document.querySelector('{}').getBoundingClientRect().bottom"
    for part in (".verdict .word", ".ratio", ".bounds tbody tr:nth-child(3)"):
        assert browser.ask(bottom.format(part)) < 800


def test_the_keyboard_reaches_the_skip_link_first_and_then_every_detail(browser, url):
    browser.open(url, 1280)
    browser.press_tab()
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    reached = set()
    for _ in range(40):
        browser.press_tab()
        reached.add(browser.ask("document.activeElement.tagName"))
    assert {"A", "SUMMARY"} <= reached


def test_dark_mode_changes_page_and_pictures(browser, url):
    colours = {}
    probe = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg text')).fill]"
    )
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.send("Emulation.setEmulatedMedia", features=features)
        browser.open(url, 1280)
        colours[scheme] = browser.ask(probe)
    browser.send("Emulation.setEmulatedMedia", features=[])
    assert all(light != dark for light, dark in zip(*colours.values(), strict=True))


def test_no_id_is_used_twice(browser, url):
    browser.open(url, 1280)
    assert browser.ask("[...document.querySelectorAll('[id]')].length") == browser.ask(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    )
    assert browser.ask("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
