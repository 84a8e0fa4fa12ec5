"""The report page as text: what it must say, what must not be in it, and that it can be drawn for any series."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from ttsgan.data.simulate import simulate
from ttsgan.errors import DataError
from ttsgan.evaluation.figures import Gallery
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.report import Pictures, render

SECTIONS = (
    "summary", "weeks", "days", "time", "years", "sizes", "map", "metrics", "classifiers", "tasks", "audit", "roc",
    "facts", "sources", "limits",
)  # fmt: skip


def judged(values, step_seconds=14_400, unit="kWh/h", start="2013-01-01", entity="e"):
    names = np.array([f"{entity}{row}" for row in range(len(values))])
    starts = np.full(len(values), np.datetime64(start, "s"))
    return Judged(values=values, entities=names, starts=starts, step_seconds=step_seconds, unit=unit)


def noise(shape, seed=0, **kind):
    rng = np.random.default_rng(seed)
    thirds = [rng.gamma(2.0, 1.0, shape).astype(np.float32) for _ in range(3)]
    return Pictures(*(judged(part, entity=name, **kind) for part, name in zip(thirds, "abc", strict=True)))


def check(name, value, high, threshold, passed, attack="membership", needed=None, stratum="all"):
    return {
        "attack": attack, "name": name, "stratum": stratum, "value": value, "low": 0.0, "high": high,
        "threshold": threshold, "passed": passed, "needed_entities": needed, "explains": f"Explains {name}.",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    homes = simulate(90)
    return Pictures(*(judged(part, homes.step_seconds, homes.unit) for part in np.split(homes.values, 3)))


@pytest.fixture(scope="module")
def evaluation():
    def metric(name, ratio, low=0.9, high=1.5, family="size", **more):
        return {
            "family": family, "name": name, "distance": 0.1 * ratio, "floor": 0.1, "ratio": ratio, "low": low,
            "high": high, "unit": "real spread", "sees": f"sees {name}", "blind_to": f"blind {name}",
            "in_headline": family == "size", **more,
        }  # fmt: skip

    sizes = {"series": 30, "entities": 30, "set_aside_empty": 1, "constant": 2, "missing_share": 0.25}
    rng = np.random.default_rng(0)
    embedding = {name: rng.normal(size=(400, 2)).tolist() for name in ("train", "holdout", "synthetic")}
    return {
        "embedding": embedding | {"explained": [0.5, 0.123]},
        "headline": {"value": 1.234, "low": 1.1, "high": 1.4, "metrics": 3},
        "metrics": [
            metric("middling", 1.5),
            metric("best", 0.02),
            metric("worst", 40.0, None, None),
            metric("boosting on features", 2.0, family="classifier", auc=0.75, auc_floor=0.5),
            metric("day ahead, ridge", 1.1, family="utility", naive=0.4, beats_naive=True, ratio_noise=0.05),
            metric("day ahead, network", 1.2, family="utility", naive=0.05, beats_naive=False, ratio_noise=0.05),
        ],
        "sizes": {"train": sizes, "holdout": sizes, "synthetic": sizes, "compared": 30},
        "seed": 7,
    }


@pytest.fixture(scope="module")
def audit():
    sizes = {"series": 30, "entities": 30, "set_aside_empty": 0, "set_aside_constant": 0, "audited_entities": 30}
    return {
        "verdict": "UNPROVEN",
        "reasons": ["first reason <tag>", "second reason", "third reason"],
        "checks": [
            check("literal copies", 0.0, 0.015, 0.0, True, attack="copying"),
            check("near-copies", 0.0, 0.01, 0.001, None, attack="copying", needed=3102),
            check("AUC", 0.46, 0.51, 0.55, True),
            check("true positive rate", 0.3, 0.4, 0.02, False, stratum="the oddest 5 % of targets"),
            check("lower bound of epsilon", 2.5, 2.5, 1.0, False, attack="canaries") | {"informs": True},
        ],
        "self_test": {"planted": 20, "found": 19, "holdout_as_synthetic": "clean"},
        "sizes": {"train": sizes, "holdout": sizes, "synthetic": sizes},
        "thresholds": {"fpr": 0.01, "tpr": 0.02},
        "curves": {"roc": {"fpr": [0.0, 0.001, 0.01, 0.1, 1.0], "tpr": [0.0, 0.0, 0.03, 0.2, 1.0], "attacks": ["raw"]}},
        "seed": 3,
    }


@pytest.fixture(scope="module")
def arguments(pictures, evaluation, audit):
    return {
        "title": "Trial <b>one</b>",
        "evaluation": evaluation,
        "audit": audit | {"attempts": [{"seed": 0, "verdict": "FAIL"}, {"seed": 1, "by": "<i>me</i>"}]},
        "pictures": pictures,
        "facts": [("households & more", "5000"), ("recipe", "<script>alert(1)</script>")],
        "first_line": 'Accepted without "proof" <now>.',
        "simulated": True,
    }


@pytest.fixture(scope="module")
def page(arguments):
    return render(**arguments)


class Reader(HTMLParser):
    """Collects tags, words outside pictures and styles, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "br", "hr", "img"})

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"svg", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_every_section_is_there_and_is_named_by_its_heading(page):
    tags = Reader(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert set(SECTIONS) <= set(ids)
    assert len(ids) == len(set(ids))
    assert all(attributes["aria-labelledby"] in ids for tag, attributes in tags if tag == "section")
    assert {"main", "nav", "header", "footer"} <= {tag for tag, _ in tags}
    assert ("html", {"lang": "en"}) in tags
    assert next(attributes["href"] for tag, attributes in tags if tag == "a") == "#main"


def test_every_picture_has_a_caption_and_a_text_in_its_place(page):
    labels = [attributes["aria-label"] for tag, attributes in Reader(page).tags if tag == "svg"]
    assert len(labels) == page.count("<figcaption>") == 4 + 6 + 3 + 3 + 6 + 3 + 2
    assert all(len(label) > 40 and re.search(r"\d", label) for label in labels)
    assert page.count('<svg viewBox="0 0 ') == page.count('role="img" aria-label="') - page.count('<span class="bar ')


def test_text_from_outside_is_escaped(page):
    tags = [tag for tag, _ in Reader(page).tags]
    assert not {"b", "i", "script", "now", "tag"} & set(tags)
    for text in ("Trial &lt;b&gt;one&lt;/b&gt;", "households &amp; more", "&lt;script&gt;", "first reason &lt;tag&gt;"):
        assert text in page
    assert "Accepted without &#34;proof&#34; &lt;now&gt;." in page


def test_nothing_is_loaded_and_nothing_runs(page):
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "<script" not in page
    assert not re.search(r'<[^>]+ on[a-z]+="', page)


def test_the_page_is_small_and_the_same_again(page, arguments):
    assert len(page.encode()) < 1_500_000
    assert render(**arguments) == page


def test_verdict_first_line_and_label_stand_at_the_top(page):
    text = Reader(page[page.index("<body>") : page.index("</html>")]).text
    words = (
        "Accepted without",
        "Trial <b>",
        "simulated data",
        "UNPROVEN",
        "first reason",
        "1.23",
        "Membership",
        "weeks",
    )
    order = [text.index(word) for word in words]
    assert order == sorted(order)
    assert 'class="card verdict unproven"' in page
    assert "Audit number 2 of this run" in text
    assert "About 3,102 synthetic series would settle what is open." in text


def test_checks_are_written_with_value_bound_limit_and_result(page):
    text = Reader(page).text
    assert "Explains near-copies. About 3,102 synthetic series would settle it." in text
    assert "19 of 20 copies of training series that were planted on purpose were found." in text
    table = page[page.index('id="audit"') : page.index('id="roc"')]
    rows = re.findall(r"<tr><th scope=\"row\">(?:Literal|Near|AUC|True|Lower).*?</tr>", table, flags=re.DOTALL)
    # worst attack first, worst check first; what informs only comes last
    assert [re.search(r'class="result (\w+)">(.*?)<', row).groups() for row in rows] == [
        ("fail", "✕ leak proven"),
        ("pass", "✓ below limit"),
        ("unproven", "? not proven"),
        ("pass", "✓ none found"),
        ("absent", "i for information"),
    ]
    assert "measured 0.460, upper bound 0.510, limit 0.550" in rows[1]
    assert "40\u202f%" in rows[0]
    assert "True positive rate, the oddest 5 % of targets" in rows[0]
    assert "measured 2.5, upper bound 2.5, limit 1" in rows[4]
    assert re.findall(r'<details class="group (\w+)"( open)?>', table) == [
        ("fail", " open"), ("unproven", ""), ("absent", ""),
    ]  # fmt: skip
    assert "2 checks: 1 not proven, 1 none found" in text


def test_metrics_come_by_family_worst_first_and_bars_stay_inside(page):
    section = page[page.index('id="metrics"') : page.index('id="classifiers"')]
    names = re.findall(r'<th scope="row"><span(?: class="out")?>(.*?)</span>', section)
    assert names == ["worst", "middling", "best", "boosting on features", "day ahead, network", "day ahead, ridge"]
    assert re.findall(r"<h3>(\w+)", section) == ["Size", "Classifier", "Utility"]
    assert section.count('class="out"') == 3
    assert section.count('class="dot beyond"') == 1
    assert "no interval" in section
    places = [float(place) for place in re.findall(r"left:([-\d.]+)%", page)]
    assert min(places) >= 0
    assert max(places) <= 100


def test_classifiers_and_learned_models_have_tables(page):
    table = page[page.index('id="classifiers"') : page.index('id="tasks"')]
    assert '<span class="mark" style="left:0.0%"></span><span class="dot" style="left:50.0%">' in table
    table = page[page.index('id="tasks"') : page.index('id="audit"')]
    assert re.findall(r'<th scope="row">(.*?)<', table) == ["day ahead, network", "day ahead, ridge"]


def test_attempts_make_a_table_with_every_key(page):
    table = page[page.index('id="attempts"') : page.index('id="roc"')]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == ["Audit", "Seed", "Verdict", "By"]
    assert re.findall(r"<td>(.*?)</td>", table) == ["0", "FAIL", "", "1", "", "&lt;i&gt;me&lt;/i&gt;"]
    assert "is itself a leak" in page


def test_the_map_is_that_of_the_evaluation(page):
    section = page[page.index('id="map"') : page.index('id="metrics"')]
    assert "axis 2 (12 % of the spread)" in section
    assert "Map of 300 held out and 300 synthetic series" in section
    # 300 marks of each of two sets in three maps
    assert 1800 <= section.count("<use ") < 1900


def test_parts_that_were_not_run_say_so_and_single_real_series_can_be_left_out(pictures):
    page = render(title="t", evaluation=None, audit=None, pictures=pictures, facts=[], show_real=False)
    text = Reader(page).text
    assert "NOT AUDITED" in text
    assert text.count("The privacy audit has not been run") == 2
    assert text.count("The comparison with real series has not been run") == 2
    assert "simulated data" not in text
    assert 'class="first-line"' not in page
    assert "Real, held out" not in page
    assert "Synthetic weeks" in text
    assert page.count("Synthetic, week of") == 4
    assert 'id="map"' not in page
    assert "axis 1" not in page
    assert "real steps of fewer than 5 series are left out" in text
    assert "as confidential as they are" not in text


def test_single_real_series_are_in_no_picture_of_a_page_to_be_given_away(pictures):
    odd = pictures.holdout.values.copy()
    odd[0] *= 1000
    changed = replace(pictures, holdout=replace(pictures.holdout, values=odd))
    shown = [[*gallery.weeks(), *gallery.years()] for gallery in (Gallery(changed, False), Gallery(pictures, False))]
    assert shown[0] == shown[1]
    assert not any("Real" in panel.title + panel.alt + panel.svg for panel in shown[0])
    assert any("Real" in panel.svg for panel in Gallery(pictures).weeks())


def test_a_proven_leak_without_evaluation(audit):
    page = render(title="t", evaluation=None, audit=audit | {"verdict": "FAIL"}, pictures=noise((4, 1, 60)), facts=[])
    text = Reader(page).text
    assert "must not be released" in text
    assert 'class="card verdict fail"' in page
    assert "privacy audit has not" not in text
    assert "comparison with real series has not been run" in text
    assert 'id="attempts"' not in page
    assert 'id="classifiers"' not in page
    assert "as confidential as they are" in text


def test_a_pass_beside_a_headline_without_interval_and_below_one(audit, evaluation):
    headline = {"value": 0.5, "low": None, "high": None, "metrics": 3}
    passed = audit | {"verdict": "PASS", "reasons": ["all 4 checks are below their limits"]}
    judged_by = {"evaluation": evaluation | {"headline": headline}, "audit": passed}
    page = render(title="t", **judged_by, pictures=noise((4, 1, 60)), facts=[], show_real=False)
    text = Reader(page).text
    assert 'class="card verdict pass"' in page
    assert "None of the attacks that were made gains more than its limit" in text
    assert "more reason" not in text
    assert "no interval computed" in text
    assert "look for copies" in text


def test_an_audit_that_ended_early_is_reported(audit):
    early = audit | {
        "verdict": "INVALID", "reasons": ["train has 3 entities"], "checks": [],
        "self_test": {"planted": 0, "found": 0, "holdout_as_synthetic": "not run"},
        "curves": {"roc": {"fpr": [], "tpr": [], "attacks": []}},
    }  # fmt: skip
    page = render(title="t", evaluation=None, audit=early, pictures=noise((4, 1, 60)), facts=[], show_real=False)
    text = Reader(page).text
    assert 'class="card verdict invalid"' in page
    assert "nothing is known about privacy" in text
    assert text.count("The audit ended before the attacks") == 2
    assert "The self-test has not been run" in text
    assert "Can members be recognised?" not in text
    assert 'href="#roc"' not in page


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((5, 1, 200), {"step_seconds": 7000, "unit": '<i>$x_1$ & "y"'}),
        ((5, 2, 24 * 40), {"step_seconds": 3600, "start": "2024-02-29T05:00:00", "unit": "°C"}),
        ((1, 1, 12), {"step_seconds": 1800, "unit": ""}),
    ],
    ids=["no clock, unit like markup", "two channels from 5 h", "one series of six hours"],
)
def test_any_length_step_and_unit_can_be_drawn(shape, kind):
    page = render(title="t", evaluation=None, audit=None, pictures=noise(shape, **kind), facts=[])
    assert "i" not in [tag for tag, _ in Reader(page).tags]
    assert ("&lt;i&gt;$x_1$ &amp;" in page) == (kind.get("unit", "")[:1] == "<")
    assert ("the first of 2 channels only" in page) == (shape[1] == 2)
    assert_finite(page)


def assert_finite(page):
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"base64,[^\"]*", "", page))


@pytest.mark.parametrize("odd", ["mixed", "all zero"])
def test_odd_values_can_be_drawn(odd):
    real = noise((6, 1, 6 * 30))
    values = real.synthetic.values.copy()
    if odd == "mixed":
        values[0] = 1.0
        values[1] -= 3
        values[2, :, 10:] = np.nan
        values[3] = np.nan
        values[4, :, ::3] = np.nan
        values[5] *= 1e6
    else:
        values[:] = 0
    made = judged(values, entity="s")
    sets = (made, made, made) if odd == "all zero" else (real.train, real.holdout, made)
    assert_finite(render(title="t", evaluation=None, audit=None, pictures=Pictures(*sets), facts=[]))


def test_a_set_without_readings_is_refused():
    pictures = noise((4, 1, 60))
    empty = judged(np.full((4, 1, 60), np.nan, np.float32))
    with pytest.raises(DataError, match=r"pictures\.holdout has no series with readings"):
        Gallery(Pictures(pictures.train, empty, pictures.synthetic))
