"""Shared tools of the rivals: filled gaps, log values, normal scores, shrunk Gaussians, groups.

Gaps are filled first, with the series' own typical day. A day is the number of steps in 24 hours, or 24 steps where the
step does not divide a day.

Axis letters: n series, m drawn vectors, C channels, L time steps, F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

DAY_SECONDS = 86_400


def day_steps(step_seconds: int, length: int) -> int:
    """Return the steps of a day, never more than the length."""
    return min(DAY_SECONDS // step_seconds if DAY_SECONDS % step_seconds == 0 else 24, length)


def fill_gaps(values: NDArray, step_seconds: int) -> NDArray[np.float64]:
    """Return series (n, C, L) whose gaps hold the mean of the same step of the day; failing that, of the series."""
    steps = day_steps(step_seconds, values.shape[2])
    filled = values.astype(np.float64)
    for series in filled.reshape(-1, values.shape[2]):
        missing = np.isnan(series)
        if not missing.any():
            continue
        overall = series[~missing].mean() if not missing.all() else 0.0
        for step in range(steps):
            seen = series[step::steps][~missing[step::steps]]
            gaps = np.flatnonzero(missing[step::steps]) * steps + step
            series[gaps] = seen.mean() if len(seen) else overall
    return filled


@dataclass(frozen=True)
class LogScale:
    """log(1 + x / scale) for channels that are never negative, asinh(x / scale) for others."""

    scale: NDArray
    nonnegative: NDArray

    @classmethod
    def of(cls, values: NDArray) -> "LogScale":
        """Take the scale, the mean size of each channel, from series (n, C, L)."""
        scale = np.maximum(np.abs(values).mean(axis=(0, 2)), 1e-12)
        return cls(scale[:, None], (values.min(axis=(0, 2)) >= 0)[:, None])

    def apply(self, values: NDArray) -> NDArray:
        """Return the logs (n, C, L)."""
        ratio = values / self.scale
        return np.where(self.nonnegative, np.log1p(np.maximum(ratio, 0)), np.arcsinh(ratio))

    def undo(self, logs: NDArray) -> NDArray[np.float32]:
        """Return series (n, C, L) in physical units."""
        ratio = np.where(self.nonnegative, np.expm1(np.maximum(logs, 0)), np.sinh(logs))
        return (ratio * self.scale).astype(np.float32)


def normal_scores(columns: NDArray) -> NDArray:
    """Return the normal scores (n, F) of each column; ties share their mean rank."""
    return ndtri((rankdata(columns, axis=0) - 0.5) / len(columns))


def from_scores(scores: NDArray, columns: NDArray) -> NDArray:
    """Return values (m, F) that follow the empirical law of each column (n, F) and the order of scores (m, F)."""
    ordered, last = np.sort(columns, axis=0), len(columns) - 1
    position = np.clip(ndtr(scores) * len(columns) - 0.5, 0, last)
    low = np.minimum(position.astype(int), max(last - 1, 0))
    below = np.take_along_axis(ordered, low, axis=0)
    above = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=0)
    return below + (position - low) * (above - below)


def shrinkage(rows: NDArray) -> tuple[float, float]:
    """Return the weight of the identity and its size in the covariance of Ledoit and Wolf (2004, JMVA).

    ``rows`` (n, F) are centred. Everything follows from their Gram matrix, so that F may be a whole year.
    """
    count, width = rows.shape
    gram = rows @ rows.T
    size = np.trace(gram) / count / width
    square = (gram**2).sum() / count**2
    distance = square / width - size**2
    error = ((np.diag(gram) ** 2).sum() / count - square) / (width * count)
    return (float(np.clip(error / distance, 0, 1)) if distance > 0 else 1.0), float(size)


def draw_gaussian(rows: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """Draw ``count`` vectors with the mean and the shrunk covariance of ``rows`` (n, F)."""
    mean = rows.mean(axis=0)
    weight, size = shrinkage(rows - mean)
    shared = rng.standard_normal((count, len(rows))) @ (rows - mean) / np.sqrt(len(rows))
    return mean + np.sqrt(1 - weight) * shared + np.sqrt(weight * size) * rng.standard_normal((count, rows.shape[1]))


def fit_pca(rows: NDArray, components: int) -> PCA:
    """Fit at most ``components`` principal components of ``rows`` (n, F)."""
    return PCA(min(components, len(rows) - 1, rows.shape[1]), svd_solver="full").fit(rows)


def group_by_kmeans(features: NDArray, groups: int, least: int, seed: int) -> NDArray[np.int64]:
    """Return a group (n,) for each row of ``features`` (n, F); groups below ``least`` join the nearest one."""
    fitted = KMeans(min(groups, len(features)), n_init=4, random_state=seed).fit(features)
    labels = fitted.labels_.astype(np.int64)
    while True:
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) == 1 or sizes.min() >= least:
            return np.searchsorted(names, labels)
        small = names[sizes.argmin()]
        others = names[names != small]
        rows = labels == small
        centres = fitted.cluster_centers_[others]
        labels[rows] = others[((features[rows][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)]
