"""Shared code of the generator benchmarks: sets of households, splits, systems, the judge, and paired comparisons.

A split takes as many households for training as for the holdout; the remaining ones make a third set if they are
enough. A system is a function ``(train, count, seed)`` that fits on a set and returns ``count`` drawn series as a set.
"""

import argparse
import datetime
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quantities import QUANTITIES, four_hours
from rivals import Rival
from scipy.stats import t as student

import ttsgan
from ttsgan import recipes
from ttsgan.api import TTSGAN
from ttsgan.clustering import allocate
from ttsgan.config import DataConfig, RunConfig
from ttsgan.data.prepare import prepare
from ttsgan.data.simulate import simulate
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit
from ttsgan.synthesis import make_plan

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
FILES = {"london": ("lcl_london_2013.parquet", "entity"), "cambridge": ("ucam_electricity.parquet", "meter_group")}
"""File of each set of real series, and its column that names the owner of a series."""
SETS = ("london-4h", "london-1h", "cambridge-4h", "sample-4h", "sample-1h", *(f"{name}-4h" for name in QUANTITIES))
SAMPLE_HOUSEHOLDS, LARGEST_SIDE = 900, 300
DRAWS = 1
"""Series drawn for each training series; one, as in a run by default."""
OURS, REAL = "ttsgan", "other real households"
BARS = ("hierarchical copula", "hierarchical copula in groups")
"""The better of these systems is the bar to beat."""
FIGURES = {
    "boosting": ("boosting accuracy - 0.5", "distance"),
    "convolution": ("convolution accuracy - 0.5", "distance"),
    "recall": ("recall (shortfall from 1)", "value"),
    "coverage": ("coverage (shortfall from 1)", "value"),
    "forecast_ridge": ("day ahead, ridge", "ratio"),
    "forecast_mlp": ("day ahead, MLP", "ratio"),
    "log_peak": ("log peak", "distance"),
    "load_factor": ("load factor", "distance"),
    "ramp": ("mean ramp", "distance"),
}
"""Figures beside the headline: name of the metric in the evaluation, and which of its values."""
SEED_STRIDE = 1000
"""Distance between the seeds of two fits of a system on one split; the seeds of splits are consecutive."""

System = Callable[[Judged, int, int], Judged]


# ---- households ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """Households of one split; ``other`` is None where none are left for it."""

    train: Judged
    holdout: Judged
    other: Judged | None


def data_folder(given: str | None) -> Path:
    """Return the folder of the real series: as given, else from the environment, else beside the repository."""
    return Path(given or os.environ.get("TTSGAN_DATA") or ROOT.parent / "shared" / "data")


def data_file(name: str, folder: Path) -> Path | None:
    """Return the file of one of `SETS`, or None for a simulated one."""
    source = name.split("-")[0]
    return folder / FILES[source][0] if source in FILES else None


def simulated_for(side: int | None) -> int:
    """Return how many households to simulate for ``side`` households on each side."""
    return max(SAMPLE_HOUSEHOLDS, 2 * (side or 0))


def load(name: str, folder: Path, seed: int, simulated: int = SAMPLE_HOUSEHOLDS) -> Judged:
    """Return the households of one of `SETS`; a simulated set has ``simulated`` households."""
    source, step = name.split("-")
    if source in QUANTITIES:
        return four_hours(source, simulated, seed)
    if source == "sample":
        made = simulate(simulated, length=2190 if step == "4h" else 8760, seed=seed)
        entities = made.ids
    else:
        config = DataConfig(source=(str(data_file(name, folder)),), step=step, entity=FILES[source][1])
        made, _ = prepare(config, None)
        entities = made.entities
    return Judged(
        values=made.values, entities=entities.astype(str), starts=made.starts, step_seconds=made.step_seconds,
        unit=made.unit,
    )  # fmt: skip


def side_of(households: Judged) -> int:
    """Return the default number of households on each side: half of all, at most `LARGEST_SIDE`."""
    return min(LARGEST_SIDE, len(np.unique(households.entities)) // 2)


def split(households: Judged, size: int, seed: int) -> Split:
    """Choose ``size`` households for each side at random; the others make the third set if they are enough."""
    order = np.random.default_rng(seed).permutation(households.codes.max() + 1)
    rank = order.argsort()[households.codes]
    sides = [households.take((rank >= size * i) & (rank < size * (i + 1))) for i in range(2)]
    left = (rank >= 2 * size) & (rank < 3 * size)
    return Split(*sides, households.take(left) if rank.max() >= 3 * size - 1 else None)


# ---- systems ------------------------------------------------------------------------------------------------------


def drawn(like: Judged, values: NDArray[np.float32], starts: NDArray | None = None) -> Judged:
    """Return drawn series (m, C, L) as a set; without ``starts``, those of ``like`` are repeated in order."""
    return Judged(
        values=values,
        entities=np.array([f"drawn-{i}" for i in range(len(values))]),
        starts=like.starts[np.arange(len(values)) % len(like)] if starts is None else starts,
        step_seconds=like.step_seconds,
        unit=like.unit,
    )


def system_of(rival: Rival) -> System:
    """Return a rival as a system."""

    def fit_and_draw(train: Judged, count: int, seed: int) -> Judged:
        return drawn(train, rival(train.values, train.starts, train.step_seconds, count, seed))

    return fit_and_draw


def sample(model: TTSGAN, train: Judged, count: int) -> Judged:
    """Draw from a fitted estimator, with the starts that it drew them for."""
    plan = make_plan(model.cond_, allocate(model.member_groups_, count), model.starts_, model.config.seed)
    return drawn(train, model.sample(count), plan.start)


def ours(recipe: str, overrides: Sequence[str]) -> System:
    """Return this library's estimator with a recipe and overrides as a system."""

    def fit_and_draw(train: Judged, count: int, seed: int) -> Judged:
        config = recipes.override(recipes.by_name(recipe), [f"seed={seed}", *overrides])
        known = {"starts": train.starts, "entities": train.entities, "step_seconds": train.step_seconds}
        return sample(TTSGAN(config).fit(train.values, **known), train, count)

    return fit_and_draw


def count_of(train: Judged, draws: int = DRAWS) -> int:
    """Return how many series to draw: ``draws`` for each training series, but no more than the evaluation uses."""
    return min(draws * len(train), max(2 * len(train), 1000))


# ---- the judge ----------------------------------------------------------------------------------------------------


def judge(parts: Split, synthetic: Judged, seed: int, bootstrap: int = 0) -> dict[str, Any]:
    """Return the figures of one set: headline with its interval (None without bootstrap), `FIGURES`, all ratios."""
    result = evaluate(parts.train, parts.holdout, synthetic, seed=seed, bootstrap=bootstrap)
    by_name = {metric["name"]: metric for metric in result["metrics"]}
    row = {name: result["headline"][end] for name, end in (("headline", "value"), ("low", "low"), ("high", "high"))}
    row |= {column: by_name[name][figure] if name in by_name else None for column, (name, figure) in FIGURES.items()}
    row["classifiers"] = {name: metric["distance"] for name, metric in by_name.items() if "accuracy" in name}
    row["ratios"] = {name: round(metric["ratio"], 3) for name, metric in by_name.items()}
    return row


def attack(parts: Split, synthetic: Judged, seed: int) -> dict[str, Any]:
    """Return the report of the audit on as many synthetic series as were trained on."""
    return audit(parts.train, parts.holdout, synthetic.take(np.arange(len(synthetic)) < len(parts.train)), seed=seed)


# ---- all systems on all splits ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """The plan of a benchmark: number of splits, households on a side, fits on each split, first seed."""

    splits: int
    size: int
    seeds: int
    seed: int

    def fits(self, number: int) -> list[int]:
        """Return the seed of every fit on one split."""
        return [self.seed + number + SEED_STRIDE * fit for fit in range(self.seeds)]


class Ledger:
    """Rows that were already made, one JSON line each, so that an interrupted benchmark can resume.

    A line is reused if its key, which holds everything that determines the row, is the same, and, unless ``any_code``,
    the library's code is the same.
    """

    def __init__(self, path: Path | None, any_code: bool = False) -> None:
        self.path, self.any_code, self.code = path, any_code, code_version()
        text = path.read_text() if path is not None and path.exists() else ""
        whole, _, half = text.rpartition("\n")
        if half:  # the incomplete last line of a process that was killed while writing
            path.write_text(whole + "\n" if whole else "")
        self.lines = [json.loads(line) for line in whole.splitlines()]

    def row(self, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the row of ``key``; make it if it is not known."""
        key = json.loads(json.dumps(key))  # in the form in which it is read back: tuples become lists
        for line in self.lines:
            if line["key"] == key and (self.any_code or line["code"] == self.code):
                return line["row"]
        line = {"key": key, "code": self.code, "row": make()}
        self.lines.append(line)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line["row"]


def code_version() -> str:
    """Return a fingerprint of the library's code."""
    digest = hashlib.sha256()
    for path in sorted(Path(ttsgan.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def over_splits(
    households: Judged,
    systems: dict[str, System],
    course: Course,
    figures_of: Callable[[Split, Judged, str], dict[str, Any]],
    ledger: Ledger,
    *,
    draws: int,
    fixed: Sequence[str] = (),
    keys: dict[str, Any],
) -> list[dict[str, Any]]:
    """Fit, draw and judge every system on every split; return one row of figures each, printed as it is made.

    Parameters
    ----------
    figures_of : callable
        Maps ``(split, synthetic, system)`` to the figures of a row.
    draws : int
        Series drawn for each training series. ``fixed`` systems, which use no randomness, draw one each and are fitted
        once.
    keys : dict
        For the ledger: what determines a row beside system, split and seed; key "" for all systems, or a system's name.
    """
    rows = []
    for number in range(course.splits):
        parts = split(households, course.size, course.seed + number)
        for name, system in [*systems.items(), *([(REAL, None)] if parts.other is not None else [])]:
            count = count_of(parts.train, 1 if name in fixed else draws)
            for seed in course.fits(number)[: 1 if name in fixed or system is None else None]:
                key = {"system": name, "split": number, "seed": seed, "size": course.size, "first": course.seed}
                key |= {"of": keys.get("", {}), "own": keys.get(name)}
                row = ledger.row(key, partial(_row, parts, name, system, count, seed, figures_of))
                rows.append({"system": name, "split": number, "seed": seed} | row)
                tell(rows[-1])
    return rows


def _row(
    parts: Split,
    name: str,
    system: System | None,
    count: int,
    seed: int,
    figures_of: Callable[[Split, Judged, str], dict[str, Any]],
) -> dict[str, Any]:
    """Fit, draw and judge one system, or the third set of real households where there is none."""
    if system is None:
        return figures_of(parts, parts.other, name)
    before, wall = time.process_time(), time.perf_counter()
    made = system(parts.train, count, seed)
    cost = {"cpu_seconds": time.process_time() - before, "wall_seconds": time.perf_counter() - wall}
    return figures_of(parts, made, name) | cost


def tell(row: dict[str, Any]) -> None:
    """Print the result of a row to stderr."""
    cost = f"{row['cpu_seconds']:6.1f} CPU-s" if "cpu_seconds" in row else ""
    figures = f"headline {row['headline']:.3f} {row.get('verdict', ''):<9}{cost}"
    print(f"  split {row['split']}, seed {row['seed']}: {row['system']:<32} {figures}", file=sys.stderr, flush=True)


# ---- paired comparisons -------------------------------------------------------------------------------------------


def split_logs(rows: Sequence[dict[str, Any]], figure: str = "headline") -> dict[int, float]:
    """Return the mean over fits of the logarithm of a figure, for each split."""
    by_split: dict[int, list[float]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(math.log(row[figure]))
    return {number: float(np.mean(logs)) for number, logs in by_split.items()}


def better_bar(rows: Sequence[dict[str, Any]]) -> str | None:
    """Return the system of `BARS` with the lower mean log headline over the splits; None where neither ran."""
    means = {}
    for name in BARS:
        own = split_logs([row for row in rows if row["system"] == name])
        if own:
            means[name] = np.mean(list(own.values()))
    return min(means, key=means.get) if means else None


def paired(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard error and 95 % t interval of one difference per split, and on which side of 0 it lies.

    ``side`` is "below", "above" or "open"; with one value everything but the mean is None.
    """
    values = np.asarray(values, dtype=float)
    found = {"mean": float(values.mean()), "error": None, "low": None, "high": None, "side": None}
    if len(values) > 1:
        error = float(values.std(ddof=1) / math.sqrt(len(values)))
        reach = float(student.ppf(0.975, len(values) - 1)) * error
        low, high = found["mean"] - reach, found["mean"] + reach
        side = "below" if high < 0 else "above" if low > 0 else "open"
        found |= {"error": error, "low": low, "high": high, "side": side}
    return found


# ---- command line, files ------------------------------------------------------------------------------------------


def parser_of(doc: str, sets: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that the benchmarks of generators share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(sets))
    parser.add_argument(
        "--data", help="folder of the real series; default: TTSGAN_DATA, or shared/data beside the repository"
    )
    parser.add_argument("--recipe", choices=list(recipes.RECIPES), default="quick")
    parser.add_argument("--set", nargs="+", default=[], metavar="A.B=C", help=f"overrides of the recipe of {OURS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--any-code", action="store_true", help="use rows of an interrupted run of other code as well")
    return parser


def hardware() -> str:
    """Describe the machine in words, without its name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    graphics = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores} cores, {graphics}"


def about_run(name: str, households: Judged, course: Course, config: RunConfig | None) -> dict[str, Any]:
    """Return the facts of a run that a reader of its table needs."""
    return {
        "set": name,
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "code": code_version(),
        "households": course.size,
        "length": households.values.shape[2],
        "splits": course.splits,
        "seeds": course.seeds,
        "seed": course.seed,
        "ours": recipes.to_dict(config) if config is not None else None,
    }


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def write(stem: Path, tree: dict[str, Any], text: str) -> None:
    """Write the figures and the text of a benchmark to files of one name, and print the text."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(tree, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    print(text)
