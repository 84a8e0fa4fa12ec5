"""Simple generators of load series that a neural generator has to beat, each in a page of numpy.

Every rival is a function ``fit_and_draw(values, starts, step_seconds, count, seed)``:

    values : ndarray (n, C, L), float32, physical units, NaN where missing: the training series
    starts : ndarray (n,), datetime64: start of each training series; drawn series i starts at ``starts[i % n]``
    step_seconds : int
    count : int, how many series to draw
    seed : int, the same seed gives the same series
    returns ndarray (count, C, L), float32, without gaps; at least 0 in channels that are never negative in training

The strongest, the hierarchical copula, is in `rival_copula`; shared tools are in `rival_tools`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rival_copula import grouped_copula, hierarchical_copula
from rival_tools import (
    LogScale,
    day_steps,
    draw_gaussian,
    fill_gaps,
    fit_pca,
    from_scores,
    group_by_kmeans,
    normal_scores,
    shrinkage,
)
from sklearn.mixture import GaussianMixture

__all__ = [
    "RIVALS",
    "Rival",
    "copy_of_training",
    "draw_gaussian",
    "fill_gaps",
    "from_scores",
    "gaussian_copula",
    "group_by_kmeans",
    "grouped_copula",
    "hierarchical_copula",
    "kmeans_centroids",
    "normal_scores",
    "pca_mixture",
    "shrinkage",
    "swapped_weeks",
]

NEIGHBOURS = 5
"""Number of series that exchange weeks with one another, including the series itself."""

Rival = Callable[[NDArray, NDArray, int, int, int], NDArray]


def copy_of_training(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return the training series themselves: the best fidelity that theft buys."""
    return fill_gaps(values, step_seconds)[np.arange(count) % len(values)].astype(np.float32)


def kmeans_centroids(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return means of k-means groups of about 15 series, at least 5, each as often as its group is large."""
    filled = fill_gaps(values, step_seconds)
    features = LogScale.of(filled).apply(filled).reshape(len(filled), -1)
    labels = group_by_kmeans(features, max(2, len(filled) // 15), 5, seed)
    means = np.stack([filled[labels == group].mean(axis=0) for group in range(labels.max() + 1)])
    return means[labels[np.arange(count) % len(filled)]].astype(np.float32)


def swapped_weeks(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Take every week of a series from a random one of it and its nearest neighbours, the same week of the year."""
    rng = np.random.default_rng(seed)
    filled = fill_gaps(values, step_seconds)
    logs = LogScale.of(filled).apply(filled).reshape(len(filled), -1)
    squares = (logs**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * logs @ logs.T
    np.fill_diagonal(distances, -1)
    nearest = distances.argsort(axis=1)[:, :NEIGHBOURS]
    week = 7 * day_steps(step_seconds, filled.shape[2])
    drawn = filled[np.arange(count) % len(filled)]
    for row in range(count):
        for begin in range(0, filled.shape[2], week):
            donor = rng.choice(nearest[row % len(filled)])
            drawn[row, :, begin : begin + week] = filled[donor, :, begin : begin + week]
    return drawn.astype(np.float32)


def pca_mixture(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Draw 20 principal components of log values from a Gaussian mixture, whose size and form the BIC chooses."""
    filled = fill_gaps(values, step_seconds)
    logs = LogScale.of(filled)
    rows = logs.apply(filled).reshape(len(filled), -1)
    pca = fit_pca(rows, 20)
    scores = pca.transform(rows)
    size = max(float(scores[:, 0].std()), 1e-9)
    candidates = [
        GaussianMixture(parts, covariance_type=form, reg_covar=1e-4, random_state=seed).fit(scores / size)
        for form in ("full", "diag")
        for parts in range(1, min(6, len(rows)))
    ]
    best = min(candidates, key=lambda mixture: mixture.bic(scores / size))
    drawn = best.sample(count)[0][np.random.default_rng(seed).permutation(count)] * size
    return logs.undo(pca.inverse_transform(drawn).reshape(count, *filled.shape[1:]))


def gaussian_copula(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Keep the law of log values at every moment, and a shrunk Gaussian dependence between all moments."""
    filled = fill_gaps(values, step_seconds)
    logs = LogScale.of(filled)
    rows = logs.apply(filled).reshape(len(filled), -1)
    drawn = draw_gaussian(normal_scores(rows), count, np.random.default_rng(seed))
    return logs.undo(from_scores(drawn, rows).reshape(count, *filled.shape[1:]))


RIVALS: dict[str, Rival] = {
    "training set itself": copy_of_training,
    "k-means centroids": kmeans_centroids,
    "weeks swapped": swapped_weeks,
    "PCA and mixture": pca_mixture,
    "Gaussian copula": gaussian_copula,
    "hierarchical copula": hierarchical_copula,
    "hierarchical copula in groups": grouped_copula,
}
"""Rivals by the name that tables show."""
