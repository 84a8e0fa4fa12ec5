"""A small trained convolution as the judge: how often it tells synthetic from real series that it has not seen.

    python tests/benchmarks/bench_convolution.py --sets london-4h --splits 4

The convolution of `evaluate` has thousands of fixed random filters and a linear classifier, and separates nearly
everything. The usual classifier of the field is a small trained network. This one has three convolutions and the mean
over time: it sees a few days at once. It is trained on 60 % of the holdout and of the synthetic series and tested on
the others; the figure is its accuracy - 0.5, the mean over trainings with other halves and first weights.

Each data set gives ``convolution-SET-DATE`` (.json and .md) in the results folder.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from ladder import (
    OURS,
    Course,
    Split,
    about_run,
    count_of,
    data_folder,
    load,
    markdown_table,
    ours,
    parser_of,
    side_of,
    simulated_for,
    split,
    system_of,
    write,
)
from rivals import RIVALS

from ttsgan import recipes
from ttsgan.evaluation.judged import Judged

LAYERS = ((16, 7), (32, 5), (32, 3))
"""Filters of each convolution, and their length in steps; each halves the length of the series."""
TRAINED, BATCH, PASSES, RATE = 0.6, 16, 20, 4e-3
"""Share of the series to train on, batch size, passes over these, and the highest learning rate."""
TRAININGS = 6
MOST = 400
"""Most series of a side."""


class Convolution(nn.Module):
    """Three convolutions, the mean over time, and a linear logit (B,) of series (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for filters, length in LAYERS:
            convolution = nn.Conv1d(channels, filters, length, stride=2, padding=length // 2)
            layers += [convolution, nn.BatchNorm1d(filters), nn.ReLU()]
            channels = filters
        self.layers, self.logit = nn.Sequential(*layers), nn.Linear(channels, 1)

    def forward(self, series_BCT: Tensor) -> Tensor:
        """Return the logits: positive for synthetic series."""
        return self.logit(self.layers(series_BCT).mean(-1))[:, 0]


def scaled(real: NDArray, synthetic: NDArray) -> Tensor:
    """Return both sets (n, C, T) in logarithms, standardised by the real one."""
    both = np.concatenate([real, synthetic]) / np.abs(real).mean((0, 2), keepdims=True)
    both = np.sign(both) * np.log1p(np.abs(both))
    of_real = both[: len(real)]
    both = (both - of_real.mean((0, 2), keepdims=True)) / of_real.std((0, 2), keepdims=True)
    return torch.from_numpy(both.astype(np.float32))


def told_apart(real: NDArray, synthetic: NDArray, week: int, seed: int) -> float:
    """Return the accuracy - 0.5 on unseen series (n, C, T) of one training; series are turned by whole weeks in it."""
    torch.manual_seed(seed)
    series, label = scaled(real, synthetic), torch.arange(len(real) + len(synthetic)) >= len(real)
    sides = torch.randperm(len(real)), len(real) + torch.randperm(len(synthetic))
    train, test = (
        torch.cat([side[: round(TRAINED * len(side))] for side in sides]),
        torch.cat([side[round(TRAINED * len(side)) :] for side in sides]),
    )
    network = Convolution(series.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    batches = [rows for _ in range(PASSES) for rows in train[torch.randperm(len(train))].split(BATCH)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=len(batches))
    for rows in batches:
        turn = week * int(torch.randint(max(series.shape[2] // week, 1), ()))
        logit = network(series[rows].roll(turn, dims=2))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logit, label[rows].float()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = (network.eval()(series[test]) > 0) == label[test]
    return float(right.float().mean()) - 0.5


def figures_of(parts: Split, synthetic: Judged, seed: int) -> dict[str, float]:
    """Return the mean of `TRAININGS` trainings, and its standard error."""
    count = min(MOST, len(parts.holdout), len(synthetic))
    real, made = parts.holdout.filled()[:count], synthetic.filled()[:count]
    week = 7 * 86_400 // parts.holdout.step_seconds
    each = [told_apart(real, made, week, seed + number) for number in range(TRAININGS)]
    return {"mean": float(np.mean(each)), "error": float(np.std(each, ddof=1) / len(each) ** 0.5)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, draw and tell apart with the options of the command line; print the tables and write the results."""
    parser = parser_of(__doc__, ["london-4h"])
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--households", type=int, help="on each side; default: half of all, at most 300")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = recipes.override(recipes.by_name(options.recipe), options.set)
    systems = {name: system_of(rival) for name, rival in RIVALS.items()}
    systems[OURS] = ours(options.recipe, options.set)
    for name in options.sets:
        households = load(name, data_folder(options.data), options.seed, simulated_for(options.households))
        course = Course(options.splits, options.households or side_of(households), 1, options.seed)
        rows: list[dict[str, Any]] = []
        for number in range(course.splits):
            parts = split(households, course.size, course.seed + number)
            for system, fit_and_draw in systems.items():
                began = time.process_time()
                made = fit_and_draw(parts.train, count_of(parts.train), course.seed + number)
                rows.append({"system": system, "split": number, **figures_of(parts, made, course.seed)})
                print(rows[-1], round(time.process_time() - began, 1), "CPU-s", file=sys.stderr, flush=True)
        about = about_run(name, households, course, config)
        table = []
        for system in systems:
            found = [row["mean"] for row in rows if row["system"] == system]
            table.append([system, f"{np.mean(found):.2f}", ", ".join(f"{value:.2f}" for value in found)])
        text = [
            f"# Told apart by a small trained convolution, {name}, {about['date']}",
            "",
            f"Accuracy - 0.5 on series that it was not trained on, {course.size} households on each side, "
            f"{about['length']} steps, {course.splits} split(s), {TRAININGS} trainings on each. Machine: "
            f"{about['hardware']}.",
            "",
            *markdown_table(["system", "mean over splits", "each split"], table),
        ]
        stem = options.out / f"convolution-{name}-{about['date']}"
        write(stem, {"about": about, "rows": rows}, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
