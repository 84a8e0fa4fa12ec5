"""Real and synthetic series side by side: a week as a line, the year as a heat map.

    ttsgan run --data sample --out runs/first
    python tests/benchmarks/picture.py runs/first

Shows held-out and synthetic series of a finished run. They are not hand-picked: both kinds are at the same ranks in the
order of their means. Real series are shown unchanged, so do not pass on a picture of a confidential run; the sample's
households are simulated. Writes ``series-DATE.png`` to the results folder.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_jobs.evaluate import judged, open_three
from ttsgan.data.storage import Location
from ttsgan.evaluation.figures import KINDS
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.panels import COLOURS

RESULTS = Path(__file__).parent / "results"
RANKS = 0.3, 0.55, 0.8
"""Ranks of the series shown: the share of all series with a lower mean."""
WEEK_FROM, DAYS = 14, 7


def of_rank(judged: Judged, share: float) -> Judged:
    """Return the series at rank ``share`` in the order of means."""
    order = np.nanmean(judged.values[:, 0], axis=1).argsort(kind="stable")
    row = int(order[int(share * len(order))])
    return judged.take(slice(row, row + 1))


def week_of(one: Judged) -> np.ndarray:
    """Return the values of the week from the first Monday after `WEEK_FROM` days on."""
    steps, begin = one.steps_per_day, int(one.first_midnights()[0])
    weekday = one.calendar(WEEK_FROM + DAYS)[0][0]
    begin += (WEEK_FROM + int((-weekday[WEEK_FROM]) % DAYS)) * steps
    return one.values[0, 0, begin : begin + DAYS * steps]


def draw_week(ax: Axes, values: np.ndarray, kind: str, top: float) -> None:
    """Draw a week as a line of steps."""
    at, y = np.linspace(0, DAYS, len(values) + 1), np.append(values, values[-1:])
    ax.fill_between(at, y, step="post", color=COLOURS[kind], alpha=0.2, lw=0)
    ax.step(at, y, where="post", color=COLOURS[kind], lw=1.2)
    ax.set(xlim=(0, DAYS), ylim=(0, 1.05 * top))
    ax.set_xticks(np.arange(DAYS) + 0.5, labels=["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"])


def draw_year(ax: Axes, one: Judged, top: float) -> None:
    """Draw all days: day across, time of day upwards; square roots, so that base loads and peaks are both visible."""
    days = np.sqrt(one.days(one.values)[0, 0].T)
    look = {"cmap": "cividis", "vmin": 0, "vmax": top, "extent": (0, days.shape[1], 0, 24)}
    ax.imshow(days, aspect="auto", origin="lower", interpolation="none", **look)
    ax.set_yticks((0, 12, 24), labels=("0 h", "12 h", "24 h"))


def picture(sets: dict[str, Judged]) -> Figure:
    """Return the picture of real and synthetic series."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    axes = figure.subplots(len(RANKS), 2 * len(sets), width_ratios=[1] * len(sets) + [1.3] * len(sets))
    for row, share in zip(axes, RANKS, strict=True):
        shown = {kind: of_rank(judged, share) for kind, judged in sets.items()}
        weeks = {kind: week_of(one) for kind, one in shown.items()}
        highest = max(float(np.nanmax(week)) for week in weeks.values())
        bright = max(float(np.nanquantile(one.values, 0.99)) for one in shown.values()) ** 0.5
        for (kind, one), week, year in zip(shown.items(), row, row[len(sets) :], strict=False):
            draw_week(week, weeks[kind], kind, highest)
            draw_year(year, one, bright)
            title = f"{KINDS[kind]}, mean {float(np.nanmean(one.values)):.2g} {one.unit}"
            for ax in (week, year):
                ax.set_title(title, loc="left", fontsize=9, color=COLOURS[kind])
    for ax in axes[-1, len(sets) :]:
        ax.set_xlabel("day of the series")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a run folder and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a finished run folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    _, holdout, synthetic = (judged(half.read()) for half in open_three(Location.parse(options.run)))
    path = options.out / f"series-{datetime.date.today().isoformat()}.png"
    picture({"holdout": holdout, "synthetic": synthetic}).savefig(path, dpi=100)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
