"""Groups of entities in latent space, and the conditions made from them.

Axis letters: n entities (rows), d latent dimensions, G groups.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttsgan.clustering.kmeans import LocalShards, Shards, Without, assign, assign_all, kmeans, sum_by, take
from ttsgan.config import ClusterConfig
from ttsgan.errors import DataError

_log = logging.getLogger(__name__)
_PROBES = 3
"""Random stream of the probes; k-means uses the streams before it."""
PROBE_DRAWS = 20
"""Attempts to draw probes of which none dominates, before all of the group are taken."""


@dataclass(frozen=True)
class Members:
    """All entities in ascending order, with their groups.

    ``entity`` (n,) object; ``group_id`` (n,) int64; ``in_condition`` (n,) bool: eligible for the condition, neither
    outlier nor dominant; ``probe`` (n,) bool: averaged into it.
    """

    entity: NDArray
    group_id: NDArray
    in_condition: NDArray
    probe: NDArray


@dataclass(frozen=True)
class Conditions:
    """``group_id`` and number of ``probes`` of each group (G,), int64; the probes' mean ``cond`` (G, d), float32."""

    group_id: NDArray
    probes: NDArray
    cond: NDArray


@dataclass(frozen=True)
class Groups:
    """Disjoint groups of entities and their conditions. Confidential: it reveals who is in which group.

    Attributes
    ----------
    group_id : ndarray of shape (G,), int64
        0 to G-1.
    size : ndarray of shape (G,), int64
        Entities with ``in_condition``.
    dominance : ndarray of shape (G,), float64
        Largest share, 0 to 1, of one probe in the sum of the probes' levels.
    centroid : ndarray of shape (G, d), float32
        Mean latent of the entities with ``in_condition``.
    members : Members
    conditions : Conditions
    """

    group_id: NDArray
    size: NDArray
    dominance: NDArray
    centroid: NDArray
    members: Members
    conditions: Conditions

    def condition_of(self, entities: ArrayLike) -> NDArray:
        """Return the condition (m, d), float32, of the group of each entity (m,); DataError for an unknown entity."""
        wanted = np.asarray(entities, dtype=object)
        at = np.searchsorted(self.members.entity, wanted).clip(max=len(self.members.entity) - 1)
        unknown = np.flatnonzero(self.members.entity[at] != wanted)
        if len(unknown):
            raise DataError(f"entity {wanted[unknown[0]]!r} is in no group; cluster again with its latents")
        return self.conditions.cond[self.members.group_id[at]]


def allocate(member_groups: NDArray, total: int) -> NDArray:
    """Return the group of each of ``total`` series to generate (total,), ascending.

    Each group gets series in proportion to its entities, those outside the condition included, by the largest remainder
    method (ties: lower id).

    Parameters
    ----------
    member_groups : ndarray of shape (n,), int64
        Group of each entity.
    total : int
    """
    counts = np.bincount(member_groups)
    quota, remainder = np.divmod(total * counts, len(member_groups))
    quota[np.argsort(-remainder, kind="stable")[: total - quota.sum()]] += 1
    return np.repeat(np.arange(len(counts)), quota)


def entity_latents(entities: ArrayLike, latents: NDArray) -> tuple[NDArray, NDArray]:
    """Return the unique entities (m,), ascending, and the mean latent (m, d), float32, of each one's series.

    Parameters
    ----------
    entities : array_like of shape (n,), text
    latents : ndarray of shape (n, d), float32

    Raises
    ------
    DataError
        A latent is not finite.
    """
    unique, means = _entity_means(entities, latents)
    bad = np.flatnonzero(~np.isfinite(means).all(axis=1))
    if len(bad):
        raise DataError(f"the latent of entity {unique[bad[0]]!r} is not finite; train and encode again")
    return unique, means.astype(np.float32)


def _entity_means(entities: ArrayLike, values: NDArray) -> tuple[NDArray, NDArray]:
    unique, inverse = np.unique(np.asarray(entities, dtype=object), return_inverse=True)
    sums, counts = sum_by(values, inverse, len(unique))
    return unique, sums / counts[:, None]


def form_groups(
    entities: ArrayLike,
    latents: NDArray | None,
    level: ArrayLike,
    config: ClusterConfig,
    seed: int,
    shards: Shards | None = None,
) -> Groups:
    """Group entities by their latents, each group with a minimum size and no dominant entity, and make conditions.

    An entity is one point, however many series it has.

    1. Outliers are the entities whose distance to the nearest centroid of a large enough group exceeds the
       ``outlier_quantile`` of all. They remain members of the nearest group, but neither groups nor conditions depend
       on them.
    2. k-means runs over the other entities.
    3. Groups with too few entities are dissolved, smallest first; each entity joins the nearest remaining group.
    4. Dominant entities leave the condition, largest level first. A group that would become too small by this joins its
       nearest neighbour. The last remaining group keeps the minimum size instead, and reports the dominance it has.

    Parameters
    ----------
    entities : array_like of shape (n,), text
        Entity of each series.
    latents : ndarray of shape (n, d), float32, or None
        Not read, and may be None, when ``shards`` hold one row per entity, in ascending order of the entities.
    level : array_like of shape (n,), in the unit of the series, at least 0
        Mean absolute value of each series; an entity's level is the mean over its series.
    config : ClusterConfig
        ``groups`` 0 means entities // (2 min_group_size), at least 2.
    seed : int
    shards : Shards or None

    Returns
    -------
    Groups

    Raises
    ------
    DataError
        Fewer entities than two groups need; a latent that is not finite; a level that is negative or not finite.
    """
    unique, levels = _entity_means(entities, np.asarray(level, dtype=np.float64)[:, None])
    levels, least, n = levels[:, 0], config.min_group_size, len(unique)
    if n < 2 * least:
        raise DataError(
            f"{n} entities are too few to group: cluster.min_group_size is {least}, so {2 * least} or more are needed;"
            " add entities or lower cluster.min_group_size (10 or more)"
        )
    bad = np.flatnonzero(~(np.isfinite(levels) & (levels >= 0)))
    if len(bad):
        raise DataError(f"the level of entity {unique[bad[0]]!r} is {levels[bad[0]]}; allowed: 0 or more")
    if shards is None:
        shards = LocalShards(entity_latents(entities, latents)[1])
    assert len(shards.rows) == n, (len(shards.rows), n)

    k = min(config.groups or max(2, n // (2 * least)), n // least)
    eligible = np.ones(n, dtype=bool)
    centres, labels, _ = kmeans(None, k, config.iterations, seed, shards)
    _, alive = _dissolve(shards, centres, labels, eligible, least)
    _, squared = assign_all(shards, centres[alive])
    eligible = squared <= np.quantile(squared, config.outlier_quantile)
    if not eligible.all():
        inliers = Without(shards, np.flatnonzero(~eligible))
        centres, _, _ = kmeans(None, k, config.iterations, seed, inliers)
        labels, _ = assign_all(shards, centres)
    labels, alive = _dissolve(shards, centres, labels, eligible, least)
    labels, alive, leavers = _limit_dominance(centres, labels, alive, eligible, levels, config)
    groups = _summarise(shards, unique, np.searchsorted(alive, labels), eligible & ~leavers, levels, config, seed)
    _log.debug(
        "%d groups of %d to %d entities; %d outliers and %d dominant entities are in no condition",
        len(groups.size), groups.size.min(), groups.size.max(), (~eligible).sum(), leavers.sum(),
    )  # fmt: skip
    return groups


def _dissolve(
    shards: Shards, centres: NDArray, labels: NDArray, eligible: NDArray, least: int
) -> tuple[NDArray, NDArray]:
    """Dissolve groups with fewer than ``least`` eligible rows, smallest first; return labels and remaining groups."""
    labels, alive = labels.copy(), np.arange(len(centres))
    counts = np.bincount(labels[eligible], minlength=len(centres))
    # A group that is large enough only grows, so these are all the rows that can ever move.
    moving = np.flatnonzero((counts < least)[labels])
    latents = take(shards, moving)
    while len(alive) > 1:
        smallest = alive[counts[alive].argmin()]
        if counts[smallest] >= least:
            break
        alive = alive[alive != smallest]
        here = labels[moving] == smallest
        labels[moving[here]] = alive[assign(latents[here], centres[alive])[0]]
        counts = np.bincount(labels[eligible], minlength=len(centres))
    return labels, alive


def _largest_shares(levels: NDArray) -> NDArray:
    """Return the share of the largest of descending levels in their sum, and after removing the first 1, 2, ... ."""
    tails = np.cumsum(levels[::-1])[::-1]
    return np.divide(levels, tails, out=np.zeros(len(levels)), where=tails > 0)


def _limit_dominance(
    centres: NDArray, labels: NDArray, alive: NDArray, eligible: NDArray, levels: NDArray, config: ClusterConfig
) -> tuple[NDArray, NDArray, NDArray]:
    """Return labels, remaining groups, and the mask of the dominant entities, which leave their condition."""
    labels, centres, leavers = labels.copy(), centres.copy(), np.zeros(len(labels), dtype=bool)
    pending = list(alive)
    while pending:
        group = pending.pop(0)
        rows = np.flatnonzero(eligible & (labels == group))
        rows = rows[np.argsort(-levels[rows], kind="stable")]
        # The group must keep the minimum size.
        shares = _largest_shares(levels[rows])[: len(rows) - config.min_group_size + 1]
        if shares.min() <= config.max_dominance or len(alive) == 1:
            held = np.flatnonzero(shares <= config.max_dominance)
            leavers[rows[: held[0] if len(held) else shares.argmin()]] = True
            continue
        others = alive[alive != group]
        neighbour = others[((centres[others] - centres[group]) ** 2).sum(axis=1).argmin()]
        theirs = eligible & (labels == neighbour)
        total = len(rows) + theirs.sum()
        centres[neighbour] = (len(rows) * centres[group] + theirs.sum() * centres[neighbour]) / total
        labels[labels == group], leavers[theirs], alive = neighbour, False, others
        if neighbour not in pending:
            pending.append(neighbour)
    return labels, alive, leavers


def _dominance(levels: NDArray) -> float:
    """Return the largest share of one entity in the sum of levels."""
    return _largest_shares(-np.sort(-levels))[0]


def _draw_probes(rows: NDArray, levels: NDArray, config: ClusterConfig, rng: np.random.Generator) -> NDArray:
    """Return the probes: ``config.probes`` random rows; all rows if that is 0 or one dominates in every attempt."""
    if 0 < config.probes < len(rows):
        for _ in range(PROBE_DRAWS):
            few = rng.choice(rows, config.probes, replace=False)
            if _dominance(levels[few]) <= config.max_dominance:
                return few
    return rows


def _summarise(
    shards: Shards,
    entity: NDArray,
    labels: NDArray,
    counted: NDArray,
    levels: NDArray,
    config: ClusterConfig,
    seed: int,
) -> Groups:
    """Draw the probes and average their latents; return the groups."""
    group_id = np.arange(labels.max() + 1)
    dominance, probe = np.zeros(len(group_id)), np.zeros(len(labels), dtype=bool)
    for group in group_id:
        rng = np.random.default_rng((seed, _PROBES, int(group)))
        rows = _draw_probes(np.flatnonzero(counted & (labels == group)), levels, config, rng)
        probe[rows], dominance[group] = True, _dominance(levels[rows])

    def means(mask: NDArray) -> tuple[NDArray, NDArray]:
        sums, counts = zip(*shards.each("sum_by", np.where(mask, labels, -1), len(group_id)), strict=True)
        return (sum(sums) / sum(counts)[:, None]).astype(np.float32), sum(counts)

    centroid, size = means(counted)
    cond, probes = means(probe)
    members = Members(entity, labels, counted, probe)
    return Groups(group_id, size, dominance, centroid, members, Conditions(group_id, probes, cond))
