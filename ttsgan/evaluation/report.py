"""The report: one HTML file with the verdict, every number of evaluation and audit, and pictures; it loads nothing.

This module turns the two results into rows, words and positions of bars; `figures` draws, ``report.html.j2`` is the
page.
"""

from __future__ import annotations

import json
import math
from functools import cache

import jinja2

from ttsgan.evaluation.figures import Gallery, Pictures
from ttsgan.evaluation.panels import roc

__all__ = ["Pictures", "render"]

_VERDICTS = {
    "PASS": ("pass", "\u2713", "Every attack was tried, and none gains more than its limit allows."),
    "UNPROVEN": ("unproven", "?", "No leak was found, but the data are too few to rule one out."),
    "INVALID": ("invalid", "!", "A control or the self-test did not work, so nothing is known about privacy."),
    "FAIL": ("fail", "\u2715", "A leak is proven. These series must not be released."),
    None: ("absent", "\u2013", "The privacy audit has not been run. Nothing is known about leaks."),
}
_RESULTS = {
    True: ("pass", "\u2713 below limit"),
    None: ("unproven", "? not proven"),
    False: ("fail", "\u2715 leak proven"),
}


def _number(value: float | None) -> str:
    """Write three significant digits; a dash where there is no number."""
    if value is None:
        return "\u2013"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-4):
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _place(value: float, low: float, high: float) -> float:
    """Return where a value lies between two ends, in percent, cut at the ends."""
    return round(min(100.0, max(0.0, 100 * (value - low) / (high - low))), 2)


def _check_row(check: dict) -> dict:
    """Put one line of the audit into words; the bar runs from no gain to beyond the limit."""
    share = check["name"] != "AUC"
    none_allowed = check["threshold"] == 0

    def write(value: float) -> str:
        return f"{100 * value:.3g}\u202f%" if share else f"{value:.3f}"

    start = 0.0 if share else 0.5
    value, low, high, limit = (max(start, check[key]) for key in ("value", "low", "high", "threshold"))
    end = (
        max(0.01, 1.1 * value) if none_allowed else start + max(1.6 * (limit - start), 1.1 * (max(value, high) - start))
    )
    # an upper bound says nothing where a single case decides
    ends = (value, value) if none_allowed else (low, high)
    result_class, result = _RESULTS[check["passed"]]
    stratum = "" if check["stratum"] == "all" else check["stratum"]
    title = check["name"][:1].upper() + check["name"][1:] if share else "Area under the curve (AUC)"
    needed = check["needed_entities"]
    return {
        "attack": check["attack"], "name": check["name"], "title": title, "stratum": stratum,
        "explains": check["explains"],
        "value": write(check["value"]),
        "bound": "\u2013" if none_allowed else write(check["high"]),
        "limit": "none" if none_allowed else write(check["threshold"]),
        "class": result_class, "result": "\u2713 none found" if none_allowed and check["value"] == 0 else result,
        "needed": f"about {needed:,} entities would settle it" if needed else "",
        "bar": {
            "from": _place(ends[0], start, end), "to": _place(ends[1], start, end),
            "value": _place(value, start, end), "limit": _place(limit, start, end),
        },
    }  # fmt: skip


def _ratio_scale(ratios: list[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that holds 1 and all these ratios."""
    return min(0.5, *ratios, 1.0), max(4.0, *ratios)


def _ratio_bar(ratio: float, low: float | None, high: float | None, scale: tuple[float, float]) -> dict:
    ends = [math.log(end) for end in scale]

    def place(value: float) -> float:
        return _place(math.log(max(value, 1e-9)), *ends)

    known = low is not None and high is not None
    one, at = place(1.0), place(ratio)
    return {
        "one": one, "value": at, "from": min(one, at), "to": max(one, at),
        "low": place(low) if known else at, "high": place(high) if known else at,
    }  # fmt: skip


def _metric_rows(metrics: list[dict]) -> list[dict]:
    """Sort metrics worst first and write their numbers."""
    scale = (0.25, min(16.0, max(4.0, *(m["ratio"] for m in metrics))))
    return [
        {
            **{key: metric[key] for key in ("family", "name", "unit", "sees", "blind_to", "in_headline")},
            "distance": _number(metric["distance"]), "floor": _number(metric["floor"]),
            "ratio": _number(metric["ratio"]),
            "interval": _interval(metric["low"], metric["high"]),
            "bar": _ratio_bar(metric["ratio"], metric["low"], metric["high"], scale),
        }
        for metric in sorted(metrics, key=lambda m: -m["ratio"])
    ]  # fmt: skip


def _headline(evaluation: dict) -> dict:
    headline = evaluation["headline"]
    value, low, high = headline["value"], headline["low"], headline["high"]
    scale = _ratio_scale([x for x in (value, low, high) if x is not None])
    marks = [mark for mark in (0.5, 1, 2, 4, 8, 16, 32, 64) if scale[0] <= mark <= scale[1]]
    if low is not None and low <= 1 <= high:
        sentence = "Within the interval the synthetic set is as close to unseen real series as another real sample is."
    elif value <= 1:
        sentence = "Closer to unseen real series than another real sample is: look for copies in the audit."
    else:
        sentence = f"A distance to unseen real series is, on average, {_number(value)} times that between real samples."
    return {
        "value": f"{value:.2f}" if value < 100 else _number(value),
        "interval": None if low is None else f"{low:.2f} to {high:.2f}",
        "metrics": headline["metrics"], "sentence": sentence, "bar": _ratio_bar(value, low, high, scale),
        "marks": [(mark, _place(math.log(mark), math.log(scale[0]), math.log(scale[1]))) for mark in marks],
    }  # fmt: skip


def _self_test(result: dict) -> list[str]:
    test = result["self_test"]
    if test["planted"] == 0:
        return ["The self-test has not been run: the audit ended before it."]
    clean = {
        "clean": "Real held-out series put in the place of synthetic ones raised no alarm, as it must be.",
        "fails": "Real held-out series put in the place of synthetic ones raised an alarm; do not trust the audit.",
    }
    return [
        f"{test['found']} of {test['planted']} copies of training series that were planted on purpose were found.",
        clean.get(
            test["holdout_as_synthetic"],
            f"Held-out series in the place of synthetic ones: {test['holdout_as_synthetic']}.",
        ),
    ]


def _attempts(result: dict) -> dict | None:
    """Return earlier audits of the same run as a table with one column per key that occurs."""
    attempts = result.get("attempts")
    if not attempts:
        return None
    rows = [attempt if isinstance(attempt, dict) else {"attempt": attempt} for attempt in attempts]
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(value: object) -> str:
        if isinstance(value, float):
            return _number(value)
        return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)

    return {
        "columns": [str(column).replace("_", " ") for column in columns],
        "rows": [[write(row.get(column)) for column in columns] for row in rows],
    }


def _size_rows(evaluation: dict | None, audit: dict | None) -> list[tuple[str, str]]:
    """Return what was read, as facts."""
    rows = []
    words = {"train": "Training", "holdout": "Held out", "synthetic": "Synthetic"}
    for name, word in words.items():
        sizes = [result["sizes"][name] for result in (evaluation, audit) if result]
        if not sizes:
            continue
        text = f"{sizes[0]['series']:,} series of {sizes[0]['entities']:,} entities"
        if sizes[0]["set_aside_empty"]:
            text += f", {sizes[0]['set_aside_empty']:,} without any reading"
        constant = sizes[0].get("constant", sizes[0].get("set_aside_constant", 0))
        if constant:
            text += f", {constant:,} that never change"
        if sizes[0].get("missing_share"):
            text += f"; {100 * sizes[0]['missing_share']:.2g} % of readings missing"
        rows.append((word, text))
    if evaluation:
        rows.append(("Compared in each distance", f"{evaluation['sizes']['compared']:,} series a side"))
    for word, result in (("Seed of the evaluation", evaluation), ("Seed of the audit", audit)):
        if result:
            rows.append((word, str(result["seed"])))
    return rows


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ttsgan", "evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def render(
    *,
    title: str,
    evaluation: dict | None,
    audit: dict | None,
    pictures: Pictures,
    facts: list[tuple[str, str]],
    first_line: str = "",
    simulated: bool = False,
    show_real: bool = True,
) -> str:
    """Return the report as one HTML document without scripts and without any request to elsewhere.

    Parameters
    ----------
    title : str
        Heading of the page.
    evaluation : dict or None
        Output of `fidelity.evaluate`; None says on the page that it has not been run.
    audit : dict or None
        Output of `privacy.audit`; None likewise. A key ``attempts`` (list of dict or str) is shown as a table.
    pictures : Pictures
        Samples that the figures are drawn from.
    facts : list of (str, str)
        Further rows of the table of facts, name and value.
    first_line : str
        Sentence in a box at the very top; empty for none.
    simulated : bool
        Whether the real side is simulated data; labels the page.
    show_real : bool
        Whether single real series may be seen (weeks, heat maps, map); False for a page that is given away.

    Returns
    -------
    str
        HTML, the same for the same input, a few hundred kB to about 1 MB. All text from outside is escaped.

    Raises
    ------
    DataError
        If a set of pictures has no series with readings.
    """
    gallery = Gallery(pictures, show_real)
    panels = {**gallery.panels(), "roc": roc(audit) if audit else []}
    verdict = audit["verdict"] if audit else None
    verdict_class, icon, meaning = _VERDICTS[verdict]
    context = {
        "title": title, "first_line": first_line, "simulated": simulated, "show_real": show_real, "facts": facts,
        "verdict": {"word": verdict or "NOT AUDITED", "class": verdict_class, "icon": icon, "meaning": meaning},
        "evaluation": None, "audit": None, "panels": {key: value for key, value in panels.items() if value},
        "sizes": _size_rows(evaluation, audit), "num_channels": pictures.holdout.values.shape[1],
        "drawn": {name: len(judged) for name, judged in gallery.shown.items()},
        "series": f"{gallery.length:,} steps of {_duration(pictures.holdout.step_seconds)}, in {gallery.unit}",
    }  # fmt: skip
    if evaluation:
        context["evaluation"] = {"headline": _headline(evaluation), "metrics": _metric_rows(evaluation["metrics"])}
    if audit:
        context["audit"] = {
            "reasons": audit["reasons"], "checks": [_check_row(check) for check in audit["checks"]],
            "self_test": _self_test(audit), "attempts": _attempts(audit),
        }  # fmt: skip
    return _template().render(context)


def _duration(seconds: int) -> str:
    """Write a step in its largest whole unit."""
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"{seconds // size} {word}{'s' if seconds > size else ''}"
    return f"{seconds} second{'s' if seconds > 1 else ''}"
