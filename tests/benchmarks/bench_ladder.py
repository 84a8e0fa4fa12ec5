"""The ladder: every rival, and this library, judged on the same splits of the same households.

    python tests/benchmarks/bench_ladder.py --sets london-4h --splits 3 --audit
    python tests/benchmarks/bench_ladder.py --only "hierarchical copula" --ours --set training.max_series=2000
    pytest -m benchmark tests/benchmarks/bench_ladder.py

A split takes as many households for training as for the holdout. Generators draw four series for each training series,
so that the luck of one draw is small beside the differences between systems; `evaluate` compares samples of equal size
drawn from them. Attacks are run on as many series as were trained on. Where enough households are left, a third set of
real ones is judged as if it were synthetic: its headline is what a perfect generator would score on that split.

Every set of data gives ``ladder-SET-DATE`` in the results folder: .json (all figures), .md (table of medians over
splits) and .png (headlines).
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from rivals import RIVALS, copy_of_training, hierarchical_copula

from ttsgan import recipes
from ttsgan.api import TTSGAN
from ttsgan.config import DataConfig, PatchConfig
from ttsgan.data.prepare import prepare
from ttsgan.data.simulate import simulate
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
LONDON = "lcl_london_2013.parquet"
SETS = ("london-4h", "london-1h", "sample-4h", "sample-1h")
SAMPLE_HOUSEHOLDS = 900
DRAWS = 4
OURS, REAL, BAR = "ttsgan", "other real households", "hierarchical copula"
METRICS = {
    "boosting": ("boosting accuracy - 0.5", "distance"),
    "recall": ("recall (shortfall from 1)", "value"),
    "coverage": ("coverage (shortfall from 1)", "value"),
    "log_peak": ("log peak", "distance"),
    "load_factor": ("load factor", "distance"),
    "ramp": ("mean ramp", "distance"),
}
"""Columns of the table beside the headline: name of the metric in the evaluation, and which of its figures."""
COLUMNS = ("headline", *METRICS, "membership_auc", "cpu_seconds")


@dataclass(frozen=True)
class Split:
    """Households of one split; ``other`` is None where none are left for it."""

    train: Judged
    holdout: Judged
    other: Judged | None


def data_folder(given: str | None) -> Path:
    """Return the folder of the real series: as given, else of the environment, else beside the repository."""
    return Path(given or os.environ.get("TTSGAN_DATA") or ROOT.parent / "shared" / "data")


def load(name: str, folder: Path, seed: int) -> Judged:
    """Return the households of one of `SETS`."""
    source, step = name.split("-")
    if source == "sample":
        made = simulate(SAMPLE_HOUSEHOLDS, length=2190 if step == "4h" else 8760, seed=seed)
        return Judged(
            values=made.values, entities=made.ids, starts=made.starts, step_seconds=made.step_seconds, unit=made.unit
        )
    series, _ = prepare(DataConfig(source=(str(folder / LONDON),), step=step), None, PatchConfig())
    return Judged(
        values=series.values,
        entities=series.entities.astype(str),
        starts=series.starts,
        step_seconds=series.step_seconds,
        unit=series.unit,
    )


def split(households: Judged, size: int, seed: int) -> Split:
    """Choose ``size`` households for each side by chance; whoever is left makes the third set, if they are enough."""
    order = np.random.default_rng(seed).permutation(households.codes.max() + 1)
    rank = order.argsort()[households.codes]
    sides = [households.take((rank >= size * i) & (rank < size * (i + 1))) for i in range(2)]
    left = (rank >= 2 * size) & (rank < 3 * size)
    return Split(*sides, households.take(left) if left.sum() >= size else None)


def drawn(like: Judged, values: NDArray[np.float32]) -> Judged:
    """Return drawn series (m, C, L) as a set to judge; the i-th begins with the i-th of ``like``, over and over."""
    rows = np.arange(len(values)) % len(like)
    return Judged(
        values=values,
        entities=np.array([f"drawn-{i}" for i in range(len(values))]),
        starts=like.starts[rows],
        step_seconds=like.step_seconds,
        unit=like.unit,
    )


def judge(parts: Split, synthetic: Judged, seed: int, with_audit: bool) -> dict[str, Any]:
    """Return the figures of one synthetic set: headline, `METRICS`, verdict and membership AUC."""
    result = evaluate(parts.train, parts.holdout, synthetic, seed=seed, bootstrap=0)
    by_name = {metric["name"]: metric for metric in result["metrics"]}
    row = {"headline": result["headline"]["value"]}
    row |= {column: by_name[name][figure] for column, (name, figure) in METRICS.items()}
    row["ratios"] = {metric["name"]: round(metric["ratio"], 3) for metric in result["metrics"]}
    if with_audit:
        report = audit(
            parts.train, parts.holdout, synthetic.take(np.arange(len(synthetic)) < len(parts.train)), seed=seed
        )
        row["verdict"] = report["verdict"]
        row["membership_auc"] = next(
            (c["value"] for c in report["checks"] if c["attack"] == "membership" and c["name"] == "AUC"), None
        )
    return row


def fit_ours(overrides: Sequence[str], recipe: str) -> Callable[..., NDArray[np.float32]]:
    """Return the estimator with a recipe and overrides, in the form of a rival."""

    def fit_and_draw(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
        config = recipes.override(recipes.by_name(recipe), [f"seed={seed}", *overrides])
        return TTSGAN(config).fit(values, starts=starts, step_seconds=step_seconds).sample(count)

    return fit_and_draw


def climb(
    households: Judged, systems: dict[str, Callable], splits: int, size: int, seed: int, with_audit: bool
) -> list[dict[str, Any]]:
    """Fit, draw and judge every system on every split; one row of figures each, told as they come."""
    rows = []
    for number in range(splits):
        parts = split(households, size, seed + number)
        train = parts.train
        for name, fit_and_draw in systems.items():
            count = len(train) * (1 if fit_and_draw is copy_of_training else DRAWS)
            before, wall = time.process_time(), time.perf_counter()
            values = fit_and_draw(train.values, train.starts, train.step_seconds, count, seed + number)
            cost = {"cpu_seconds": time.process_time() - before, "wall_seconds": time.perf_counter() - wall}
            rows.append({"system": name, "split": number} | judge(parts, drawn(train, values), seed, with_audit) | cost)
            tell(rows[-1])
        if parts.other is not None:
            rows.append({"system": REAL, "split": number} | judge(parts, parts.other, seed, with_audit))
            tell(rows[-1])
    return rows


def tell(row: dict[str, Any]) -> None:
    print(f"  split {row['split']}: {row['system']:<30} headline {row['headline']:.2f}", file=sys.stderr, flush=True)


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per system, the best headline first: medians over splits, and what is not a median.

    ``paired`` is the geometric mean over splits of the headline over that of the bar on the same split, and
    ``paired_error`` its standard error: splits differ by more than good systems do, so compare by these.
    """
    table = []
    bar = {row["split"]: row["headline"] for row in rows if row["system"] == BAR}
    for name in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == name]
        known = {c: [row[c] for row in own if row.get(c) is not None] for c in COLUMNS}
        entry = {"system": name} | {c: statistics.median(values) if values else None for c, values in known.items()}
        entry |= {"low": min(known["headline"]), "high": max(known["headline"]), "paired": None, "paired_error": None}
        if bar:
            logs = np.log([row["headline"] / bar[row["split"]] for row in own])
            entry["paired"] = float(np.exp(logs.mean()))
            if len(logs) > 1:
                entry["paired_error"] = float(entry["paired"] * logs.std(ddof=1) / len(logs) ** 0.5)
        entry["verdicts"] = sorted({row["verdict"] for row in own if "verdict" in row})
        table.append(entry)
    return sorted(table, key=lambda entry: entry["headline"])


def markdown(table: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the table with what one must know to read it."""

    def cell(entry: dict[str, Any], column: str) -> str:
        value = entry[column]
        return "-" if value is None else f"{value:.1f}" if column == "cpu_seconds" else f"{value:.2f}"

    lines = [
        f"# Ladder, {about['set']}, {about['date']}",
        "",
        f"{about['households']} training households and as many held out, {about['length']} steps, {about['splits']} "
        f"split(s), medians over splits. Machine: {about['hardware']}.",
        "",
        "Headline: geometric mean of distances to the holdout over those between two samples of real households: 1 is "
        "as close as other real households, lower is not better. Boosting: accuracy - 0.5 of a classifier, synthetic "
        "against real. Log peak, load factor and ramp: distance in spreads of the real households. Paired: headline "
        f"over that of the {BAR} on the same split, with the standard error over splits.",
        "",
        "| system | headline | lowest to highest | paired | "
        + " | ".join(c.replace("_", " ").replace("cpu", "CPU").replace("auc", "AUC") for c in COLUMNS[1:])
        + " | verdicts |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for entry in table:
        spread = f"{entry['low']:.2f} to {entry['high']:.2f}"
        paired = cell(entry, "paired")
        if entry["paired_error"] is not None:
            paired += f" ± {cell(entry, 'paired_error')}"
        cells = [entry["system"], cell(entry, "headline"), spread, paired, *(cell(entry, c) for c in COLUMNS[1:])]
        lines.append("| " + " | ".join([*cells, ", ".join(entry["verdicts"]) or "-"]) + " |")
    return "\n".join(lines) + "\n"


def draw_bars(table: list[dict[str, Any]], about: dict[str, Any], where: Path) -> None:
    """Write a bar chart of the headlines, with their range over splits."""
    colours = {OURS: "#d95f02", REAL: "#9e9e9e", "training set itself": "#9e9e9e"}
    values = np.array([[e["headline"], e["headline"] - e["low"], e["high"] - e["headline"]] for e in table])
    figure = Figure(figsize=(8, 0.45 * len(table) + 1.4), layout="constrained")
    axis = figure.subplots()
    axis.barh(
        [entry["system"] for entry in table], values[:, 0], xerr=values[:, 1:].T, ecolor="#555555",
        color=[colours.get(entry["system"], "#1b6ca8") for entry in table],
    )  # fmt: skip
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.invert_yaxis()
    axis.set_xlabel("headline: 1 (dashed) = as close to the holdout as other real households")
    axis.set_title(f"{about['set']}, {about['households']} training households, {about['splits']} split(s)")
    figure.savefig(where, dpi=110)


def hardware() -> str:
    """Return the machine in words, without any name of it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    graphics = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores} cores, {graphics}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ladder as the command line says, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["london-4h"])
    parser.add_argument(
        "--data", help=f"folder of {LONDON}; default: TTSGAN_DATA, or shared/data beside the repository"
    )
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--households", type=int, help="on each side; default: 100 of London, 300 of the sample")
    parser.add_argument("--only", nargs="*", choices=list(RIVALS), default=list(RIVALS), help="rivals to run")
    parser.add_argument("--ours", action="store_true", help=f"run {OURS} as well")
    parser.add_argument("--recipe", choices=list(recipes.RECIPES), default="quick")
    parser.add_argument("--set", nargs="+", default=[], metavar="A.B=C", help=f"overrides of the recipe of {OURS}")
    parser.add_argument("--audit", action="store_true", help="attack every synthetic set: verdict and membership AUC")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    systems: dict[str, Callable] = {name: RIVALS[name] for name in options.only}
    if options.ours:
        systems[OURS] = fit_ours(options.set, options.recipe)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        households = load(name, data_folder(options.data), options.seed)
        size = options.households or (100 if name.startswith("london") else 300)
        rows = climb(households, systems, options.splits, size, options.seed, options.audit)
        about = {
            "set": name,
            "date": datetime.date.today().isoformat(),
            "hardware": hardware(),
            "households": size,
            "length": households.values.shape[2],
            "splits": options.splits,
            "seed": options.seed,
            "ours": {"recipe": options.recipe, "overrides": options.set} if options.ours else None,
        }
        table = medians(rows)
        text = markdown(table, about)
        print(text)
        stem = options.out / f"ladder-{name}-{about['date']}"
        stem.with_suffix(".json").write_text(
            json.dumps({"about": about, "medians": table, "rows": rows}, indent=1) + "\n"
        )
        stem.with_suffix(".md").write_text(text)
        draw_bars(table, about, stem.with_suffix(".png"))


@pytest.mark.benchmark
def test_order_of_the_rivals(tmp_path):
    """On real households the hierarchical copulas lead the simple rivals, and whoever copies is caught."""
    if not (data_folder(None) / LONDON).exists():
        pytest.skip(f"{LONDON} is not there; set TTSGAN_DATA to its folder")
    main(["--sets", "london-4h", "--splits", "2", "--audit", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    by_system = {entry["system"]: entry for entry in json.loads(path.read_text())["medians"]}
    headline = {name: entry["headline"] for name, entry in by_system.items()}
    assert headline["training set itself"] < min(headline[name] for name in headline if name != "training set itself")
    simple = ("k-means centroids", "PCA and mixture", "weeks swapped", "Gaussian copula")
    assert max(headline["hierarchical copula"], headline["hierarchical copula in groups"]) < min(
        headline[n] for n in simple
    )
    for thief in ("training set itself", "weeks swapped"):
        assert by_system[thief]["verdicts"] == ["FAIL"]
    assert "FAIL" not in by_system["hierarchical copula"]["verdicts"]


@pytest.mark.benchmark
def test_hierarchical_copula_costs_seconds():
    """The bar to beat costs about a second for 300 households of 2,190 steps; 20 CPU-seconds would be a regression."""
    households = load("sample-4h", Path(), 0).take(np.arange(300))
    before = time.process_time()
    hierarchical_copula(households.values, households.starts, households.step_seconds, 300, 0)
    assert time.process_time() - before < 20


if __name__ == "__main__":
    main()
