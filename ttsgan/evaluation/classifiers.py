"""Can a classifier tell synthetic series from real ones? Three fixed ones, each with the same work at every size.

*Boosting* reads the features of whole series. The *convolution* slides kernels of nine taps over the values, from single
steps to four weeks apart, and counts how often each answers above a threshold. The *patch transformer* takes one token
per day, with its place in the week and in the series. Kernels, thresholds and the weights of the transformer are drawn
at random and stay as drawn; what is trained is a ridge readout, whose penalty is chosen by leaving out one entity of
the training side after the other. Networks of the same form trained by gradient descent need a hundred times the work
and tell less from a few hundred series: against a good copula of 100 London households they reach an AUC of 0.79
(convolution) and 0.64 (transformer), with a fixed body 0.94 and 0.83.

Every seed trains once and tests on its own fold of the entities. The folds are disjoint, so that k seeds test every
series once with a classifier trained on all others. Two-fold cross-fitting under k / 2 seeds costs the same, trains on
half of the series and tests the same ones again, which removes no luck of the sample.

Nothing may be told apart but values: every side is given the gaps of the other before filling, all series begin at
midnight and, where first days differ, on a Monday, and an entity is never on both sides of a split.

Axes: n series, C channels, T time steps of whole days, D days, S steps of a day, F features, B series of a block,
W days of a window, H width, K kernels.

References
----------
Dempster, Petitjean, Webb 2020, "ROCKET", Data Min. Knowl. Disc. 34:1454 (random kernels, linear readout).
Lopez-Paz, Oquab 2017, "Revisiting classifier two-sample tests", ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor
from torch.nn import functional

from ttsgan.evaluation.distances import Sampler
from ttsgan.evaluation.judged import Judged, joined

WEEK = 7
TAPS = 9
KERNELS = 288
THRESHOLDS = (0.1, 0.37, 0.63, 0.9)
"""Shares of answers (over a few real series) below the thresholds of a kernel."""
MAX_POSITIONS = 2400
"""Positions at which a kernel is evaluated, about; longer series are strided."""
WINDOW_DAYS = 56
"""Days between which the transformer attends."""
WIDTH, HEADS, LAYERS = 64, 16, 2
SHARPNESS = 2.0
"""Factor on queries: random ones attend too evenly to tell days apart."""
CLIP = 6.0
PENALTIES = np.geomspace(1e-3, 1e3, 13)
"""Ridge penalties, in units of the mean square of a standardised row."""
FLOOR_DRAWS = 2
EPSILON = 0.05
"""Accuracy that is taken to be no difference; ``ratio = (distance + EPSILON) / (floor + EPSILON)``."""
SIGHTS = {
    "boosting": ("any difference in the features of whole series", "what no feature measures, copying"),
    "convolution": ("local shapes and their frequency, from steps to weeks; marginals", "season, date, copying"),
    "patch transformer": ("shapes of days, their sequence in weeks, their place in the year", "single steps, copying"),
}

Score = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int], NDArray]
"""``(train_rows, test_rows, train_labels, train_codes, seed)`` to one score per test row, above 0 = second sample."""


@dataclass(frozen=True)
class Telling:
    """How well one classifier told two samples apart on entities that it had not seen.

    Parameters
    ----------
    accuracy : float
        Balanced accuracy - 0.5, in -0.5..0.5. Below 0 by chance, or because series have a twin on the other side.
    accuracy_error : float
        Standard error, entities as units.
    auc : float
        Area under the ROC curve in 0..1, mean over seeds.
    auc_error : float
        Standard error: the larger of DeLong's with entities as units and the spread over seeds.
    """

    accuracy: float
    accuracy_error: float
    auc: float
    auc_error: float


# ---- readouts ----------------------------------------------------------------------------------------------------


def boosting(space: NDArray) -> Score:
    """Return gradient boosting of 40 small trees on rows of a feature space (n, F)."""
    space = space.astype(np.float32)

    def score(train: NDArray, test: NDArray, labels: NDArray, codes: NDArray, seed: int) -> NDArray:
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=8, learning_rate=0.15, min_samples_leaf=5, max_bins=63,
            early_stopping=False, random_state=seed,
        )  # fmt: skip
        return model.fit(space[train], labels).decision_function(space[test])

    return score


def ridge(space: NDArray, reference: NDArray[np.int64]) -> Score:
    """Return ridge regression on rows of a space (n, F), standardised by the ``reference`` rows.

    The penalty is the one that predicts each training entity best from all other ones (exact, from one eigenvalue
    decomposition), so that it is as fit for 50 entities as for 1,000.
    """
    mean, deviation = space[reference].mean(0), space[reference].std(0)
    rows = np.clip((space - mean) / np.where(deviation > 1e-6, deviation, np.inf), -CLIP, CLIP).astype(np.float64)
    products = rows @ rows.T
    # the added 1 is the square of a constant feature: an intercept
    products = products / max(float(np.diag(products)[reference].mean()), 1e-12) + 1

    def score(train: NDArray, test: NDArray, labels: NDArray, codes: NDArray, seed: int) -> NDArray:
        # as heavy on both sides however many series they have, so that 0 divides them
        target = np.where(labels, 0.5 / labels.mean(), -0.5 / (1 - labels.mean()))
        values, vectors = np.linalg.eigh(products[np.ix_(train, train)])
        turned = vectors.T @ target
        entities = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        losses, solutions = [], []
        for penalty in PENALTIES:
            shrunk = 1 / (np.maximum(values, 0) + penalty)
            solution = vectors @ (shrunk * turned)
            if len(entities) == len(train):
                left_out = solution / ((vectors**2) @ shrunk)
            else:
                left_out = np.empty(len(train))
                for own in entities:
                    left_out[own] = np.linalg.solve((vectors[own] * shrunk) @ vectors[own].T, solution[own])
            losses.append((left_out**2).mean())
            solutions.append(solution)
        return products[np.ix_(test, train)] @ solutions[int(np.argmin(losses))]

    return score


# ---- bodies ------------------------------------------------------------------------------------------------------


def share_gaps(real: Judged, synthetic: Judged, donors: NDArray, rng: np.random.Generator) -> tuple[Judged, Judged]:
    """Give every series also the gaps of a random one of the other side, so that gaps tell nothing.

    Parameters
    ----------
    real, synthetic : Judged
    donors : ndarray of shape (m,), int
        Real series whose gaps are given away: those that the synthetic ones are compared with.
    rng : numpy.random.Generator
    """
    masks = np.isnan(real.values), np.isnan(synthetic.values)
    taken = rng.choice(donors, len(synthetic)), rng.integers(len(synthetic), size=len(real))
    out = []
    for judged, other, index in ((real, masks[1], taken[1]), (synthetic, masks[0], taken[0])):
        values = np.where(other[index], np.float32(np.nan), judged.values) if other.any() else judged.values
        out.append(replace(judged, values=values))
    return out[0], out[1]


def whole_days(both: Judged, num_real: int) -> NDArray[np.float32]:
    """Return series cut to the same whole days and scaled, shape (n, C, D, S).

    Values become log1p of their size over the median size of real ones, with their sign, then have mean 0 and
    deviation 1 over the real series, which are the first ``num_real``.
    """
    steps, length = both.steps_per_day, both.values.shape[2]
    offsets = both.first_midnights()
    if both.has_clock and length >= 4 * WEEK * steps:
        weekday = both.calendar(1)[0][:, 0]
        if (weekday != weekday[0]).any():
            offsets = offsets + (-weekday % WEEK) * steps
    count = (length - int(offsets.max())) // steps
    x = both.filled()
    x = np.stack([row[:, o : o + count * steps] for row, o in zip(x, offsets, strict=True)])
    size = np.abs(x[:num_real])
    for channel in range(x.shape[1]):
        positive = size[:, channel][size[:, channel] > 0]
        scale = float(np.median(positive)) if positive.size else 1.0
        x[:, channel] = np.sign(x[:, channel]) * np.log1p(np.abs(x[:, channel]) / scale)
    mean = x[:num_real].mean((0, 2), keepdims=True, dtype=np.float64)
    deviation = x[:num_real].std((0, 2), keepdims=True, dtype=np.float64)
    x = ((x - mean) / np.where(deviation > 1e-6, deviation, 1.0)).astype(np.float32)
    return x.reshape(*x.shape[:2], count, steps)


def convolve(days: NDArray[np.float32], num_real: int, seed: int) -> NDArray[np.float32]:
    """Describe series by the answers of random kernels.

    Parameters
    ----------
    days : ndarray of shape (n, C, D, S), float32
        Output of `whole_days`.
    num_real : int
        The first series, of which thresholds are taken.
    seed : int
        Draws the kernels.

    Returns
    -------
    ndarray of shape (n, F), float32
        For each kernel the share of positions above each threshold and the log of the root mean square; for each
        channel the share of values above 16 quantiles. About 2 CPU-milliseconds a series of 2,190 steps.
    """
    n, channels, _, steps = days.shape
    x = torch.from_numpy(days.reshape(n, channels, -1))
    length = x.shape[2]
    rng = np.random.default_rng([seed, 1])
    sample = torch.from_numpy(np.sort(rng.permutation(num_real)[:64]))
    apart = {1, 2, 3, max(1, steps // 4), max(1, steps // 2), steps, 2 * steps, 7 * steps, 14 * steps, 28 * steps}
    dilations = sorted(d for d in apart if d == 1 or d * (TAPS - 1) < length)
    stride = -(-length // MAX_POSITIONS)
    while math.gcd(stride, steps) > 1 and stride > 1:
        stride += 1  # a divisor of the day would see a few hours only
    block = max(1, 16 * 2190 // (length * channels))
    with torch.no_grad():
        cuts = torch.quantile(_thinned(x[sample].transpose(0, 1).flatten(1)), torch.linspace(0.03, 0.97, 16), dim=1)
        columns = [(x[:, :, :, None] > cut).float().mean(2) for cut in _by_channel(cuts.T)]
        for dilation in dilations:
            size = max(1, KERNELS // len(dilations))
            weights = rng.normal(size=(size, channels, TAPS)).astype(np.float32)
            # centred per channel: kernels see changes, the thresholds on values see the level
            weights = torch.from_numpy((weights - weights.mean(2, keepdims=True)).reshape(size, -1))
            answers = _correlate(x[sample], weights, dilation, stride)
            spread = _thinned(answers.transpose(0, 1).flatten(1))
            limits = torch.quantile(spread, torch.tensor(THRESHOLDS), dim=1).T.numpy()
            parts = []
            for start in range(0, n, block):
                answers = _correlate(x[start : start + block], weights, dilation, stride)
                power = torch.linalg.vector_norm(answers, dim=-1) / answers.shape[-1] ** 0.5
                above = [np.count_nonzero(answers.numpy() > limit[:, None], axis=-1) for limit in limits.T]
                shares = np.stack(above, -1).astype(np.float32) / answers.shape[-1]
                parts.append(np.concatenate([shares.reshape(len(shares), -1), np.log(power.numpy() + 1e-3)], axis=1))
            columns.append(torch.from_numpy(np.concatenate(parts)))
    return torch.cat([column.flatten(1) for column in columns], 1).numpy()
