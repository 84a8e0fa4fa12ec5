"""The report in a real browser: nothing is loaded or logged, and telephone, keyboard and paper get all of it."""

import base64
import io
import json
import os
import re
import select
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import matplotlib.image
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
# lines of text outside pictures: those that lie on others, those outside their card, and the smallest letters
TEXT = """(() => {
  const lines = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let smallest = 99;
  while (walk.nextNode()) {
    const node = walk.currentNode, near = node.parentElement;
    if (!node.data.trim() || near.closest('svg, style, .hidden, .skip')) continue;
    const head = near.closest('thead');
    if (head && getComputedStyle(head).clipPath !== 'none') continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter(r => r.width > 1);
    if (boxes.length && !near.closest('[aria-hidden]'))
      smallest = Math.min(smallest, parseFloat(getComputedStyle(near).fontSize));
    const card = near.closest('.scroll') ? null : near.closest('.card');
    boxes.forEach(r => lines.push({text: node.data.trim().slice(0, 40), node, r, card}));
  }
  lines.sort((a, b) => a.r.top - b.r.top);
  const over = [];
  lines.forEach((a, i) => {
    for (let j = i + 1; j < lines.length && lines[j].r.top < a.r.bottom - 4; j++) {
      const p = a.r, q = lines[j].r;
      if (a.node !== lines[j].node && p.left < q.right - 1 && q.left < p.right - 1 && q.top < p.bottom - 4)
        over.push(a.text + ' / ' + lines[j].text);
    }
  });
  const out = lines.filter(a => a.card && (a.r.left < a.card.getBoundingClientRect().left ||
    a.r.right > a.card.getBoundingClientRect().right + .5)).map(a => a.text);
  return {over, out, smallest, count: lines.length};
})()"""
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


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

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text
            )  # fmt: skip

    def emulate(self, media: str = "", **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", media=media, features=listed)

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


def line(attack, name, stratum, high, threshold, passed, **more):
    return {
        "attack": attack, "name": name, "stratum": stratum, "value": 0.5 * high, "low": 0.0, "high": high,
        "threshold": threshold, "passed": passed, "needed_entities": None,
        "explains": f"What {name} tells about {attack}, in a sentence that runs over more than one line.", **more,
    }  # fmt: skip


def full_results(thirds):
    """Return results of the real judges, with all that a page may have to show."""
    evaluation, found = evaluate(*thirds, bootstrap=20, classifier_series=40, classifier_seeds=2), audit(*thirds)
    kind = {"distance": 0.3, "floor": 0.1, "low": 1.0, "high": 9.0, "unit": "u", "in_headline": False, "sees": "s",
            "blind_to": "b"}  # fmt: skip
    evaluation["metrics"] += [
        {**kind, "family": "classifier", "name": f"classifier {i}", "ratio": 3.0 * i, "auc": 0.6 + 0.1 * i,
         "auc_floor": 0.52} for i in range(1, 4)
    ]  # fmt: skip
    evaluation["metrics"] += [
        {**kind, "family": "utility", "name": f"forecast of task {i}", "ratio": 1.1, "naive": 0.2,
         "beats_naive": i > 1, "ratio_noise": 0.05} for i in range(1, 4)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    points = {name: rng.normal(size=(300, 2)).tolist() for name in ("train", "holdout", "synthetic")}
    evaluation["embedding"] = points | {"explained": [0.3, 0.1]}
    found["checks"] += [
        line("membership", "true positive rate at 1 % false positives", f"group {i} ({410 - i} members)", 0.04, 0.05,
             True, informs=i > 1) for i in range(1, 11)
    ]  # fmt: skip
    found["checks"] += [
        line("conditions", "tracing AUC", "worst group: 7", 0.6, 0.55, None, needed_entities=4000),
        line("conditions", "largest share of one entity in its group", "all", 0.1, 0.15, True),
        line("canaries", "lower bound of epsilon", "all", 2.5, 1.0, False, informs=True),
    ]
    found["verdict"], found["attempts"] = "UNPROVEN", [
        {"verdict": verdict, "train": "3fa9" * 16, "synthetic": f"{i}c1b" * 16}
        for i, verdict in enumerate(("FAIL", "UNPROVEN", "UNPROVEN"))
    ]  # fmt: skip
    return evaluation, found


@pytest.fixture(scope="module")
def page():
    homes = simulate(180)
    thirds = [
        Judged(
            values=homes.values[rows], entities=homes.ids[rows], starts=homes.starts[rows],
            step_seconds=homes.step_seconds, unit=homes.unit,
        )
        for rows in np.split(np.arange(180), 3)
    ]  # fmt: skip
    evaluation, found = full_results(thirds)
    assert len(found["checks"]) >= 21
    return render(
        title="Sample <population>",
        evaluation=evaluation,
        audit=found,
        pictures=Pictures(*thirds),
        facts=[("recipe", "quick")],
        first_line="Accepted without proof.",
        simulated=True,
    )


@pytest.fixture(scope="module")
def url(page, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def test_nothing_is_logged_and_nothing_leaves(browser, url):
    browser.open(url, 1280)
    browser.ask(OPEN_ALL)
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
    browser.ask(OPEN_ALL)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(OVERLAPS) == []
    assert browser.ask(OUTSIDE) == []
    assert browser.ask(SMALLEST) >= 8
    text = browser.ask(TEXT)
    assert text["over"] == []
    assert text["out"] == []
    assert text["smallest"] >= 11
    assert text["count"] > 500


def test_every_figure_has_content(browser, url, page):
    browser.open(url, 1280)
    figures = browser.ask(
        """[...document.querySelectorAll('.panel')].map(f => {
          const svg = f.querySelector('svg[role=img]'), box = svg.getBoundingClientRect();
          const drawn = [...svg.querySelectorAll('path, image, use')].filter(p => p.getBoundingClientRect().width > 0);
          return [box.width > 100 && box.height > 60, drawn.length, svg.querySelectorAll('text').length,
                  svg.getAttribute('aria-label').length, /\\d/.test(svg.getAttribute('aria-label'))];
        })"""
    )
    assert len(figures) == 4 + 6 + 3 + 6 + 3 + 3 + 2
    for large, marks, texts, label, numbers in figures:
        assert large
        assert numbers
        assert min(marks - 3, texts - 2, label - 40) > 0
    pictures = "[...document.querySelectorAll('.panel image')].map(i => i.getBoundingClientRect().width)"
    assert min(browser.ask(pictures)) > 5
    images = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert len(images) == 12
    assert all(matplotlib.image.imread(io.BytesIO(image))[..., :3].std() > 0.05 for image in images)
    assert len(page.encode()) < 1_500_000


def test_verdict_ratio_bounds_and_weeks_are_on_the_first_screen(browser, url, page):
    lowest = "Math.max(...[...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect().bottom))"
    parts = (".verdict .word", ".ratio", ".big .bar", ".bounds .bar")
    browser.open(url, 1280, 800)
    assert max(browser.ask(lowest.format(part)) for part in (*parts, "#weeks .panel")) <= 800
    browser.open(url, 390, 844)
    browser.ask("document.querySelector('.first-line').remove()")
    assert max(browser.ask(lowest.format(part)) for part in (*parts, "#weeks .panel:first-child")) <= 844
    assert browser.ask("document.querySelectorAll('.bounds tbody tr').length") == 7


def test_the_keyboard_reaches_the_skip_link_first_and_then_everything(browser, url):
    browser.open(url, 1280)
    browser.press("Tab", 9)
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    browser.ask("window.reached = new Set()")
    for _ in range(45):
        browser.press("Tab", 9)
        seen = (
            "(a => (reached.add(a), a === document.body || getComputedStyle(a).outlineStyle !== 'none'))"
            "(document.activeElement)"
        )
        # on a busy machine the focus is there before its outline
        give_up = time.monotonic() + 5
        while not browser.ask(seen):
            assert time.monotonic() < give_up, browser.ask("document.activeElement.outerHTML")
            time.sleep(0.05)
    assert browser.ask("[...document.querySelectorAll('summary')].length") >= 9
    unreached = "[...document.querySelectorAll('summary, nav a, .scroll')].filter(e => !reached.has(e)).length"
    assert browser.ask(unreached) == 0
    assert browser.ask("(s => (s.focus(), s.parentElement.open))(document.querySelector('.group summary'))") is False
    browser.press("Enter", 13, "\r")
    assert browser.ask("document.querySelector('.group').open")


def test_headings_are_in_order_and_tables_say_what_their_cells_mean(browser, url):
    browser.open(url, 1280)
    levels = browser.ask("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.ask("[...document.querySelectorAll('th')].every(t => ['row', 'col'].includes(t.scope))")
    assert browser.ask("[...document.querySelectorAll('tbody tr')].every(r => r.querySelector('th[scope=row]'))")
    assert browser.ask("document.documentElement.lang") == "en"


def test_paper_gets_every_detail(browser, url):
    browser.open(url, 1280)
    browser.emulate("print")
    details = browser.ask(
        """[...document.querySelectorAll('details')].map(d => [d.open, [...d.children].every(c => c.checkVisibility()),
          d.getBoundingClientRect().height - d.children[0].getBoundingClientRect().height])"""
    )
    assert len(details) >= 9
    assert all(visible and height > 20 for _, visible, height in details)
    assert not all(was_open for was_open, _, _ in details)
    browser.emulate()
    sheet = base64.b64decode(browser.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])
    assert sheet.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", sheet)) <= 25


def test_who_asks_for_less_motion_gets_none(browser, url):
    scroll = "getComputedStyle(document.documentElement).scrollBehavior"
    browser.open(url, 1280)
    assert browser.ask(scroll) == "smooth"
    browser.emulate(prefers_reduced_motion="reduce")
    assert browser.ask(scroll) == "auto"
    browser.emulate()


def test_dark_mode_changes_page_and_pictures(browser, url):
    colours = {}
    probe = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg text')).fill]"
    )
    for scheme in ("light", "dark"):
        browser.emulate(prefers_color_scheme=scheme)
        browser.open(url, 1280)
        colours[scheme] = browser.ask(probe)
    browser.emulate()
    assert all(light != dark for light, dark in zip(*colours.values(), strict=True))


def test_no_id_is_used_twice(browser, url):
    browser.open(url, 1280)
    assert browser.ask("[...document.querySelectorAll('[id]')].length") == browser.ask(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    )
    assert browser.ask("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
