"""Tables of the report: metrics, checks and attempts as words and bar positions.

A *place* is the position of a mark on its bar, in percent of the bar's width.
"""

import json
import math
from itertools import groupby

from ttsgan.evaluation.gate import PER_SERIES

__all__ = [
    "attempts",
    "check_groups",
    "classifier_rows",
    "headline",
    "interval",
    "metric_families",
    "number",
    "open_needs",
    "ratio_marks",
    "utility_rows",
]

RESULTS = {
    True: ("pass", "\u2713", "below limit"),
    None: ("unproven", "?", "not proven"),
    False: ("fail", "\u2715", "leak proven"),
}
ATTACKS = {
    "copying": "whole series repeated",
    "fragments": "days or weeks repeated",
    "membership": "who was in training",
    "linkage": "known weeks find the rest",
    "inference": "level, peak and emptiest week guessed",
    "conditions": "how groups were formed",
    "canaries": "planted oddities found",
}
NO_SHARES = ("epsilon", "entities missing", "further conditions")
"""Words in the names of checks whose values are plain numbers, not shares."""
FAMILIES = {
    "marginal": "which readings occur",
    "day": "the course of a day",
    "size": "how large series are",
    "defects": "zeros, frozen stretches, seams",
    "dynamics": "how readings follow each other",
    "calendar": "week and season",
    "diversity": "how series differ from each other",
    "neighbours": "holes and islands among series",
    "classifier": "can the two be told apart",
    "utility": "models learned from synthetic series",
}
RATIO_ENDS = (0.5, 16.0)
RATIO_MARKS = (1, 2, 4, 8, 16)
NEVER = 97.0
"""Place of a finding where none is allowed."""


def number(value: float | None) -> str:
    """Write a number with about three significant digits; None becomes a dash."""
    if value is None:
        return "\u2013"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-4):
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(low: float | None, high: float | None) -> str:
    """Write an interval."""
    return "no interval" if low is None or high is None else f"{number(low)} to {number(high)}"


def _place(value: float, low: float, high: float) -> float:
    return round(min(100.0, max(0.0, 100 * (value - low) / (high - low))), 2)


def _ratio_place(value: float, ends: tuple[float, float] = RATIO_ENDS) -> float:
    return _place(math.log(max(value, 1e-9)), math.log(ends[0]), math.log(ends[1]))


def _ratio_bar(metric: dict, ends: tuple[float, float] = RATIO_ENDS) -> dict:
    """Place a ratio, its interval and 1 on a log-scale bar; all are clipped at its ends, a ratio above it is marked."""
    value, low, high = metric["ratio"], metric["low"], metric["high"]
    one, at = _ratio_place(1.0, ends), _ratio_place(value, ends)
    known = low is not None and high is not None
    return {
        "one": one, "value": at, "from": min(one, at), "to": max(one, at), "beyond": value > ends[1],
        "low": _ratio_place(low, ends) if known else at, "high": _ratio_place(high, ends) if known else at,
    }  # fmt: skip


def ratio_marks() -> list[tuple[float, float]]:
    """Return the tick values of the axis that all ratio bars share, each with its place."""
    return [(mark, _ratio_place(mark)) for mark in RATIO_MARKS]


def headline(evaluation: dict) -> dict:
    """Return the headline ratio as a number, a bar with its marks, and a sentence."""
    result = evaluation["headline"]
    value, low, high = result["value"], result["low"], result["high"]
    known = [x for x in (value, low, high) if x is not None]
    ends = min(0.5, *known), max(4.0, *known)
    if low is not None and low <= 1 <= high:
        sentence = "As close to unseen real series as another real sample is, within the interval."
    elif value <= 1:
        sentence = "Closer to unseen real series than another real sample is: look for copies in the audit."
    else:
        sentence = f"{number(value)} times as far from unseen real series as another real sample is."
    return {
        "value": f"{value:.2f}" if value < 100 else number(value),
        "interval": None if low is None else f"{low:.2f} to {high:.2f}",
        "metrics": result["metrics"], "sentence": sentence, "bar": _ratio_bar({**result, "ratio": value}, ends),
        "marks": [(m, _ratio_place(m, ends)) for m in (0.5, 1, 2, 4, 8, 16, 32, 64) if ends[0] <= m <= ends[1]],
    }  # fmt: skip


def metric_families(metrics: list[dict]) -> list[dict]:
    """Group metrics by family, in order of first occurrence, with the worst metric of each family first.

    Parameters
    ----------
    metrics : list of dict
        ``metrics`` of `fidelity.evaluate`.

    Returns
    -------
    list of dict
        ``name``, ``about`` and ``rows`` of each family.
    """
    order = list(dict.fromkeys(metric["family"] for metric in metrics))
    return [
        {
            "name": family[:1].upper() + family[1:], "about": FAMILIES.get(family, ""),
            "rows": [
                {
                    **{key: metric[key] for key in ("name", "unit", "sees", "blind_to", "in_headline")},
                    "distance": number(metric["distance"]), "floor": number(metric["floor"]),
                    "ratio": number(metric["ratio"]), "interval": interval(metric["low"], metric["high"]),
                    "bar": _ratio_bar(metric),
                }
                for metric in sorted(metrics, key=lambda metric: -metric["ratio"]) if metric["family"] == family
            ],
        }
        for family in order
    ]  # fmt: skip


def _of_family(metrics: list[dict], family: str) -> list[dict]:
    return sorted((m for m in metrics if m["family"] == family), key=lambda metric: -metric["ratio"])


def classifier_rows(metrics: list[dict]) -> list[dict]:
    """Return one row per classifier; its bar runs from an AUC of 0.5 to 1. Empty where no classifier gives an AUC."""
    return [
        {
            "name": metric["name"], "auc": f"{metric['auc']:.3f}", "floor": f"{metric['auc_floor']:.3f}",
            "ratio": number(metric["ratio"]), "interval": interval(metric["low"], metric["high"]),
            "bar": {"value": _place(metric["auc"], 0.5, 1), "floor": _place(metric["auc_floor"], 0.5, 1)},
        }
        for metric in _of_family(metrics, "classifier")
        if metric.get("auc") is not None and metric.get("auc_floor") is not None
    ]  # fmt: skip


def utility_rows(metrics: list[dict]) -> list[dict]:
    """Return one row per task and model, trained on synthetic series and, for comparison, on real ones.

    The noise of the ratio, a root mean square of logarithms, is converted to percent.
    """
    better = {True: ("pass", "\u2713 yes"), False: ("unproven", "\u2715 no")}

    def noise(value: float | None) -> str:
        return number(None) if value is None else f"\u00b1 {100 * math.expm1(value):.2g}\u202f%"

    return [
        {
            "name": metric["name"], "unit": metric["unit"], "distance": number(metric["distance"]),
            "floor": number(metric["floor"]), "naive": number(metric.get("naive")),
            "ratio": number(metric["ratio"]), "interval": interval(metric["low"], metric["high"]),
            "noise": noise(metric.get("ratio_noise")), "beats": better.get(metric.get("beats_naive"), ("", "\u2013")),
        }
        for metric in _of_family(metrics, "utility")
    ]  # fmt: skip


def _multiple(check: dict, key: str) -> float:
    """Return a value of a check in multiples of its limit; an AUC counts from the coin toss at 0.5."""
    start = 0.5 if "AUC" in check["name"] else 0.0
    value = 0.0 if check[key] is None else max(0.0, check[key] - start)
    limit = check["threshold"] - start
    return value / limit if limit > 0 else (math.inf if value > 0 else 0.0)


def _limit_place(multiple: float) -> float:
    """Place a multiple of a limit: 0 at the left end, the limit itself in the middle, larger values to its right."""
    return NEVER if math.isinf(multiple) else round(min(NEVER, 100 * multiple / (1 + multiple)), 2)


def _badness(check: dict) -> tuple[bool, int, float]:
    """Return the sort key of a check: whether it counts; proven leak, unproven or passed; bound over limit."""
    rank = {False: 2, None: 1, True: 0}[check["passed"]]
    bound = "value" if check["threshold"] == 0 else "high"
    return not check.get("informs", False), rank, _multiple(check, bound)


def _check_row(check: dict) -> dict:
    """Return one line of the audit as words and places."""
    none_allowed, informs = check["threshold"] == 0, check.get("informs", False)
    plain = any(word in check["name"] for word in NO_SHARES)

    def write(value: float | None) -> str:
        if value is None:
            return "\u2013"
        if "AUC" in check["name"]:
            return f"{value:.3f}"
        return number(value) if plain else f"{100 * value:.3g}\u202f%"

    result_class, icon, result = RESULTS[check["passed"]]
    if none_allowed and check["value"] == 0:
        result = "none found"
    if informs:
        result_class, icon, result = "absent", "i", "for information"
    value = _limit_place(_multiple(check, "value"))
    # an upper bound says nothing where a single case decides
    ends = (value, value) if none_allowed else (_limit_place(_multiple(check, key)) for key in ("low", "high"))
    needed = None if informs else check["needed_entities"]
    counted = "synthetic series" if check["attack"] in PER_SERIES else "entities"
    return {
        "name": check["name"][:1].upper() + check["name"][1:],
        "stratum": "" if check["stratum"] == "all" else check["stratum"], "explains": check["explains"],
        "value": write(check["value"]), "bound": "\u2013" if none_allowed else write(check["high"]),
        "limit": "none" if none_allowed else write(check["threshold"]),
        "class": result_class, "icon": icon, "result": result,
        "needed": f"About {needed:,} {counted} would settle it." if needed else "",
        "bar": dict(zip(("from", "to"), ends, strict=True)) | {"value": value},
    }  # fmt: skip


def check_groups(checks: list[dict]) -> list[dict]:
    """Group checks by attack, the worst attack first and its worst check first.

    Parameters
    ----------
    checks : list of dict
        ``checks`` of `privacy.audit`.

    Returns
    -------
    list of dict
        ``attack``, ``about``, ``counts`` (number of checks per result), ``worst`` (a row) and ``rows``. The explanation
        of a row is empty where it equals that of the row before.
    """
    by_attack: dict[str, list[dict]] = {}
    for check in sorted(checks, key=_badness, reverse=True):
        by_attack.setdefault(check["attack"], []).append(check)
    groups = []
    for attack, members in by_attack.items():
        rows = []
        for _, same in groupby(members, key=lambda check: check["explains"]):
            first, *others = [_check_row(check) for check in same]
            rows += [first, *(row | {"explains": ""} for row in others)]
        results = [row["result"] for row in rows]
        counts = ", ".join(f"{results.count(result)} {result}" for result in dict.fromkeys(results))
        groups.append(
            {
                "attack": attack[:1].upper() + attack[1:], "about": ATTACKS.get(attack, ""), "worst": rows[0],
                "counts": f"{len(rows)} check{'s' if len(rows) > 1 else ''}: {counts}", "rows": rows,
            }
        )  # fmt: skip
    return groups


def open_needs(checks: list[dict]) -> str:
    """Return how much data would settle all unproven checks; empty where there are none or no amount would do."""
    needs = {"synthetic series": 0, "entities each in training and held out": 0}
    in_series, in_entities = needs
    for check in checks:
        if check["passed"] is None and check["needed_entities"] and not check.get("informs", False):
            words = in_series if check["attack"] in PER_SERIES else in_entities
            needs[words] = max(needs[words], check["needed_entities"])
    known = [f"{need:,} {words}" for words, need in needs.items() if need]
    return f"About {' and '.join(known)} would settle what is open." if known else ""


def attempts(audit: dict) -> dict | None:
    """Return all audits of the same run so far as a table with one column per key; long fingerprints are shortened."""
    found = audit.get("attempts")
    if not found:
        return None
    rows = [attempt if isinstance(attempt, dict) else {"attempt": attempt} for attempt in found]
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(value: object) -> str:
        if isinstance(value, str):
            return value[:8] + "\u2026" if len(value) >= 32 and " " not in value else value
        if isinstance(value, float):
            return number(value)
        return "" if value is None else json.dumps(value, ensure_ascii=False)

    return {
        "columns": [str(column).replace("_", " ").capitalize() for column in columns],
        "rows": [[write(row.get(column)) for column in columns] for row in rows],
    }
