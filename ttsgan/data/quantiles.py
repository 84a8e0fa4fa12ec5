"""Ranks and quantile functions: a series as the order of its values (normal scores) and the distribution of its values.

Axis letters: B series, T time steps, Q points of a quantile function.
"""

import zlib

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

GRID_POINTS = 65


def varies(values: NDArray) -> NDArray[np.bool_]:
    """Return whether values along the last axis are not all the same; missing ones (NaN) do not count."""
    return np.fmax.reduce(values, axis=-1) > np.fmin.reduce(values, axis=-1)


def informative(values: NDArray) -> NDArray[np.bool_]:
    """Return which series (n, C, L) can be used: a channel varies, and each that does not is zero throughout.

    A home without a roof feeds nothing in: that is what its channel says.
    """
    varied = varies(values)
    absent = np.fmax.reduce(np.abs(values), axis=-1) == 0
    return varied.any(axis=1) & (varied | absent).all(axis=1)


def used_channels(values: NDArray) -> NDArray[np.bool_]:
    """Return which channels (C,) of series (n, C, L) hold a value that is not zero."""
    return np.fmax.reduce(np.abs(values), axis=(0, 2)) > 0


def score_grid(length: int) -> NDArray[np.float64]:
    """Return the normal scores (Q,) at which quantile functions of series of ``length`` points are kept."""
    top = ndtri(1 - 0.5 / max(length, 2))
    return np.linspace(-top, top, GRID_POINTS)


def plotting_scores(count: int) -> NDArray[np.float64]:
    """Return the normal scores of the ranks of ``count`` values: the k-th is the (k - 1/2)/count quantile."""
    return ndtri((np.arange(count) + 0.5) / max(count, 1))


def normal_scores(values_BT: NDArray, seed: int) -> NDArray[np.float32]:
    """Return each series' normal scores (B, T); NaN stays NaN.

    The k-th smallest of m observed values becomes the (k - 1/2)/m quantile of the standard normal distribution. Ties
    are ordered at random, so that every series has the same continuous distribution whatever its resolution. `place`
    restores the one value of tied readings, and `with_one_score` removes the order of ties that have a meaning. The
    order of ties depends on the seed and the series itself, not on other series.
    """
    scores_BT = np.full(values_BT.shape, np.nan, dtype=np.float32)
    for row, values_T in enumerate(values_BT):
        seen = np.flatnonzero(~np.isnan(values_T))
        rng = np.random.default_rng([seed, zlib.crc32(values_T.tobytes())])
        order = np.lexsort((rng.random(len(seen)), values_T[seen]))
        scores_BT[row, seen[order]] = plotting_scores(len(seen))
    return scores_BT


def with_one_score(scores_BT: NDArray, where_BT: NDArray[np.bool_]) -> NDArray:
    """Return scores in which those marked by ``where_BT`` in a series are replaced by their mean.

    Zeros of a night or a summer have no order: a random order would be noise as large as the rest of the series.
    """
    count_B1 = where_BT.sum(axis=-1, keepdims=True)
    mean_B1 = np.where(where_BT, scores_BT, 0).sum(axis=-1, keepdims=True) / np.maximum(count_B1, 1)
    return np.where(where_BT, mean_B1, scores_BT)


def quantile_function(values_BT: NDArray, grid_Q: NDArray) -> NDArray[np.float64]:
    """Return each series' quantile function (B, Q) at the normal scores ``grid_Q``; NaN values are left out."""
    out_BQ = np.empty((len(values_BT), len(grid_Q)))
    for row, values_T in enumerate(values_BT):
        sorted_M = np.sort(values_T[~np.isnan(values_T)]).astype(np.float64)
        scores_M = plotting_scores(len(sorted_M))
        out_BQ[row] = np.interp(grid_Q, scores_M, sorted_M)
    return out_BQ


def sorted_values(grid_Q: NDArray, quantiles_BQ: NDArray, length: int, zeros_B: NDArray) -> NDArray[np.float64]:
    """Return series of ``length`` values in rising order (B, T): ``zeros_B`` zeros, then values of these quantiles."""
    out_BT = np.zeros((len(quantiles_BQ), length))
    for values_T, quantiles_Q, zeros in zip(out_BT, quantiles_BQ, zeros_B, strict=True):
        values_T[zeros:] = np.interp(plotting_scores(length - zeros), grid_Q, quantiles_Q)
    return out_BT


def place(scores_T: NDArray, sorted_T: NDArray) -> NDArray:
    """Return the sorted values of each series (..., T), rearranged into the order of its scores."""
    out = np.empty_like(sorted_T)
    np.put_along_axis(out, scores_T.argsort(axis=-1), sorted_T, axis=-1)
    return out
