"""How synthetic series lie among real ones in feature space: nearest-neighbour scores, and a 2-D map.

Axes: n series, K feature columns.

References
----------
Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", ICML.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ttsgan.evaluation.distances import CEILING, Pool, Sampler
from ttsgan.evaluation.neighbours import nearest

NUM_NEIGHBOURS = 5
NUM_DRAWS = 4
EPSILON = 0.05
"""Shortfall that counts as none."""
MAX_POINTS = 300
SIGHTS = {
    "precision": ("implausible series", "missing kinds of homes, copying"),
    "recall": ("kinds of homes that are missing, collapse", "implausible series, copying"),
    "density": ("implausible series, crowding where homes are common", "missing rare homes, copying"),
    "coverage": ("kinds of homes that are missing, collapse", "implausible series, copying"),
}


def feature_space(pool: Pool) -> NDArray[np.float32]:
    """Return all pooled series as points (n, K); feature families have equal weight, whatever their column counts."""
    width = np.concatenate([np.full(s.stop - s.start, (s.stop - s.start) ** -0.5) for s in pool.slices.values()])
    return (np.clip(pool.scaled, -CEILING, CEILING) * width).astype(np.float32)


def neighbour_scores(reference: NDArray, candidate: NDArray) -> dict[str, NDArray]:
    """Return precision, recall, density and coverage as one value per series, with k = 5 nearest neighbours.

    Parameters
    ----------
    reference, candidate : ndarray of shape (n, K) and (m, K), float32
        Real and judged points, at least two each.
    """
    k = min(NUM_NEIGHBOURS, len(reference) - 1, len(candidate) - 1)
    inside_reference = nearest(reference, reference, k, exclude=np.arange(len(reference)))[0][:, -1]
    inside_candidate = nearest(candidate, candidate, k, exclude=np.arange(len(candidate)))[0][:, -1]
    # By subtraction, as `nearest` measures distances: a matrix product would separate equal series.
    between = cdist(reference, candidate)
    in_ball = between <= inside_reference[:, None]
    return {
        "precision": in_ball.any(0).astype(float),
        "recall": (between <= inside_candidate).any(1).astype(float),
        "density": in_ball.sum(0) / k,
        "coverage": (between.min(1) <= inside_reference).astype(float),
    }


def neighbour_entries(space: NDArray, sampler: Sampler, bootstrap: int) -> list[dict]:
    """Return the shortfall of each score from 1, for synthetic against holdout series and between real halves.

    Parameters
    ----------
    space : ndarray of shape (n, K), float32
        Output of `feature_space`.
    sampler : Sampler
        Draws of equal size.
    bootstrap : int
        Bootstrap resamples of series behind an interval; with 0 its ends are the value itself.

    Returns
    -------
    list of dict
        Entries as in `fidelity.evaluate`, family "neighbours", with ``value`` and ``value_floor``: the scores.
    """
    draws = [
        tuple(
            np.flatnonzero(sampler.without_replacement(p))
            for p in (*sampler.halves(), sampler.holdout, sampler.synthetic)
        )
        for _ in range(NUM_DRAWS)
    ]
    floors = [neighbour_scores(space[left], space[right]) for left, right, _, _ in draws]
    scores = [neighbour_scores(space[holdout], space[synthetic]) for _, _, holdout, synthetic in draws]
    entries = []
    for name, (sees, blind_to) in SIGHTS.items():
        value, floor = (float(np.mean([part[name].mean() for part in side])) for side in (scores, floors))
        # resample within one draw, because averaging over draws would hide the noise of the sample
        resampled = [sampler.rng.choice(scores[0][name], len(scores[0][name])).mean() for _ in range(bootstrap)]
        ends = np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled) if resampled else np.zeros(2)
        shortfall = [abs(1 - v) if name == "density" else max(0.0, 1 - v) for v in (value, *(value + ends), floor)]
        ratios = [(v + EPSILON) / (shortfall[3] + EPSILON) for v in shortfall[:3]]
        entries.append(
            {
                "family": "neighbours", "name": f"{name} (shortfall from 1)", "distance": shortfall[0],
                "floor": shortfall[3], "ratio": ratios[0], "low": min(ratios), "high": max(ratios),
                "unit": "share of series", "in_headline": False, "sees": sees, "blind_to": blind_to,
                "value": value, "value_floor": floor,
            }
        )  # fmt: skip
    return entries


def flat_map(space: NDArray, sizes: list[int], rng: np.random.Generator) -> dict:
    """Project points on the first two principal components of the real points.

    Parameters
    ----------
    space : ndarray of shape (n, K)
        Points of training, holdout and synthetic series, in this order.
    sizes : list of int
        Number of points of each.
    rng : numpy.random.Generator
        Chooses at most `MAX_POINTS` of each set.

    Returns
    -------
    dict
        ``train``, ``holdout``, ``synthetic``: lists of [x, y], three decimals, in random order, so that a point
        does not identify a row of the input; ``explained``: share of the variance of real series along x and along y.
    """
    real = space[: sizes[0] + sizes[1]].astype(np.float64)
    centre = real.mean(0)
    variances, axes = np.linalg.eigh((real - centre).T @ (real - centre))
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    flat = np.zeros((len(space), 2))
    flat[:, : axes.shape[1]] = (space - centre) @ axes
    shares = np.zeros(2)
    shares[: axes.shape[1]] = np.maximum(variances[::-1][:2], 0) / max(float(variances.sum()), 1e-12)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    named = zip(("train", "holdout", "synthetic"), parts, strict=True)
    chosen = {name: part[rng.permutation(len(part))[:MAX_POINTS]].round(3).tolist() for name, part in named}
    return chosen | {"explained": shares.round(4).tolist()}
