"""Exact nearest neighbours in blocks: never an n x n matrix, and the same answer for any block size.

Squared distances come from float32 matrix products (``|a|^2 + |b|^2 - 2ab``), which cancel badly between
near-identical rows, the very case that matters here. So the best few candidates of each query are measured
again by direct subtraction.

Axes: q queries, b base rows, D dimensions, k neighbours.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

SPARE = 4
"""Candidates beyond k that are measured again, so that rounding in the products cannot lose a neighbour."""
QUERY_BLOCK = 512
BASE_BLOCK = 8192


def nearest(
    queries: np.ndarray,
    base: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    query_block: int = QUERY_BLOCK,
    base_block: int = BASE_BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest base rows of every query by Euclidean distance.

    Parameters
    ----------
    queries : ndarray of shape (q, D), float32
        Finite rows.
    base : ndarray of shape (b, D), float32
        Finite rows, b >= 1.
    k : int
        Neighbours wanted, >= 1; columns beyond the available rows hold distance inf and index -1.
    exclude : ndarray of shape (q,), int, optional
        Base row that each query must not be given (itself, for instance); -1 excludes none.
    query_block, base_block : int
        Rows per matrix product. Memory is about ``4 * query_block * (base_block + (k + SPARE) * D / 8)``
        bytes.

    Returns
    -------
    tuple of ndarray
        Distances (q, k) float64, ascending, and indices (q, k) int64; ties go to the lower index.
    """
    centre = base.mean(0, dtype=np.float64).astype(np.float32)
    keep = k + SPARE
    distances = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries), query_block):
        rows = queries[start : start + query_block]
        shifted = rows - centre
        best, found = np.zeros((len(rows), 0), np.float32), np.zeros((len(rows), 0), np.int64)
        for base_start in range(0, len(base), base_block):
            block = base[base_start : base_start + base_block] - centre
            square = np.einsum("bd,bd->b", block, block)
            # |a|^2 is the same for all candidates of one query and does not change their order
            score = square - 2 * (shifted @ block.T)
            if exclude is not None:
                own = exclude[start : start + query_block] - base_start
                inside = np.flatnonzero((own >= 0) & (own < len(block)))
                score[inside, own[inside]] = np.inf
            columns = np.arange(len(block))[None].repeat(len(rows), 0)
            if len(block) > keep:
                columns = np.argpartition(score, keep - 1, axis=1)[:, :keep]
            best = np.concatenate([best, np.take_along_axis(score, columns, 1)], axis=1)
            found = np.concatenate([found, columns + base_start], axis=1)
            if best.shape[1] > keep:
                chosen = np.argpartition(best, keep - 1, axis=1)[:, :keep]
                best, found = np.take_along_axis(best, chosen, 1), np.take_along_axis(found, chosen, 1)
        exact = _exact(rows, base, found)
        exact[np.isinf(best)] = np.inf
        order = np.lexsort((found, exact), axis=1)[:, :k]
        width = order.shape[1]
        distances[start : start + len(rows), :width] = np.take_along_axis(exact, order, 1)
        indices[start : start + len(rows), :width] = np.take_along_axis(found, order, 1)
    indices[np.isinf(distances)] = -1
    return distances, indices


def _exact(rows: np.ndarray, base: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Measure chosen pairs by subtraction, a few queries at a time."""
    out = np.empty(candidates.shape)
    step = max(1, 4_000_000 // max(1, candidates.shape[1] * rows.shape[1]))
    for start in range(0, len(rows), step):
        difference = base[candidates[start : start + step]] - rows[start : start + step, None]
        out[start : start + step] = np.sqrt(np.einsum("qkd,qkd->qk", difference, difference))
    return out


def log_density(queries: np.ndarray, base: np.ndarray, bandwidth: float, *, query_block: int = 512) -> np.ndarray:
    """Return the logarithm of a Gaussian kernel density, up to a constant that depends on D and bandwidth alone.

    Parameters
    ----------
    queries : ndarray of shape (q, D), float
        Points, few dimensions (<= 32).
    base : ndarray of shape (b, D), float
        Sample that defines the density.
    bandwidth : float
        Standard deviation of the kernel, > 0.
    query_block : int
        Queries at a time.

    Returns
    -------
    ndarray of shape (q,), float64
        Finite even far from the sample: the sum is taken in logarithms, it does not underflow to 0.
    """
    queries, base = queries.astype(np.float64), base.astype(np.float64)
    square = (base**2).sum(1)
    out = np.empty(len(queries))
    for start in range(0, len(queries), query_block):
        rows = queries[start : start + query_block]
        distance = np.maximum((rows**2).sum(1)[:, None] + square - 2 * rows @ base.T, 0)
        out[start : start + len(rows)] = logsumexp(-distance / (2 * bandwidth**2), axis=1)
    return out - np.log(len(base))
