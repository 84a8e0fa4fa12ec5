"""Strata of targets: groups of similar households, each large enough to prove its bound.

Averages hide leaks: a generator may reveal a few odd homes, or one kind of home, and nobody else. But a stratum too
small to prove anything would leave every audit unproven, so a group that is too small is merged with the nearest one
(strata of the oddest targets, in `membership`, grow to the next larger share).

Axes: n series, D dimensions, G groups.
"""

import numpy as np
from sklearn.cluster import KMeans

MAX_GROUPS = 10
COMPONENTS = 8


def household_groups(rows: np.ndarray, sides: np.ndarray, least: int, seed: int, most: int = MAX_GROUPS) -> np.ndarray:
    """Cluster real households by similarity (k-means on principal components).

    Parameters
    ----------
    rows : ndarray of shape (n, D), float32
        One feature row per entity, for instance its profile.
    sides : ndarray of shape (n,), int
        0 for members and 1 for controls; every group gets at least `least` of both.
    least : int
        Smallest number of each side in a group, >= 1.
    seed : int
    most : int
        Largest number of groups.

    Returns
    -------
    ndarray of shape (n,), int
        Group numbers 0..G - 1 in order of size, largest first; all 0 where entities are too few for two groups.
    """
    wanted = min(most, min(int((sides == side).sum()) for side in (0, 1)) // max(least, 1))
    if wanted < 2:
        return np.zeros(len(rows), int)
    centred = rows - rows.mean(0)
    keep = min(COMPONENTS, rows.shape[1], len(rows) - 1)
    values, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    reduced = centred @ vectors[:, np.argsort(values)[::-1][:keep]]
    groups = KMeans(wanted, n_init=1, random_state=seed % 2**32).fit_predict(reduced)
    return _ordered(_merged(reduced, groups, sides, least))


def _merged(rows: np.ndarray, groups: np.ndarray, sides: np.ndarray, least: int) -> np.ndarray:
    """Merge the smallest group with the group of the nearest centre until each has `least` entities of both sides."""
    groups = groups.copy()
    while True:
        names = np.unique(groups)
        smaller = np.array([min((sides[groups == g] == side).sum() for side in (0, 1)) for g in names])
        if len(names) == 1 or smaller.min() >= least:
            return groups
        centres = np.stack([rows[groups == g].mean(0) for g in names])
        weakest = int(smaller.argmin())
        distance = ((centres - centres[weakest]) ** 2).sum(1)
        distance[weakest] = np.inf
        groups[groups == names[weakest]] = names[int(distance.argmin())]


def _ordered(groups: np.ndarray) -> np.ndarray:
    names, sizes = np.unique(groups, return_counts=True)
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    return rank[np.searchsorted(names, groups)]


def matched(groups: np.ndarray, sides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose members and controls at random so that every group contains equally many of both.

    What is typical of a kind of household then counts equally on both sides, and only the rest is a leak.

    Returns
    -------
    ndarray of shape (n,), bool
        Chosen entities; all of them where a side is missing in every group.
    """
    chosen = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        both = [np.flatnonzero((groups == group) & (sides == side)) for side in (0, 1)]
        num = min(len(rows) for rows in both)
        for rows in both:
            chosen[rng.permutation(rows)[:num]] = True
    return chosen if chosen.any() else np.ones(len(groups), bool)
