"""k-means by mergeable partial sums, over rows in this process or in others.

One driver loop (`kmeans`, `form_groups`) serves arrays in this process and shards held elsewhere: anything that
implements `Shards.each`. Every random choice is keyed by the global row of an entity, and the nearest centre is found
by an exact comparison. So neither the number of shards, nor the block size, nor the order of the input changes a group,
except for ties within the rounding of sums.

Axis letters: n entities (rows), d latent dimensions, k centres, G groups. "Squared" means squared Euclidean distance.
"""

from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLING_ROUNDS = 5
_SCORES_PER_BLOCK = 2**22
# Random streams: part of the key of the generator, together with the seed.
_START, _SAMPLE, _REDUCE = range(3)


def assign(latents: NDArray, centres: NDArray, block: int = 0) -> tuple[NDArray, NDArray]:
    """Find the nearest centre of every latent; ties go to the first.

    Parameters
    ----------
    latents : ndarray of shape (n, d), float32
    centres : ndarray of shape (k, d)
    block : int
        Rows compared at a time; 0: at most 4096 rows and a table of scores of about 32 MB. The result does not depend
        on it: a matrix product finds the near centres, and if several are within its rounding error, their exact
        distances decide.

    Returns
    -------
    labels : ndarray of shape (n,), int64
    squared : ndarray of shape (n,), float64
    """
    centres = np.asarray(centres, dtype=np.float64)
    block = block or max(1, min(4096, _SCORES_PER_BLOCK // len(centres)))
    labels = np.empty(len(latents), dtype=np.int64)
    squared = np.empty(len(latents), dtype=np.float64)
    norms = (centres * centres).sum(axis=1)
    for at in range(0, len(latents), block):
        rows = latents[at : at + block].astype(np.float64)
        scores = norms - 2 * (rows @ centres.T)
        nearest = scores.argmin(axis=1)
        slack = 1e-11 * ((rows * rows).sum(axis=1) + norms.max())
        near = scores <= (scores.min(axis=1) + slack)[:, None]
        for row in np.flatnonzero(near.sum(axis=1) > 1):
            rivals = np.flatnonzero(near[row])
            nearest[row] = rivals[((rows[row] - centres[rivals]) ** 2).sum(axis=1).argmin()]
        labels[at : at + block] = nearest
        squared[at : at + block] = ((rows - centres[nearest]) ** 2).sum(axis=1)
    return labels, squared


@dataclass(frozen=True)
class PartialSums:
    """Sums over some latents that a Lloyd iteration needs, all float64 or int64.

    Attributes
    ----------
    sums : ndarray of shape (k, d)
        Sum of the latents of each centre.
    counts : ndarray of shape (k,)
    inertia : float
        Sum of the squared distances to the nearest centres.
    far_squared : ndarray of shape (k,)
        Squared distance of the farthest latent of each centre; -1 where a centre has no latents.
    far_latents : ndarray of shape (k, d)
        The farthest latent of each centre.
    """

    sums: NDArray
    counts: NDArray
    inertia: float
    far_squared: NDArray
    far_latents: NDArray


def sum_by(latents: NDArray, labels: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """Return float64 sums (k, d) and counts (k,) of latents by label."""
    sums = [np.bincount(labels, weights=column, minlength=k) for column in latents.T]
    return np.stack(sums, axis=1), np.bincount(labels, minlength=k)


def _farthest(latents: NDArray, labels: NDArray, squared: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """Return squared distance (k,) and latent (k, d) of the farthest latent by label; ties: lexicographic order."""
    far_squared, far_latents = np.full(k, -1.0), np.zeros((k, latents.shape[1]))
    np.maximum.at(far_squared, labels, squared)
    rows = np.flatnonzero(squared == far_squared[labels])
    rows = rows[np.lexsort((*latents[rows].T[::-1], labels[rows]))]
    found, first = np.unique(labels[rows], return_index=True)
    far_latents[found] = latents[rows[first]]
    return far_squared, far_latents


def partial_sums(latents: NDArray, labels: NDArray, squared: NDArray, k: int) -> PartialSums:
    """Return the sums of latents (n, d), given labels (n,) and squared distances (n,) from `assign`; ``k`` centres."""
    far_squared, far_latents = _farthest(latents, labels, squared, k)
    return PartialSums(*sum_by(latents, labels, k), float(squared.sum()), far_squared, far_latents)


def merge(parts: list[PartialSums]) -> PartialSums:
    """Return the sums of all parts, added in list order."""
    k = len(parts[0].counts)
    far_squared, far_latents = _farthest(
        np.concatenate([part.far_latents for part in parts]),
        np.tile(np.arange(k), len(parts)),
        np.concatenate([part.far_squared for part in parts]),
        k,
    )
    return PartialSums(
        sum(part.sums for part in parts),
        sum(part.counts for part in parts),
        sum(part.inertia for part in parts),
        far_squared,
        far_latents,
    )


def update(centres: NDArray, merged: PartialSums) -> NDArray:
    """Return the next centres (k, d), float64: the mean of the latents of each centre.

    A centre without latents moves to a far latent: the first such centre to the latent farthest from its own centre,
    the next to the farthest latent of another centre, and so on. It stays if no such latent is left.
    """
    moved = np.array(centres, dtype=np.float64)
    filled = merged.counts > 0
    moved[filled] = merged.sums[filled] / merged.counts[filled, None]
    empty = np.flatnonzero(~filled)
    donors = np.argsort(-merged.far_squared, kind="stable")[: len(empty)]
    donors = donors[merged.far_squared[donors] > 0]
    moved[empty[: len(donors)]] = merged.far_latents[donors]
    return moved


class Shard:
    """Some of the rows, and the partial results of k-means over them. Its state is only a cache.

    Parameters
    ----------
    latents : ndarray of shape (m, d), float32
    rows : ndarray of shape (m,), int64, ascending
        Global row of each latent.
    total : int
        Number of rows of all shards together.
    """

    def __init__(self, latents: NDArray, rows: NDArray, total: int) -> None:
        self.latents, self.rows, self.total = latents, rows, total
        self._forget()
        self._rest: tuple[NDArray, Shard] | None = None

    def assign(self, centres: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return global rows, labels and squared distances (m,)."""
        return (self.rows, *assign(self.latents, centres))

    def assign_and_sum(self, centres: NDArray) -> PartialSums:
        """Return the partial sums of a Lloyd iteration."""
        return partial_sums(self.latents, *assign(self.latents, centres), len(centres))

    def take(self, rows: NDArray) -> tuple[NDArray, NDArray]:
        """Return those of the global ``rows`` that this shard holds, and their latents."""
        here = np.isin(self.rows, rows)
        return self.rows[here], self.latents[here]

    def sum_by(self, labels: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """Return sums (k, d) and counts (k,) by label; ``labels`` (total,) cover all global rows; -1 is left out."""
        mine = labels[self.rows]
        return sum_by(self.latents[mine >= 0], mine[mine >= 0], k)

    def cover(self, candidates: NDArray) -> tuple[float, NDArray]:
        """Return the sum of squared distances to the nearest candidates, and the number of rows of each candidate."""
        self._look_at(candidates)
        return float(self._squared.sum()), np.bincount(self._labels, minlength=len(candidates))

    def sample(self, candidates: NDArray, rate: float, key: tuple[int, ...]) -> NDArray:
        """Return each global row with probability ``rate`` times its squared distance to the nearest candidate."""
        self._look_at(candidates)
        uniforms = np.random.default_rng(key).random(self.total)[self.rows]
        return self.rows[uniforms < rate * self._squared]

    def without(self, excluded: NDArray, method: str, *arguments: Any) -> Any:
        """Return the result of ``method`` over the rows that are not ``excluded``."""
        if self._rest is None or not np.array_equal(self._rest[0], excluded):
            keep = ~np.isin(self.rows, excluded)
            self._rest = (excluded, Shard(self.latents[keep], self.rows[keep], self.total))
        return getattr(self._rest[1], method)(*arguments)

    def _forget(self) -> None:
        self._candidates = self.latents[:0]
        self._labels = np.zeros(len(self.latents), dtype=np.int64)
        self._squared = np.full(len(self.latents), np.inf)

    def _look_at(self, candidates: NDArray) -> None:
        """Update the cached nearest candidates; only candidates added since the last call are compared."""
        old = len(self._candidates)
        if not np.array_equal(self._candidates, candidates[:old]):
            old = 0
            self._forget()
        if old < len(candidates):
            labels, squared = assign(self.latents, candidates[old:])
            nearer = squared < self._squared
            self._labels[nearer], self._squared[nearer] = labels[nearer] + old, squared[nearer]
        self._candidates = candidates


class Shards(Protocol):
    """Access to all shards, in this process (`LocalShards`) or in others.

    Attributes
    ----------
    rows : ndarray of int64, ascending
        All global rows that the shards hold together.
    """

    rows: NDArray

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call ``method`` of every `Shard`; return the results in the order of the shards."""


class LocalShards:
    """Latents (n, d) in this process, split into ``shards`` shards by row number modulo ``shards``."""

    def __init__(self, latents: NDArray, shards: int = 1) -> None:
        self.rows = np.arange(len(latents))
        self._shards = [Shard(latents[at::shards], self.rows[at::shards], len(latents)) for at in range(shards)]

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call ``method`` of every `Shard`; return the results in the order of the shards."""
        return [getattr(shard, method)(*arguments) for shard in self._shards]


class Without:
    """View of other shards without some of their rows."""

    def __init__(self, shards: Shards, excluded: NDArray) -> None:
        self.rows = np.setdiff1d(shards.rows, excluded)
        self._shards, self._excluded = shards, excluded

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call ``method`` of every `Shard` without the excluded rows; return the results in the order of the shards."""
        return self._shards.each("without", self._excluded, method, *arguments)


def assign_all(shards: Shards, centres: NDArray) -> tuple[NDArray, NDArray]:
    """Return the nearest centre (n,) of every row, in ascending order of the rows, and the squared distance (n,)."""
    rows, labels, squared = map(np.concatenate, zip(*shards.each("assign", centres), strict=True))
    order = np.argsort(rows)
    return labels[order], squared[order]


def take(shards: Shards, rows: NDArray) -> NDArray:
    """Return the latents of global rows, in ascending order of the rows."""
    found, latents = map(np.concatenate, zip(*shards.each("take", rows), strict=True))
    return latents[np.argsort(found)]


def _initial_centres(shards: Shards, k: int, seed: int) -> NDArray:
    """Return up to ``k`` starting centres by k-means|| (Bahmani 2012, algorithm 2, with l = 2k)."""
    first = np.random.default_rng((seed, _START)).choice(shards.rows, size=1)
    candidates = take(shards, first)
    for done in count():
        costs, weights = zip(*shards.each("cover", candidates), strict=True)
        cost = sum(costs)
        # More rounds than the paper's five are needed only if far latents take all the probability.
        if cost == 0 or (done >= SAMPLING_ROUNDS and len(candidates) >= k):
            break
        rows = np.concatenate(shards.each("sample", candidates, 2 * k / cost, (seed, _SAMPLE, done)))
        candidates = np.concatenate([candidates, np.unique(take(shards, rows), axis=0)])
    if len(candidates) <= k:
        return candidates.astype(np.float64)
    from sklearn.cluster import KMeans  # imported late: it takes two seconds, and actors that hold latents do without

    state = int(np.random.default_rng((seed, _REDUCE)).integers(2**32))
    reduced = KMeans(k, n_init=3, random_state=state)
    return reduced.fit(candidates.astype(np.float64), sample_weight=sum(weights)).cluster_centers_


def kmeans(
    latents: NDArray | None, k: int, iterations: int, seed: int, shards: Shards | None = None
) -> tuple[NDArray, NDArray, float]:
    """Find ``k`` centres by k-means|| initialisation and Lloyd iterations.

    Parameters
    ----------
    latents : ndarray of shape (n, d), float32, or None
        Not read, and may be None, when ``shards`` hold the rows.
    k : int
    iterations : int
        Most Lloyd iterations; fewer when the centres converge.
    seed : int
    shards : Shards or None

    Returns
    -------
    centres : ndarray of shape (k, d), float64
        Fewer than ``k`` where the latents have fewer distinct values.
    labels : ndarray of shape (n,), int64
        Nearest centre of each row, in ascending order of the rows.
    inertia : float
        Sum of squared distances to the nearest centres.
    """
    shards = LocalShards(latents) if shards is None else shards
    centres = _initial_centres(shards, k, seed)
    for _ in range(iterations):
        moved = update(centres, merge(shards.each("assign_and_sum", centres)))
        at_rest = np.abs(moved - centres).max() <= 1e-10 * np.abs(moved).max()
        centres = moved
        if at_rest:
            break
    labels, squared = assign_all(shards, centres)
    return centres, labels, float(squared.sum())
