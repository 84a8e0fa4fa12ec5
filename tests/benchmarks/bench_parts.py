"""Ablation of the generator: the full recipe, and the recipe without one part at a time, on the same splits.

    python tests/benchmarks/bench_parts.py --sets london-4h cambridge-4h sample-4h --splits 3 --seeds 3
    python tests/benchmarks/bench_parts.py --sets london-4h --series-seen 6000 --parts "no cycle term" "white noise"
    python tests/benchmarks/bench_parts.py --sets sample-4h --households 2500 --splits 1 --seeds 2
    pytest -m benchmark tests/benchmarks/bench_parts.py

For every split and seed, the scaler, encoder, conditions, temporal prior and the pool of its draws are made once. For
each part switched off, training starts at the first stage that the part changes:

    correction 0, correction 1                none: the same networks, with another share of the correction
    no cycle term, a branch left out          the adversarial stage
    white noise                               the adversarial stage, as long as the full recipe's
    white noise, all series                   the adversarial stage, with the prior's budget of series as well
    one condition for all                     conditions, prior and adversarial stage
    one condition, one Gaussian               the same; household numbers come from one law, not a mixture of kinds
    no adversary, all series                  the prior, with the adversarial stage's budget of series as well

A part that acts through the correction has little effect where the full recipe chose to write none of it. Such rows are
also given with the whole correction written, and compared with the full recipe's whole correction ("whole").

The figures are the headline, and accuracy - 0.5 of boosting and of the convolution. Each row is compared with the full
recipe on the same split and seed, by log(headline / headline of the full recipe) and by the difference of accuracies.
Differences are averaged over the seeds of a split; then mean, standard error and 95 % t interval are taken over splits
(over seeds if there is one split). Above 0 means worse without the part. "Earns its place" says whether the interval of
the headline lies above 0.

Each data set gives ``parts-SET-DATE`` in the results folder: .json and .md. Rows are appended to ``parts-SET.jsonl`` as
they are made: an interrupted run resumes from there.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fitting import Ready, Training, make_ready, stage_lengths
from ladder import (
    DRAWS,
    Course,
    Ledger,
    Split,
    about_run,
    count_of,
    data_file,
    data_folder,
    load,
    markdown_table,
    paired,
    parser_of,
    side_of,
    simulated_for,
    split,
    write,
)
from measures import told_apart

from ttsgan import recipes
from ttsgan.config import RunConfig
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.training.state import STAGES, TrainState, stage_series

FULL, WHOLE = "full recipe", ", whole correction"
COLUMNS = ("headline", "boosting", "convolution")
EARNS = {"above": "yes", "below": "no: better without", "open": "not shown", None: "-"}


@dataclass(frozen=True)
class Part:
    """How a part is switched off.

    Attributes
    ----------
    overrides : tuple of str
        Overrides of the configuration.
    silent : tuple of str
        Branches of the generator that add nothing.
    since : str
        First stage that is trained anew.
    before : str
        Stage before which training stops; if given, no correction is written.
    """

    overrides: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    since: str = "adversarial"
    before: str = ""


def parts_of(config: RunConfig, homes: int) -> dict[str, Part]:
    """Return every part whose removal needs new training, for ``homes`` training households."""
    prior, adversarial = (stage_series(config.training, stage) for stage in STAGES[1:])
    both = prior + adversarial
    # More than half of the households that count in a condition, so that no second group can have as many.
    one_group = (f"cluster.min_group_size={homes // 2}", "cluster.outlier_quantile=0.95")
    return {
        "no cycle term": Part(("loss.cycle=0",)),
        "no medium branch": Part(silent=("medium",)),
        "no small branch": Part(silent=("small",)),
        "white noise": Part(("generator.noise=white",)),
        "white noise, all series": Part(
            ("generator.noise=white", *stage_lengths(config, days=0, adversarial=both)), since="days"
        ),
        "one condition for all": Part(one_group, since="days"),
        "one condition, one Gaussian": Part((*one_group, "household.mixtures=1"), since="days"),
        "no adversary, all series": Part(
            tuple(stage_lengths(config, days=both, adversarial=0)), since="days", before="adversarial"
        ),
    }


CORRECTIONS = {"correction 0": 0.0, "correction 1": 1.0}
"""Fixed shares of the full recipe's correction that are written in place of the chosen one."""
NAMES = (*CORRECTIONS, *parts_of(recipes.quick(), 100))


class Bench:
    """One split and seed: trains each stage once for all parts that share it, and judges what they draw."""

    def __init__(self, parts: Split, config: RunConfig, seed: int, draws: int) -> None:
        self.parts, self.config, self.draws = parts, replace(config, seed=seed), draws
        self.judge_seed = config.seed  # the same for all fits, so that all are compared with the same floors
        self.ready: Ready | None = None
        self.parents: dict[str, TrainState] = {}
        self.full: Training | None = None
        self.judged: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Train the shared stages and the full recipe, unless that was done already."""
        if self.full is not None:
            return
        self.ready = make_ready(self.parts.train, self.config)
        self.parents["days"] = Training(self.ready, self.config).advance(before="days")
        prior = Training(self.ready, self.config, self.parents["days"])
        prior.advance(before="adversarial")
        self.parents["adversarial"] = prior.fill_pool()
        self.full = Training(self.ready, self.config, self.parents["adversarial"])
        self.full.advance()

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the rows that one of `FULL`, `CORRECTIONS` and the parts gives, with the cost of the first."""
        before = time.process_time()
        self.prepare()
        if name == FULL or name in CORRECTIONS:
            share = CORRECTIONS.get(name, self.full.share)
            found = {name: self._judge(self.full, "full", share)}
        else:
            part = parts_of(self.config, self.parts.train.codes.max() + 1)[name]
            config = recipes.override(self.config, part.overrides)
            training = Training(self.ready, config, self.parents[part.since], part.silent)
            training.advance(part.before)
            share = 0.0 if part.before else training.share
            # Without correction the series come from the prior alone, shared by all parts that do not change it.
            lineage = name if part.since == "days" or config.generator.noise == "white" else "full"
            found = {name: self._judge(training, name if share else lineage, share)}
            if part.since == "adversarial" and config.generator.noise == "prior":
                found[name + WHOLE] = self._judge(training, name, 1.0)
        first = next(iter(found.values()))
        return {**found, name: first | {"cpu_seconds": time.process_time() - before}}

    def _judge(self, training: Training, network: str, share: float) -> dict[str, Any]:
        key = f"{network} {share:g}" if share else f"{network} none"
        if key not in self.judged:
            made = training.draw(count_of(self.parts.train, self.draws), share)
            self.judged[key] = self._figures(made) | {"share": share}
        return self.judged[key]

    def _figures(self, made: Judged) -> dict[str, Any]:
        sets, seed = (self.parts.train, self.parts.holdout, made), self.judge_seed
        result = evaluate(*sets, seed=seed, bootstrap=0, classifier_series=0)
        ratios = {metric["name"]: round(metric["ratio"], 3) for metric in result["metrics"]}
        return {"headline": result["headline"]["value"], **told_apart(self.parts, made, seed), "ratios": ratios}


def run(
    households: Judged, config: RunConfig, course: Course, names: Sequence[str], draws: int, ledger: Ledger
) -> list[dict[str, Any]]:
    """Return the rows of every part on every split and seed; print each as it is made."""
    rows = []
    for number in range(course.splits):
        parts = split(households, course.size, course.seed + number)
        for fit in range(course.seeds):
            seed = course.fits(number)[fit]
            bench = Bench(parts, config, seed, draws)
            for name in (FULL, *names):
                key = {"part": name, "split": number, "seed": seed, "size": course.size, "first": course.seed}
                found = ledger.row(key | {"draws": draws, "config": recipes.to_dict(config)}, partial(bench.rows, name))
                for system, row in found.items():
                    rows.append({"system": system, "split": number, "fit": fit, **row})
                    cost = f"{row['cpu_seconds']:7.1f} CPU-s" if "cpu_seconds" in row else ""
                    figures = " ".join(f"{row[c]:.3f}" for c in COLUMNS)
                    said = f"  split {number}, fit {fit}: {system:<36} {figures} of correction {row['share']:g}{cost}"
                    print(said, file=sys.stderr, flush=True)
    return rows


def differences(rows: list[dict[str, Any]], name: str, reference: str, column: str) -> list[float]:
    """Return the differences of a row to its reference: one per split, or per fit where there is one split."""
    by_unit = {(row["system"], row["split"], row["fit"]): row[column] for row in rows}
    by_split: dict[int, list[float]] = {}
    for system, number, fit in by_unit:
        if system == name:
            pair = [by_unit[s, number, fit] for s in (name, reference)]
            change = np.log(pair[0] / pair[1]) if column == "headline" else pair[0] - pair[1]
            by_split.setdefault(number, []).append(float(change))
    return [float(np.mean(v)) for v in by_split.values()] if len(by_split) > 1 else next(iter(by_split.values()))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per row of the table: medians, and paired comparisons with its reference."""
    table = []
    for name in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == name]
        entry = {"system": name} | {c: statistics.median(row[c] for row in own) for c in COLUMNS}
        entry |= {"shares": sorted({row["share"] for row in own}), "fits": len(own), "reference": None, "paired": {}}
        costs = [row["cpu_seconds"] for row in own if "cpu_seconds" in row]
        entry["cpu_seconds"] = statistics.median(costs) if costs else None
        reference = "correction 1" if name.endswith(WHOLE) else FULL
        if name != FULL and any(row["system"] == reference for row in rows):
            entry["reference"] = reference
            entry["paired"] = {c: paired(differences(rows, name, reference, c)) for c in COLUMNS}
        table.append(entry)
    return table


def markdown(table: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the table with the text that explains it."""
    rows = []
    for entry in table:
        against = []
        for column in COLUMNS:
            found = entry["paired"].get(column)
            error = "" if found is None or found["error"] is None else f" ± {found['error']:.3f}"
            against.append("-" if found is None else f"{found['mean']:+.3f}{error}")
        headline = entry["paired"].get("headline")
        cost = "-" if entry["cpu_seconds"] is None else f"{entry['cpu_seconds']:.0f}"
        shares = ", ".join(f"{share:g}" for share in entry["shares"])
        first = [entry["system"], *(f"{entry[c]:.3f}" for c in COLUMNS), shares, entry["reference"] or "-"]
        rows.append([*first, *against, EARNS[headline["side"] if headline else None], cost])
    training = about["ours"]["training"]
    heads = [
        "system", *COLUMNS, "correction written", "compared with", "log ratio of headline", "boosting +",
        "convolution +", "earns its place", "CPU seconds",
    ]  # fmt: skip
    lines = [
        f"# What each part is worth, {about['set']}, {about['date']}",
        "",
        f"{about['households']} training households and as many held out, {about['length']} steps, {about['splits']} "
        f"split(s), {about['seeds']} seed(s), {training['max_series']} series seen by the full recipe; medians. "
        f"Machine: {about['hardware']}.",
        "",
        "Headline: 1 is as close to the holdout as other real households. Boosting, convolution: accuracy - 0.5. Log "
        "ratio, +: paired by split and seed with the row named under compared with, mean ± standard error over splits "
        "(over seeds where there is one split); above 0 is worse without the part. Earns its place: whether the 95 % t "
        "interval of the log ratio lies above 0. CPU seconds: training and judging of this row alone; of the full "
        "recipe, with all that the rows share.",
        "",
        *markdown_table(heads, rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and judge with the options of the command line, print the tables and write the results."""
    parser = parser_of(__doc__, ["london-4h", "cambridge-4h", "sample-4h"])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="fits on each split")
    parser.add_argument("--households", type=int, help="on each side; default: half of all, at most 300")
    parser.add_argument("--series-seen", type=int, help="budget: training.max_series; default: the recipe's")
    parser.add_argument("--parts", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--draws", type=int, default=DRAWS, help="series drawn for each training series")
    options = parser.parse_args(arguments)
    budget = [f"training.max_series={options.series_seen}"] if options.series_seen else []
    config = recipes.override(recipes.by_name(options.recipe), [f"seed={options.seed}", *options.set, *budget])
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        households = load(name, data_folder(options.data), options.seed, simulated_for(options.households))
        course = Course(options.splits, options.households or side_of(households), options.seeds, options.seed)
        ledger = Ledger(options.out / f"parts-{name}.jsonl", options.any_code)
        rows = run(households, config, course, options.parts, options.draws, ledger)
        about, table = about_run(name, households, course, config), summary(rows)
        stem = options.out / f"parts-{name}-{about['date']}"
        write(stem, {"about": about, "summary": table, "rows": rows}, markdown(table, about))


@pytest.mark.benchmark
def test_the_prior_earns_its_place(tmp_path):
    """On London structured noise is worth more than white noise with the same adversarial steps."""
    if not data_file("london-4h", data_folder(None)).exists():
        pytest.skip("the series of London are not there; set TTSGAN_DATA to their folder")
    options = ["--splits", "2", "--seeds", "1", "--series-seen", "4500", "--parts", "white noise"]
    main(["--sets", "london-4h", *options, "--out", str(tmp_path)])
    (text,) = tmp_path.glob("*.md")
    (row,) = [line for line in text.read_text().splitlines() if line.startswith("| white noise ")]
    assert float(row.split("|")[7]) > 0


if __name__ == "__main__":
    main()
