"""Traps: synthetic sets that must not fool a good judge, judged by the evaluation and attacked by the audit.

   python tests/benchmarks/bench_traps.py --sets london-4h sample-4h
   python tests/benchmarks/bench_traps.py --sets sample-4h --households 5000 --ours
   pytest -m benchmark tests/benchmarks/bench_traps.py

Some sets are too good because they are stolen from the training series (copies, copies with noise, swapped weeks). Some
keep the means and lose what makes a household (one mean for all, hours shuffled between homes). Some come from honest
generators. One is what all of them aim at: other real households. Fidelity must rank the real households first among
all sets that are not stolen, and the audit must find the thefts. Every set has as many series as there are training
households, so that all rows are judged on equal numbers.

Each data set gives ``traps-SET-DATE`` in the results folder: .json (all figures), .md (medians over splits) and .png
(headlines, coloured by verdict). At the end each claim is printed as one JSON line ``{name, value, limit, ok}``; the
exit status is 1 if a claim does not hold.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from ladder import (
    OURS,
    REAL,
    Course,
    Ledger,
    Split,
    about_run,
    attack,
    data_file,
    data_folder,
    judge,
    load,
    markdown_table,
    ours,
    over_splits,
    parser_of,
    system_of,
    write,
)
from rivals import (
    copy_of_training,
    fill_gaps,
    gaussian_copula,
    hierarchical_copula,
    pca_mixture,
    swapped_weeks,
)

from ttsgan import recipes
from ttsgan.evaluation.judged import Judged

NOISE = 0.05
"""Spread of the noise of `noisy_copy`, in standard deviations of the series."""
MEMBERS = 5
VERDICTS = ("FAIL", "INVALID", "UNPROVEN", "PASS")
COLOURS = {"FAIL": "#c0392b", "INVALID": "#8e44ad", "UNPROVEN": "#e0a030", "PASS": "#2e8b57"}


def noisy_copy(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return the training series plus white noise of 5 % of each one's own spread; at least 0 where they are so."""
    filled = fill_gaps(values, step_seconds)[np.arange(count) % len(values)]
    noise = np.random.default_rng(seed).standard_normal(filled.shape)
    noisy = filled + NOISE * filled.std(axis=2, keepdims=True) * noise
    floor = np.where(filled.min(axis=(0, 2)) >= 0, 0, -np.inf)
    return np.maximum(noisy, floor[:, None]).astype(np.float32)


def collapsed_mean(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return the mean of the training series for everybody."""
    return np.repeat(fill_gaps(values, step_seconds).mean(axis=0, keepdims=True), count, axis=0).astype(np.float32)


def shuffled_hours(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Shuffle the readings of every step among the homes: each step keeps its distribution, no home its series."""
    filled = fill_gaps(values, step_seconds)[np.arange(count) % len(values)]
    return np.random.default_rng(seed).permuted(filled, axis=0).astype(np.float32)


def small_centroids(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return means of groups of 5 series, the last one larger: microaggregation (MDAV; Domingo-Ferrer and Mateo-Sanz,
    IEEE TKDE 2002, in its simple form: the group of the series farthest from the centre comes first).
    """
    filled = fill_gaps(values, step_seconds)
    rows = np.log1p(np.abs(filled) / max(np.abs(filled).mean(), 1e-12)).reshape(len(filled), -1)
    left, means = np.arange(len(rows)), np.empty_like(filled)
    while len(left):
        distant = ((rows[left] - rows[left].mean(axis=0)) ** 2).sum(axis=1).argmax()
        near = ((rows[left] - rows[left[distant]]) ** 2).sum(axis=1).argsort(kind="stable")
        group = left[near[:MEMBERS]] if len(left) >= 2 * MEMBERS else left
        means[group] = filled[group].mean(axis=0)
        left = np.setdiff1d(left, group)
    return means[np.arange(count) % len(filled)].astype(np.float32)


LEAKS: dict[str, Callable] = {
    "copy of training": copy_of_training,
    "copy with 5 % noise": noisy_copy,
    "weeks swapped": swapped_weeks,
}
BROKEN: dict[str, Callable] = {
    "one mean for all": collapsed_mean,
    "hours shuffled between homes": shuffled_hours,
}
GENERATORS: dict[str, Callable] = {
    f"means of {MEMBERS} homes": small_centroids,
    "PCA and mixture": pca_mixture,
    "Gaussian copula": gaussian_copula,
    "hierarchical copula": hierarchical_copula,
}
KINDS: dict[str, str] = {REAL: "real"} | {
    name: kind
    for kind, systems in (("stolen", LEAKS), ("broken", BROKEN), ("generator", GENERATORS))
    for name in systems
}
"""Kind of every row by its name; this library's own is a generator."""


# ---- one set ----------------------------------------------------------------------------------------------------


def severity(check: dict[str, Any]) -> tuple[int, float]:
    """Order the checks of an audit: proven leaks above unproven ones above passed ones, then by their value."""
    return {False: 2, None: 1, True: 0}[check["passed"]], check["value"] or 0.0


def worst(checks: list[dict[str, Any]], attacks: Sequence[str], word: str = "") -> dict[str, Any] | None:
    """Return the worst check of the given attacks whose name contains ``word``, or None if there is none."""
    fitting = [check for check in checks if check["attack"] in attacks and word in check["name"].lower()]
    return max(fitting, key=severity, default=None)


def attacked(parts: Split, synthetic: Judged, seed: int) -> dict[str, Any]:
    """Return the attacks' findings on one set: the worst check of each kind, the attacks that prove a leak, verdict."""
    report = attack(parts, synthetic, seed)
    checks = report["checks"]
    # Copying checks for pieces of series have "pasted" in their name; the others search for whole series.
    pieces = [c for c in checks if c["attack"] == "fragments" or (c["attack"] == "copying" and "pasted" in c["name"])]
    found = {
        "membership_auc": worst(checks, ["membership"], "auc"),
        "copies": worst([c for c in checks if c not in pieces], ["copying"]),
        "pasted": worst(pieces, ["copying", "fragments"]),
        "linkage": worst(checks, ["linkage"]),
    }
    row = {}
    for name, check in found.items():
        row[name] = check["value"] if check else None
        row[f"{name}_upper"] = min(1.0, check["high"]) if check else None
    row["proven_by"] = sorted({c["attack"] for c in checks if c["passed"] is False})
    return row | {"verdict": report["verdict"], "reasons": report["reasons"]}


# ---- tables -----------------------------------------------------------------------------------------------------


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per system, the best headline first: medians over splits, verdicts of all of them."""
    figures = ["headline", "low", "high", "recall"]
    figures += [name + end for name in ("membership_auc", "copies", "pasted", "linkage") for end in ("", "_upper")]
    table = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]

        def middle(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return statistics.median(known) if known else None

        entry = {"system": system, "kind": own[0]["kind"]}
        entry |= {name: middle([row[name] for row in own]) for name in figures}
        entry["classifiers"] = {
            name: middle([row["classifiers"][name] for row in own]) for name in own[0]["classifiers"]
        }
        entry["verdicts"] = sorted({row["verdict"] for row in own}, key=VERDICTS.index)
        entry["proven_by"] = sorted({attack for row in own for attack in row["proven_by"]})
        table.append(entry)
    return sorted(table, key=lambda entry: entry["headline"])


def claims(table: list[dict[str, Any]], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what must hold on a set of data, each with its value and limit."""
    by_name = {entry["system"]: entry for entry in table}
    real = by_name[REAL]["headline"]
    # This project's generator may tie with the real households, and then chance decides which is first.
    rest = [
        entry["headline"] for entry in table if entry["kind"] in ("broken", "generator") and entry["system"] != OURS
    ]
    found = [
        {
            "name": f"headline of other real households is below that of all that is neither stolen nor {OURS}",
            "value": real, "limit": min(rest), "ok": real < min(rest),
        }
    ]  # fmt: skip
    for system in BROKEN:
        ratio = by_name[system]["headline"] / real
        found.append(
            {
                "name": f"headline of {system!r} over that of real households",
                "value": ratio,
                "limit": 3,
                "ok": ratio > 3,
            }
        )
    allowed = ["FAIL"] if about["set"].startswith("sample") else ["FAIL", "UNPROVEN"]
    for system in LEAKS:
        verdicts = by_name[system]["verdicts"]
        found.append(
            {
                "name": f"verdict on {system!r}", "value": ", ".join(verdicts), "limit": " or ".join(allowed),
                "ok": set(verdicts) <= set(allowed),
            }
        )  # fmt: skip
    return [claim | {"name": f"{about['set']}: {claim['name']}"} for claim in found]


def markdown(table: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the table with the text that explains it."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.3g} %"

    def bounded(entry: dict[str, Any], name: str) -> str:
        value, upper = entry[name], entry[f"{name}_upper"]
        return number(value) if upper is None else f"{number(value)} (≤ {number(upper)})"

    classifiers = list(table[0]["classifiers"])
    heads = ["set", "kind", "headline", *classifiers, "recall", "membership AUC", "copies", "pasted", "linkage risk"]
    lines = [
        f"# Traps, {about['set']}, {about['date']}",
        "",
        f"{about['households']} training households, as many held out and as many other real ones, {about['length']} "
        f"steps, {about['splits']} split(s), medians over splits. Machine: {about['hardware']}.",
        "",
        "Headline (95 % interval): geometric mean of distances to the holdout over those between two samples of real "
        "households; 1 is as close as other real households. Accuracy - 0.5: a classifier, synthetic against real. "
        "Membership AUC and linkage risk (upper bounds): can members be told from others, does a known stretch lead to "
        "the rest of the year. Copies: share of the set that are training series or nearly so; pasted: share with "
        "pieces of training series; the worst check each. Proven by: attacks that prove a leak in some split.",
        "",
    ]
    rows = []
    for entry in table:
        interval = "" if entry["low"] is None else f" ({number(entry['low'])} to {number(entry['high'])})"
        cells = [
            entry["system"], entry["kind"], number(entry["headline"]) + interval,
            *(number(entry["classifiers"][name]) for name in classifiers), number(entry["recall"]),
            bounded(entry, "membership_auc"), percent(entry["copies"]), percent(entry["pasted"]),
            bounded(entry, "linkage"), ", ".join(entry["proven_by"]) or "-", ", ".join(entry["verdicts"]),
        ]  # fmt: skip
        rows.append(cells)
    return "\n".join([*lines, *markdown_table([*heads, "proven by", "verdicts"], rows)]) + "\n"


def draw(table: list[dict[str, Any]], about: dict[str, Any], where: Path) -> None:
    """Write the headlines with their intervals on a log axis, coloured by the worst verdict."""
    figure = Figure(figsize=(9, 0.42 * len(table) + 1.7), layout="constrained")
    axis = figure.subplots()
    for place, entry in enumerate(table):
        colour = COLOURS[entry["verdicts"][0]]
        axis.hlines(place, 1, entry["headline"], color=colour, linewidth=7, alpha=0.35)
        if entry["low"] is not None:
            axis.hlines(place, entry["low"], entry["high"], color="#333333", linewidth=1.2)
        axis.plot(entry["headline"], place, "o", color=colour, markersize=9)
        axis.annotate(
            f"{entry['headline']:.2f}", (max(entry["high"] or 0, entry["headline"]), place), xytext=(7, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.set_xscale("log")
    ticks = [
        t
        for t in (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20)
        if t <= 1.4 * max(e["high"] or e["headline"] for e in table)
    ]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.margins(x=0.09)
    axis.set_yticks(range(len(table)), [f"{entry['system']} ({entry['kind']})" for entry in table])
    axis.invert_yaxis()
    axis.set_xlabel("headline (log axis), 95 % interval; 1 = as close to the holdout as other real households")
    axis.set_title(f"{about['set']}: {about['households']} training households, {about['splits']} split(s)")
    shown = [verdict for verdict in VERDICTS if any(entry["verdicts"][0] == verdict for entry in table)]
    axis.legend(handles=[Patch(color=COLOURS[v], label=v) for v in shown], title="audit", loc="upper right")
    figure.savefig(where, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the traps with the command line's options, write the results, print tables and claims; return the status."""
    parser = parser_of(__doc__, ["london-4h", "sample-4h"])
    parser.add_argument("--splits", type=int, help="default: 3 of real households, 1 of the sample")
    parser.add_argument(
        "--households", type=int, help="in each of the three sets; default: a third of real ones, 2000 of the sample"
    )
    parser.add_argument("--ours", action="store_true", help=f"judge {OURS} as well")
    parser.add_argument("--bootstrap", type=int, default=200, help="resamplings behind the intervals")
    options = parser.parse_args(arguments)
    config = recipes.override(recipes.by_name(options.recipe), options.set) if options.ours else None
    systems = {name: system_of(system) for name, system in {**LEAKS, **BROKEN, **GENERATORS}.items()}
    if options.ours:
        systems[OURS] = ours(options.recipe, options.set)
    options.out.mkdir(parents=True, exist_ok=True)
    held: list[dict[str, Any]] = []
    for name in options.sets:
        simulated = name.startswith("sample")
        households = load(name, data_folder(options.data), options.seed, 3 * (options.households or 2000))
        most = len(np.unique(households.entities)) // 3
        size = options.households or most
        if size > most:
            sys.exit(f"--households is {size}; at most {most} leave a third real set")
        course = Course(options.splits or (1 if simulated else 3), size, 1, options.seed)

        def figures_of(parts: Split, synthetic: Judged, system: str, seed: int = options.seed) -> dict[str, Any]:
            kind = {"kind": KINDS.get(system, "generator")}
            return kind | judge(parts, synthetic, seed, options.bootstrap) | attacked(parts, synthetic, seed)

        ledger = Ledger(options.out / f"traps-{name}.jsonl", options.any_code)
        keys = {"": {"bootstrap": options.bootstrap}, OURS: [options.recipe, *options.set]}
        rows = over_splits(households, systems, course, figures_of, ledger, draws=1, keys=keys)
        about = about_run(name, households, course, config)
        table = medians(rows)
        found = claims(table, about)
        held += found
        stem = options.out / f"traps-{name}-{about['date']}"
        write(stem, {"about": about, "claims": found, "medians": table, "rows": rows}, markdown(table, about))
        draw(table, about, stem.with_suffix(".png"))
    for claim in held:
        print(json.dumps(claim))
    return 0 if all(claim["ok"] for claim in held) else 1


@pytest.mark.benchmark
def test_the_judge_is_not_fooled_on_london(tmp_path):
    if not data_file("london-4h", data_folder(None)).exists():
        pytest.skip("the series of London are not there; set TTSGAN_DATA to their folder")
    assert main(["--sets", "london-4h", "--bootstrap", "0", "--out", str(tmp_path)]) == 0


if __name__ == "__main__":
    sys.exit(main())
