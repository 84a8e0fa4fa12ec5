"""Distances between weighted samples of series: the metrics, one pool of features for all sets, and draws by entity.

Axes: N pooled series (train, holdout, synthetic), K feature columns, M metrics, C channels, L time steps.
"""

from dataclasses import dataclass

import numpy as np

from ttsgan.errors import DataError
from ttsgan.evaluation.features import PROBABILITIES, Features
from ttsgan.evaluation.judged import Judged, draw_rows
from ttsgan.evaluation.stats import wasserstein_columns

CEILING = 8.0
"""Quantities of one series, and distances, are clipped at this many real spreads."""
COINCIDENCE_SIZES = (2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Metric:
    """Name and meaning of one distance.

    `source` names feature families, joined by " + " where they carry nearly the same information and count once.
    Without a prefix, each column is compared by the Wasserstein-1 distance between its distributions over series. With
    "mean:" the means of the sets are compared (mean absolute difference), with "share:" the shares of ones in one-hot
    columns (total variation, mean over families). "set:" and a name stands for a separately defined distance between
    sets.
    """

    family: str
    name: str
    source: str
    unit: str
    sees: str
    blind_to: str


SPREAD = "real spread"
DAYS_BACK = "autocorrelation 1 day + autocorrelation 2 days"
WEEKS_BACK = "autocorrelation 1 week + autocorrelation 2 weeks"
PEAK_TIMES = "share:peak hour + peak weekday + peak month"
METRICS = (
    Metric("marginal", "all values, raw", "set:marginal", "share of the mean", "range, zeros, tails", "order"),
    Metric("marginal", "values over their mean", "shape marginal", SPREAD, "distribution inside a home", "order, size"),
    Metric("marginal", "load-duration curve", "set:duration", "share of the mean", "duration of loads", "order"),
    Metric("day", "quantile bands by hour", "set:bands", "share of the mean", "spread by hour", "dependence"),
    Metric("day", "mean day by month", "set:months", "share of the mean", "mean day and season", "collapse"),
    Metric("day", "weekday and weekend day", "weekday and weekend day", SPREAD, "typical days", "single days"),
    Metric("day", "mean week", "mean:week", "share of the mean", "mean day of each weekday", "collapse"),
    Metric("day", "coverage of the 5-95 % band", "set:coverage", "share of readings", "too narrow bands", "dependence"),
    Metric("size", "log annual level", "level", SPREAD, "size of homes", "everything in time"),
    Metric("size", "mean over mean absolute value", "sign", SPREAD, "share of negative load", "everything in time"),
    Metric("size", "log peak", "peak", SPREAD, "largest reading", "when it happens"),
    Metric("size", "log 99.9 % quantile", "high quantile", SPREAD, "high readings", "when they happen"),
    Metric("size", "load factor", "load factor", SPREAD, "mean over peak", "when it happens"),
    Metric("size", "base load", "base load", SPREAD, "5 % quantile over mean", "order of values"),
    Metric("defects", "zero share", "zero share", SPREAD, "invented or missing zeros", "where they lie"),
    Metric("defects", "longest flat run", "flat run", SPREAD, "frozen stretches", "short repeats"),
    Metric("defects", "jump at midnight", "seam", SPREAD, "seams between stitched days", "seams elsewhere"),
    Metric("dynamics", "mean ramp", "ramp mean", SPREAD, "smoothness", "timing"),
    Metric("dynamics", "99 % ramp", "ramp p99", SPREAD, "sudden switching", "timing"),
    Metric("dynamics", "autocorrelation at 1 step", "autocorrelation 1 step", SPREAD, "short memory", "long memory"),
    Metric("dynamics", "autocorrelation at 1 and 2 days", DAYS_BACK, SPREAD, "daily habit, memory of days", "weeks"),
    Metric("dynamics", "autocorrelation at 1 and 2 weeks", WEEKS_BACK, SPREAD, "weekly habit, slow drift", "season"),
    Metric("dynamics", "autocorrelation at 52 weeks", "autocorrelation 52 weeks", SPREAD, "the year's return", "weeks"),
    Metric("dynamics", "log-periodogram", "spectrum", SPREAD, "variance at every time scale", "phase"),
    Metric("dynamics", "daily line", "daily line", SPREAD, "strength of the daily cycle", "its shape"),
    Metric("dynamics", "weekly line", "weekly line", SPREAD, "strength of the weekly cycle", "its shape"),
    Metric("dynamics", "yearly line", "yearly line", SPREAD, "strength of the yearly cycle", "its shape"),
    Metric("calendar", "weekend minus weekday", "weekend contrast", SPREAD, "weekly habit", "single days"),
    Metric("calendar", "month shares", "month shares", SPREAD, "season home by home", "days"),
    Metric("calendar", "winter minus summer", "winter contrast", SPREAD, "heating and cooling", "days"),
    Metric("calendar", "time of the peak", PEAK_TIMES, "total variation", "hour, weekday, month of peaks", "how high"),
    Metric("diversity", "spread of daily energy", "daily energy spread", SPREAD, "days too alike", "order of days"),
    Metric("diversity", "spread of day shapes", "day shape spread", SPREAD, "days too alike", "order of days"),
    Metric("diversity", "coincidence factor", "set:coincidence", SPREAD, "homes that peak together, collapse", "size"),
    Metric("diversity", "between-home share of variance", "set:between", "log ratio", "homes too alike", "time"),
    Metric("diversity", "correlation of channels", "channel correlation", SPREAD, "dependence of channels", "delay"),
)  # fmt: skip
"""Metrics of the headline, with equal weights; a metric that length, step or channels do not allow is left out."""


class Pool:
    """Features of all three sets in one array, so that any weighted pair of samples can be compared fast.

    Parameters
    ----------
    parts : tuple of three Features
    edges : ndarray of shape (C, bins + 1)
        Bin edges of the histograms in the features.
    rng : Generator
        Draws the groups of real homes whose coincidence factors give its spread.
    """

    def __init__(self, parts: tuple[Features, Features, Features], edges: np.ndarray, rng: np.random.Generator) -> None:
        self.sizes = [len(part.values) for part in parts]
        real = self.sizes[0] + self.sizes[1]
        self.metrics: list[Metric] = []
        self.slices: dict[str, slice] = {}
        self.averaged: dict[str, tuple[np.ndarray, float]] = {}
        blocks, at = [], 0
        for metric in METRICS:
            kind, _, names = metric.source.rpartition(":")
            if kind == "set":
                self.metrics.append(metric)
                continue
            # A set that starts in the middle of a day has one whole day less, and may be too short for weeks.
            families = [name for name in names.split(" + ") if all(name in part.columns for part in parts)]
            if not families:
                continue
            block = np.concatenate([np.concatenate([part.columns[f] for f in families], axis=1) for part in parts])
            if kind:
                # total variation is half the sum of absolute differences in one family and channel
                weight = 1 / block.shape[1] if kind == "mean" else 0.5 / len(families) / parts[0].peaks.shape[1]
                self.metrics.append(metric)
                self.averaged[metric.source] = block.astype(np.float32), weight
                continue
            block = block[:, np.ptp(block, axis=0) > 1e-5]
            if block.shape[1]:
                self.metrics.append(metric)
                self.slices[metric.source] = slice(at, at + block.shape[1])
                blocks.append(block)
                at += block.shape[1]
        if not blocks:
            raise DataError("the series of all sets are alike in everything that is measured; give series that vary")
        columns = np.concatenate(blocks, axis=1)
        low, centre, high = np.quantile(columns[:real], [0.05, 0.5, 0.95], axis=0)
        # quantiles, because a few odd homes must not stretch the unit; the deviation only where 90 % of homes agree
        spread = np.where(high > low, (high - low) / 3.29, columns[:real].std(0))
        spread = np.maximum(spread, 1e-3 * np.maximum(np.abs(centre), 1.0))
        self.scaled = np.clip((columns - centre) / spread, -CEILING, CEILING)
        transposed = np.ascontiguousarray(self.scaled.T.astype(np.float32))
        self.order = np.argsort(transposed, axis=1, kind="stable").astype(np.int32)
        self.gaps = np.diff(np.take_along_axis(transposed, self.order, axis=1), axis=1)
        self.month_days = np.concatenate([part.month_days for part in parts])
        self.histogram = np.concatenate([part.histogram for part in parts])
        self.moments = np.concatenate([part.moments for part in parts])
        self.peaks = np.concatenate([part.peaks for part in parts])
        self.values = [part.values for part in parts]
        self.duration = np.concatenate([part.columns["shape marginal"] for part in parts])
        self.mean_load = np.abs(self.values[0]).mean((0, 2))
        steps = np.gradient(PROBABILITIES)
        self.duration_weights = np.tile(steps / steps.sum(), self.peaks.shape[1]) / self.peaks.shape[1]
        self.bin_widths = np.diff(edges, axis=1)
        counts = np.zeros(sum(self.sizes), int)
        counts[:real] = 1
        factors = self._coincidence(counts, rng)
        self.coincidence_spread = np.array([max(float(np.std(f)), 0.01) for f in factors])

    def _rows(self, index: np.ndarray) -> np.ndarray:
        """Return the values of pooled series, whichever set they are in."""
        first, second = self.sizes[0], self.sizes[0] + self.sizes[1]
        parts = (
            index[index < first],
            index[(index >= first) & (index < second)] - first,
            index[index >= second] - second,
        )
        return np.concatenate([values[part] for values, part in zip(self.values, parts, strict=True)])

    def _coincidence(self, counts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Return CF(n) = max_t |sum_i x_it| / sum_i max_t |x_it| of 12 random groups per size, mean over channels."""
        index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        index = index[: max(120, COINCIDENCE_SIZES[-1] * 4)]
        order = np.sort(index)
        values, peaks = self._rows(order), self.peaks[order]
        factors = []
        for size in COINCIDENCE_SIZES:
            if size > len(order):
                break
            groups = [rng.permutation(len(order))[:size] for _ in range(12)]
            membership = np.zeros((len(groups), len(order)), np.float32)
            for row, group in enumerate(groups):
                membership[row, group] = 1
            ratio = [
                np.abs(membership @ values[:, c]).max(-1) / np.maximum(membership @ peaks[:, c], 1e-12)
                for c in range(values.shape[1])
            ]
            factors.append(np.mean(ratio, axis=0))
        return factors

    def distances(self, first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return every metric between two samples given as counts per pooled series, shape (M,)."""
        a, b = first / first.sum(), second / second.sum()
        signed = (a - b).astype(np.float32)
        per_column = np.minimum(wasserstein_columns(self.order, self.gaps, signed), CEILING)
        used = np.flatnonzero(a + b)
        delta = signed[used]
        share = np.tensordot(np.stack([a, b])[:, used].astype(np.float32), self.histogram[used], 1)
        below = np.pad(np.cumsum(share, -1), ((0, 0), (0, 0), (0, 0), (1, 0)))
        # readings are assumed to be spread evenly inside their bin: with right edges alone, a reading in the first bin
        # above all real readings would count nothing
        ahead = below[0] - below[1]
        ahead = (ahead[..., 1:] + ahead[..., :-1]) / 2
        mean_load = np.maximum(self.mean_load, 1e-12)
        bands = (np.abs(ahead) * self.bin_widths[:, None]).sum(-1) / mean_load[:, None]
        marginal = (np.abs(ahead.mean(1)) * self.bin_widths).sum(-1) / mean_load
        month = (delta @ self.month_days[used]).reshape(len(mean_load), -1)
        coincidence = [
            abs(float(x.mean() - y.mean())) / spread
            for x, y, spread in zip(
                self._coincidence(first, rng),
                self._coincidence(second, rng),
                self.coincidence_spread,
                strict=False,
            )
        ]
        between = []
        for weights in (a, b):
            mean, square = np.tensordot(weights, self.moments, 1).T
            level = np.maximum(weights @ self.moments[..., 0] ** 2 - mean**2, 0)
            between.append(np.log(np.maximum(level / np.maximum(square - mean**2, 1e-12), 1e-4)))
        by_set = {
            "set:marginal": marginal.mean(),
            "set:bands": bands.mean(),
            "set:months": (np.sqrt((month**2).mean(-1)) / mean_load).mean(),
            "set:coverage": _coverage_error(*below),
            "set:duration": np.abs(delta @ self.duration[used]) @ self.duration_weights,
            "set:coincidence": np.mean(coincidence) if coincidence else 0.0,
            "set:between": np.abs(between[0] - between[1]).mean(),
        }
        for source, (columns, weight) in self.averaged.items():
            by_set[source] = weight * np.abs(delta @ columns[used]).sum()
        values = [
            by_set[m.source] if m.source in by_set else per_column[self.slices[m.source]].mean() for m in self.metrics
        ]
        return np.minimum(values, CEILING)


def _coverage_error(first: np.ndarray, second: np.ndarray) -> float:
    """Return mean |c - 0.9|, c the share of the second sample in the 5 % to 95 % band of the first, slot by slot.

    Both are given as cumulative shares of readings below each bin edge, shape (C, S, B + 1).
    """
    curves = (below.reshape(-1, below.shape[-1]) for below in (first, second))
    covered = [np.diff(np.interp([0.05, 0.95], a, b))[0] for a, b in zip(*curves, strict=True)]
    return float(np.abs(np.array(covered) - 0.9).mean())


class Sampler:
    """Draws samples of n series by entity, as counts over the pooled series."""

    def __init__(self, sets: tuple[Judged, Judged, Judged], num: int, rng: np.random.Generator) -> None:
        self.num, self.rng = num, rng
        self.total = sum(len(part) for part in sets)
        first, second = len(sets[0]), len(sets[0]) + len(sets[1])
        self.codes = np.concatenate([sets[0].codes, sets[1].codes + sets[0].codes.max() + 1, sets[2].codes + 10**9])
        self.real = np.arange(second)
        self.holdout = np.arange(first, second)
        self.synthetic = np.arange(second, self.total)

    def without_replacement(self, index: np.ndarray) -> np.ndarray:
        """Draw n of these series without replacement, entity by entity in random order."""
        counts = np.zeros(self.total, int)
        counts[index[draw_rows(np.unique(self.codes[index], return_inverse=True)[1], self.num, self.rng)]] = 1
        return counts

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Split the real series at random into two entity-disjoint parts of about equal size."""
        entities, codes = np.unique(self.codes[self.real], return_inverse=True)
        sizes = np.bincount(codes)
        order = self.rng.permutation(len(entities))
        left = np.zeros(len(entities), bool)
        left[order[np.cumsum(sizes[order]) <= max(len(self.real) / 2, sizes[order[0]])]] = True
        return self.real[left[codes]], self.real[~left[codes]]

    def with_replacement(self, index: np.ndarray) -> np.ndarray:
        """Draw entities with replacement so that about n series result."""
        entities, codes = np.unique(self.codes[index], return_inverse=True)
        draws = max(2, round(len(entities) * min(1.0, self.num / len(index))))
        counts = np.zeros(self.total, int)
        counts[index] = np.bincount(self.rng.integers(len(entities), size=draws), minlength=len(entities))[codes]
        return counts
