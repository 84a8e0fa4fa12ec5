"""Ranks and quantile functions: a series as the order of its values (normal scores) and the law of its values.

Axis letters: B series, T time steps, Q points of a quantile function.
"""

import zlib

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

GRID_POINTS = 65


def score_grid(length: int) -> NDArray[np.float64]:
    """Return the normal scores (Q,) at which quantile functions of series of ``length`` points are kept."""
    top = ndtri(1 - 0.5 / max(length, 2))
    return np.linspace(-top, top, GRID_POINTS)


def normal_scores(values_BT: NDArray, seed: int) -> NDArray[np.float32]:
    """Return each series' normal scores (B, T); NaN stays NaN.

    The k-th smallest of m observed values becomes the (k - 1/2)/m quantile of the standard normal law. Ties are ordered
    at random, so that every series has the same continuous law whatever its resolution; `apply_quantiles` maps a tied
    stretch back to one value. The order of ties is a function of the seed and the series itself, not of its company.
    """
    scores_BT = np.full(values_BT.shape, np.nan, dtype=np.float32)
    for row, values_T in enumerate(values_BT):
        seen = np.flatnonzero(~np.isnan(values_T))
        rng = np.random.default_rng([seed, zlib.crc32(values_T.tobytes())])
        order = np.lexsort((rng.random(len(seen)), values_T[seen]))
        scores_BT[row, seen[order]] = ndtri((np.arange(len(seen)) + 0.5) / max(len(seen), 1))
    return scores_BT


def quantile_function(values_BT: NDArray, grid_Q: NDArray) -> NDArray[np.float64]:
    """Return each series' quantiles (B, Q) at the normal scores ``grid_Q``; NaN values are left out."""
    out_BQ = np.empty((len(values_BT), len(grid_Q)))
    for row, values_T in enumerate(values_BT):
        sorted_M = np.sort(values_T[~np.isnan(values_T)]).astype(np.float64)
        scores_M = ndtri((np.arange(len(sorted_M)) + 0.5) / len(sorted_M))
        out_BQ[row] = np.interp(grid_Q, scores_M, sorted_M)
    return out_BQ


def apply_quantiles(scores_BT: NDArray, grid_Q: NDArray, quantiles_BQ: NDArray) -> NDArray[np.float64]:
    """Return the series (B, T) whose values are ordered as ``scores_BT`` and follow the law ``quantiles_BQ``.

    Only the order of the scores matters: they are ranked first, so the law of the result is the wanted one exactly.
    """
    length = scores_BT.shape[1]
    ranks_BT = scores_BT.argsort(axis=1).argsort(axis=1)
    plotting_T = ndtri((np.arange(length) + 0.5) / length)
    levels_BT = np.stack([np.interp(plotting_T, grid_Q, quantiles_Q) for quantiles_Q in quantiles_BQ])
    return np.take_along_axis(levels_BT, ranks_BT, axis=1)
