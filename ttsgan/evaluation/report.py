"""The report: one self-contained HTML file with the verdict, the figures of evaluation and audit, and pictures.

This module assembles the page. `figures` and `charts` draw; `tables` turns the results into rows, words and bar
positions; ``report.html.j2`` is the page, ``report_parts.html.j2`` its repeated parts, ``report_style.html.j2`` its
style.
"""

from functools import cache

import jinja2

from ttsgan.evaluation import tables
from ttsgan.evaluation.charts import map_of_series, roc
from ttsgan.evaluation.figures import FEWEST, Gallery, Pictures

__all__ = ["Pictures", "render"]

_VERDICTS = {
    "PASS": ("pass", "\u2713", "None of the attacks that were made gains more than its limit allows."),
    "UNPROVEN": ("unproven", "?", "No leak is proven, but none is ruled out: at least one bound is above its limit."),
    "INVALID": ("invalid", "!", "A control or the self-test did not work, so nothing is known about privacy."),
    "FAIL": ("fail", "\u2715", "A leak is proven. These series must not be released."),
    None: ("absent", "\u2013", "The privacy audit has not been run. Nothing is known about leaks."),
}


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


def _size_rows(evaluation: dict | None, audit: dict | None) -> list[tuple[str, str]]:
    """Return the sizes of the sets and the seeds as rows (name, value) of the table of facts."""
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
    """Return the report as one HTML document without scripts and without external requests.

    Parameters
    ----------
    title : str
        Heading of the page.
    evaluation : dict or None
        Output of `fidelity.evaluate`; with None the page says that it has not been run. Its ``embedding`` is the map of
        series.
    audit : dict or None
        Output of `privacy.audit`; with None the page says that it has not been run. A key ``attempts`` (list of dict
        or str), all audits of the same run so far, is shown as a table.
    pictures : Pictures
        Samples that the figures are drawn from.
    facts : list of (str, str)
        Further rows of the table of facts, name and value.
    first_line : str
        Sentence in a box at the very top; empty for none.
    simulated : bool
        Whether the real side is simulated data; labels the page.
    show_real : bool
        Whether single real series may be shown (weeks, heat maps, map); False for a page that is passed on.

    Returns
    -------
    str
        HTML, deterministic, a few hundred kB to about 1 MB. All text from outside is escaped.

    Raises
    ------
    DataError
        If a set of pictures has no series with readings.
    """
    gallery = Gallery(pictures, show_real)
    panels = gallery.panels()
    if show_real and evaluation and "embedding" in evaluation:
        panels["map"] = map_of_series(evaluation["embedding"])
    panels["roc"] = roc(audit) if audit else []
    verdict = audit["verdict"] if audit else None
    verdict_class, icon, meaning = _VERDICTS[verdict]
    context = {
        "title": title, "first_line": first_line, "simulated": simulated, "show_real": show_real, "facts": facts,
        "verdict": {"word": verdict or "NOT AUDITED", "class": verdict_class, "icon": icon, "meaning": meaning},
        "evaluation": None, "audit": None, "panels": {key: value for key, value in panels.items() if value},
        "sizes": _size_rows(evaluation, audit), "num_channels": pictures.holdout.values.shape[1],
        "drawn": {name: len(judged) for name, judged in gallery.shown.items()}, "fewest": FEWEST,
        "series": f"{gallery.length:,} steps of {_duration(pictures.holdout.step_seconds)}, in {gallery.unit}",
    }  # fmt: skip
    if evaluation:
        metrics = evaluation["metrics"]
        context["evaluation"] = {
            "headline": tables.headline(evaluation), "families": tables.metric_families(metrics),
            "classifiers": tables.classifier_rows(metrics), "tasks": tables.utility_rows(metrics),
            "marks": tables.ratio_marks(),
        }  # fmt: skip
    if audit:
        context["audit"] = {
            "reasons": audit["reasons"],
            "groups": tables.check_groups(audit["checks"]), "needs": tables.open_needs(audit["checks"]),
            "self_test": _self_test(audit), "attempts": tables.attempts(audit),
        }  # fmt: skip
    return _template().render(context)


def _duration(seconds: int) -> str:
    """Write a step in its largest whole unit."""
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"{seconds // size} {word}{'s' if seconds > size else ''}"
    return f"{seconds} second{'s' if seconds > 1 else ''}"
