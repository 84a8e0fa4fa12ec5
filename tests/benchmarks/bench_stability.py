"""Stability of training: does it end well with every seed, and with every loss?

    python tests/benchmarks/bench_stability.py --seeds 20
    python tests/benchmarks/bench_stability.py --losses --steps 300
    python tests/benchmarks/bench_stability.py --seeds 20 --losses --set training.batch_size=16
    pytest -m benchmark tests/benchmarks/bench_stability.py

*Seeds*: the recipe, shortened to ``--series-seen`` series, is trained once with each seed on the same half of the
simulated homes, so that only the randomness of training and drawing differs. Shown for every seed: headline, diversity,
the chosen share of the correction, rollbacks, and whether training gave up. The 90th percentile of the headline divided
by its median must be at most 1.3; a training that gave up counts as an infinite headline.

*Losses*: encoder and prior are trained once, then the adversarial stage with every loss that the configuration offers,
for ``--steps`` steps. None may collapse. Shown: the headline with the whole correction and with the chosen share, the
size of the correction (root mean square, in standard deviations of a scaled series), and diversity.

Diversity is the running mean, at the end of training, of the spread between generated series divided by the spread
between real ones; "drawn" is the same ratio for the finished series in physical units. Training gives up if, after
rollbacks, diversity is below training.diversity_floor.

Writes ``stability-SET-DATE``, or ``losses-SET-DATE`` where no seeds were trained, to the results folder: .json and .md.
Rows are appended to ``stability-SET.jsonl`` as they are made: an interrupted run resumes from there. Exit status 1 when
a limit is missed.
"""

import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fitting import Ready, Training, make_ready, spread, stage_lengths
from ladder import (
    Course,
    Ledger,
    Split,
    about_run,
    data_folder,
    load,
    markdown_table,
    parser_of,
    split,
    write,
)

from ttsgan import recipes
from ttsgan.config import LossConfig, RunConfig
from ttsgan.config.training import LOSSES
from ttsgan.errors import DivergedError
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.training.state import TrainState

RATIO_LIMIT = 1.3


def headline_of(parts: Split, made: Judged, seed: int) -> float:
    """Return only the headline."""
    sets = (parts.train, parts.holdout, made)
    return evaluate(*sets, seed=seed, bootstrap=0, classifier_series=0)["headline"]["value"]


def finished(training: Training, parts: Split, share: float | None) -> dict[str, Any]:
    """Train to the end and draw, with ``share`` of the correction if given; return the figures.

    The row of a training that gave up has a reason and no headline.
    """
    before, reason = time.process_time(), None
    try:
        training.advance()
    except DivergedError as error:
        reason = str(error)
    newest = training.figures.newest
    row = {
        "headline": None, "reason": reason, "diversity": training.state.diversity, "drawn": None,
        "correction": newest.get("generator/correction"), "share": training.share,
        "rollbacks": training.figures.rollbacks,
    }  # fmt: skip
    if reason is None:
        made = training.draw(len(parts.train), share)
        row["headline"] = row["headline_chosen"] = headline_of(parts, made, 0)
        row["drawn"] = spread(made.values) / spread(parts.train.values)
        if share is not None and share != training.share:
            row["headline_chosen"] = headline_of(parts, training.draw(len(parts.train)), 0)
    return row | {"cpu_seconds": time.process_time() - before}


# ---- seeds --------------------------------------------------------------------------------------------------------


def one_seed(parts: Split, config: RunConfig, seed: int) -> dict[str, Any]:
    """Train the recipe with one seed."""
    before = time.process_time()
    config = recipes.override(config, [f"seed={seed}"])
    row = finished(Training(make_ready(parts.train, config), config), parts, None)
    return row | {"cpu_seconds": time.process_time() - before}


def spread_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median, 90th percentile and their ratio of the headlines; infinite where training gave up."""
    values = np.sort([math.inf if row["headline"] is None else row["headline"] for row in rows])
    # Take quantiles among the values themselves: one cannot interpolate between a finite and an infinite value.
    median, high = (float(np.quantile(values, q, method="higher")) for q in (0.5, 0.9))
    ratio = high / median if math.isfinite(median) else math.inf
    gave_up = sum(row["headline"] is None for row in rows)
    return {"median": median, "p90": high, "ratio": ratio, "limit": RATIO_LIMIT, "gave_up": gave_up}


# ---- losses -------------------------------------------------------------------------------------------------------


class LossBench:
    """Trains encoder, prior and pool once, when first needed, and the adversarial stage for each loss."""

    def __init__(self, parts: Split, config: RunConfig, steps: int) -> None:
        series = steps * config.training.batch_size
        self.parts = parts
        self.config = recipes.override(config, stage_lengths(config, adversarial=series))
        self.ready: Ready | None = None
        self.parent: TrainState | None = None

    def row(self, name: str) -> dict[str, Any]:
        """Return the figures of one loss, with the whole of the correction."""
        if self.parent is None:
            self.ready = make_ready(self.parts.train, self.config)
            shared = Training(self.ready, self.config)
            shared.advance(before="adversarial")
            self.parent = shared.fill_pool()
        config = recipes.override(self.config, [f"loss.name={name}"])
        return finished(Training(self.ready, config, self.parent), self.parts, 1.0)


# ---- tables -------------------------------------------------------------------------------------------------------


def cells_of(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Return figures as text."""
    return ["-" if row.get(name) is None else f"{row[name]:.3f}" for name in names]


def markdown(found: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the tables with the text that explains them."""
    lines = [
        f"# Stability, {about['set']}, {about['date']}",
        "",
        f"{about['households']} training homes and as many held out, {about['length']} steps, recipe "
        f"{about['ours']['recipe']} with {about['ours']['training']['max_series']} series seen in batches of "
        f"{about['ours']['training']['batch_size']}. Machine: {about['hardware']}.",
    ]
    if found["seeds"]:
        limit = found["spread"]
        lines += [
            "",
            f"Headline over {len(found['seeds'])} seeds: median {limit['median']:.3f}, 90th percentile "
            f"{limit['p90']:.3f}, ratio {limit['ratio']:.3f} (limit {limit['limit']}); {limit['gave_up']} gave up.",
            "",
        ]
        columns = ("headline", "diversity", "drawn", "share")
        rows = [
            [str(r["seed"]), *cells_of(r, columns), str(r["rollbacks"]), r["reason"] or "-", f"{r['cpu_seconds']:.0f}"]
            for r in found["seeds"]
        ]
        heads = ["seed", "headline", "diversity", "drawn", "correction chosen", "rollbacks", "gave up", "CPU seconds"]
        lines += markdown_table(heads, rows)
    if found["losses"]:
        lines += ["", f"Losses, {about['steps']} adversarial steps each, on the same encoder, prior and pool:", ""]
        columns = ("headline", "headline_chosen", "share", "correction", "diversity", "drawn")
        rows = []
        for row in found["losses"]:
            name = f"{row['loss']} (default)" if row["loss"] == LossConfig().name else row["loss"]
            last = [str(row["rollbacks"]), row["reason"] or "no", f"{row['cpu_seconds']:.0f}"]
            rows.append([name, *cells_of(row, columns), *last])
        heads = ["loss", "headline, whole correction", "headline, chosen", "chosen share", "correction size"]
        lines += markdown_table([*heads, "diversity", "drawn", "rollbacks", "collapsed", "CPU seconds"], rows)
    return "\n".join(lines) + "\n"


def tell(name: str, row: dict[str, Any]) -> None:
    """Print the result of a row to stderr."""
    figures = " ".join(cells_of(row, ("headline", "diversity", "correction", "share")))
    print(f"  {name:<16} {figures} {row['cpu_seconds']:.0f} CPU-s {row['reason'] or ''}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with the options of the command line, write the results, print the tables; return the exit status."""
    parser = parser_of(__doc__, ["sample-4h"])
    parser.add_argument("--seeds", type=int, help="seeds to train; default: 20, or none with --losses")
    parser.add_argument("--losses", action="store_true", help="train every adversarial loss")
    parser.add_argument("--steps", type=int, default=300, help="adversarial steps of each loss")
    parser.add_argument("--series-seen", type=int, default=4500, help="budget: training.max_series")
    parser.add_argument("--homes", type=int, default=1000, help="simulated homes, half of them for training")
    options = parser.parse_args(arguments)
    seeds = (0 if options.losses else 20) if options.seeds is None else options.seeds
    overrides = [f"training.max_series={options.series_seen}", *options.set, f"seed={options.seed}"]
    config = recipes.override(recipes.by_name(options.recipe), overrides)
    options.out.mkdir(parents=True, exist_ok=True)
    fine = True
    for name in options.sets:
        households = load(name, data_folder(options.data), options.seed, options.homes)
        size = len(np.unique(households.entities)) // 2
        parts = split(households, size, options.seed)
        ledger = Ledger(options.out / f"stability-{name}.jsonl", options.any_code)
        shared = {"homes": options.homes, "first": options.seed}
        found: dict[str, Any] = {"seeds": [], "losses": [], "spread": None}
        for seed in range(options.seed, options.seed + seeds):
            key = shared | {"seed": seed, "config": recipes.to_dict(config)}
            row = ledger.row(key, partial(one_seed, parts, config, seed))
            found["seeds"].append({"seed": seed} | row)
            tell(f"seed {seed}", row)
        if options.losses:
            bench = LossBench(parts, config, options.steps)
            for loss in LOSSES:
                key = shared | {"loss": loss, "config": recipes.to_dict(bench.config)}
                row = ledger.row(key, partial(bench.row, loss))
                found["losses"].append({"loss": loss} | row)
                tell(loss, row)
        if found["seeds"]:
            found["spread"] = spread_of(found["seeds"])
            fine &= found["spread"]["ratio"] <= RATIO_LIMIT
        fine &= all(row["reason"] is None for row in found["losses"])
        about = about_run(name, households, Course(1, size, seeds, options.seed), config) | {"steps": options.steps}
        stem = f"{'stability' if seeds else 'losses'}-{name}-{about['date']}"
        write(options.out / stem, {"about": about, **found}, markdown(found, about))
    return 0 if fine else 1


@pytest.mark.benchmark
def test_no_seed_strays_far(tmp_path):
    options = ["--seeds", "5", "--series-seen", "1800", "--homes", "200", "--out", str(tmp_path)]
    assert main(options) == 0


if __name__ == "__main__":
    sys.exit(main())
