"""Groups and conditions: known answers, invariants, and independence of shards, blocks and row order."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from ttsgan.clustering import (
    LocalShards,
    allocate,
    assign,
    entity_latents,
    form_groups,
    kmeans,
    merge,
    partial_sums,
    update,
)
from ttsgan.config import ClusterConfig
from ttsgan.errors import DataError


def blobs(n, k, d, seed=0, spread=8.0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, d)) * spread
    return (centres[rng.integers(k, size=n)] + rng.standard_normal((n, d))).astype(np.float32)


def names(n):
    return np.array([f"e{row:04d}" for row in range(n)], dtype=object)


def same(groups, others):
    """Assert that groups are equal: names, labels and counts exactly, means to 1e-6."""
    left, right = dataclasses.asdict(groups), dataclasses.asdict(others)
    left.update(left.pop("members"), **left.pop("conditions"))
    right.update(right.pop("members"), **right.pop("conditions"))
    for name, value in left.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, right[name], atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_assign_by_hand():
    latents = np.array([[0, 0], [3, 4], [1, 0]], dtype=np.float32)
    labels, squared = assign(latents, np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]]))
    np.testing.assert_array_equal(labels, [0, 1, 0])  # the last is equally near to all: the first wins
    np.testing.assert_array_equal(squared, [0, 17, 1])


@pytest.mark.parametrize("offset", [0, 1e5])
def test_assign_does_not_depend_on_the_block(offset):
    latents = blobs(500, 4, 7) + np.float32(offset)
    latents[100:140] = latents[99]  # equal rows
    centres = np.concatenate([latents[90:130:3], latents[[99, 99]]]).astype(np.float64)  # and equal centres
    centres = np.concatenate([centres, centres + np.linspace(-1e-7, 1e-7, 7)])  # and centres that a product mixes up
    labels, squared = assign(latents, centres)
    for block in (1, 3, 64, 499):
        other_labels, other_squared = assign(latents, centres, block)
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(squared, other_squared)
    exact = ((latents[:, None].astype(np.float64) - centres) ** 2).sum(axis=2)
    np.testing.assert_array_equal(labels, exact.argmin(axis=1))
    np.testing.assert_allclose(squared, exact.min(axis=1))


def test_merged_parts_equal_the_whole():
    latents = blobs(300, 5, 4)
    centres = latents[:6].astype(np.float64)
    centres[5] = 1e4  # nothing is near
    labels, squared = assign(latents, centres)
    whole = partial_sums(latents, labels, squared, 6)
    parts = [partial_sums(latents[at::4], labels[at::4], squared[at::4], 6) for at in range(4)]
    for merged in (merge(parts), merge(parts[::-1])):
        np.testing.assert_allclose(merged.sums, whole.sums, rtol=1e-12, atol=1e-9)
        np.testing.assert_array_equal(merged.counts, whole.counts)
        assert merged.inertia == pytest.approx(whole.inertia)
        np.testing.assert_array_equal(merged.far_squared, whole.far_squared)
        np.testing.assert_array_equal(merged.far_latents, whole.far_latents)
    assert whole.counts[5] == 0
    assert whole.far_squared[5] == -1


def test_empty_centre_moves_onto_the_farthest_latent():
    latents = np.array([[0], [1], [2], [10], [14]], dtype=np.float32)
    centres = np.array([[1.0], [12.0], [500.0], [600.0], [700.0]])
    moved = update(centres, partial_sums(latents, *assign(latents, centres), 5))
    # 10 and 14 are equally far from 12: the smaller is taken; then the farthest of the other centre; the last stays.
    np.testing.assert_array_equal(moved, [[1], [12], [10], [0], [700]])


def test_empty_centres_fill_up():
    latents = blobs(200, 3, 2, spread=30)
    centres = np.array([latents.mean(axis=0), [1e6, 1e6], [2e6, 2e6]], dtype=np.float64)
    for _ in range(10):
        labels, squared = assign(latents, centres)
        merged = partial_sums(latents, labels, squared, 3)
        centres = update(centres, merged)
    assert (merged.counts > 0).all()
    assert merged.inertia < 1.05 * KMeans(3, n_init=3, random_state=0).fit(latents).inertia_


def test_lloyd_equals_sklearn():
    latents = blobs(2000, 12, 8, spread=1.5)
    start = latents[:12].astype(np.float64)
    theirs = KMeans(12, init=start, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(latents.astype(np.float64))
    centres, shards = start, LocalShards(latents, 3)
    for _ in range(10):
        centres = update(centres, merge(shards.each("assign_and_sum", centres)))
    np.testing.assert_allclose(centres, theirs.cluster_centers_, atol=1e-5)


@pytest.mark.parametrize(("k", "spread"), [(10, 8.0), (30, 1.0)])
def test_inertia_near_the_best_of_sklearn(k, spread):
    latents = blobs(3000, k, 6, spread=spread)
    best = KMeans(k, n_init=3, random_state=0).fit(latents).inertia_
    for seed in range(3):
        centres, labels, inertia = kmeans(latents, k, 20, seed)
        assert inertia <= 1.05 * best
        assert inertia == pytest.approx(((latents - centres[labels]) ** 2).sum(), rel=1e-5)


def test_kmeans_does_not_depend_on_the_shards():
    latents = blobs(700, 9, 5, spread=2)
    centres, labels, inertia = kmeans(latents, 14, 20, seed=3)
    assert centres.shape == (14, 5)
    for shards in (2, 3, 7):
        other_centres, other_labels, other_inertia = kmeans(None, 14, 20, 3, LocalShards(latents, shards))
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_allclose(centres, other_centres, atol=1e-6)
        assert inertia == pytest.approx(other_inertia)
    assert not np.array_equal(kmeans(latents, 14, 20, seed=4)[0], centres)


def test_shard_remembers_only_what_it_may():
    latents = blobs(60, 4, 3)
    (shard,) = LocalShards(latents)._shards
    for candidates in (latents[:3], latents[:9], latents[20:32], latents[20:25], latents[40:41]):
        labels, squared = assign(latents, candidates)
        cost, counts = shard.cover(candidates)
        assert cost == pytest.approx(squared.sum())
        np.testing.assert_array_equal(counts, np.bincount(labels, minlength=len(candidates)))
        for excluded in (np.array([0, 5]), np.array([7, 59])):
            rest = np.delete(np.arange(60), excluded)
            np.testing.assert_array_equal(shard.without(excluded, "assign", candidates)[0], rest)


def test_fewer_distinct_latents_than_centres():
    latents = np.repeat(np.array([[0, 0], [5, 5]], dtype=np.float32), 20, axis=0)
    centres, _, inertia = kmeans(latents, 4, 10, seed=0)
    assert inertia == 0
    np.testing.assert_array_equal(np.sort(centres, axis=0), [[0, 0], [5, 5]])


def test_candidates_suffice_when_one_latent_takes_all_the_probability():
    latents = blobs(40, 1, 2)
    latents[:5] = 10.0 ** np.arange(4, 9)[:, None]
    assert len(kmeans(latents, 20, 5, seed=0)[0]) == 20


def test_entity_latents_are_means_in_ascending_order():
    latents = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    unique, means = entity_latents(["b", "a", "b"], latents)
    assert unique.tolist() == ["a", "b"]
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means, [[3, 4], [3, 4]])
    latents[1, 0] = np.nan
    with pytest.raises(DataError, match="entity 'a' is not finite"):
        entity_latents(["b", "a", "b"], latents)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(20, 400),
    seed=st.integers(0, 1000),
    least=st.integers(10, 20),
    groups=st.sampled_from([0, 2, 9, 200]),
    quantile=st.sampled_from([0.51, 0.9, 0.99, 1.0]),
    dominance=st.sampled_from([0.03, 0.15, 1.0]),
    probes=st.sampled_from([0, 20]),
)
def test_invariants_of_groups(n, seed, least, groups, quantile, dominance, probes):
    rng = np.random.default_rng(seed)
    latents = blobs(n, int(rng.integers(1, 12)), 3, seed, spread=rng.uniform(0, 10))
    level = rng.lognormal(sigma=1.0, size=n)
    config = ClusterConfig(
        min_group_size=least,
        groups=groups,
        outlier_quantile=quantile,
        max_dominance=dominance,
        probes=probes,
    )
    if n < 2 * least:
        with pytest.raises(DataError, match=rf"{n} entities are too few .* {2 * least} or more"):
            form_groups(names(n), latents, level, config, seed)
        return
    found = form_groups(names(n), latents, level, config, seed)
    members, conditions = found.members, found.conditions
    count = len(found.group_id)
    assert found.size.min() >= least
    np.testing.assert_array_equal(found.group_id, np.arange(count))
    np.testing.assert_array_equal(members.entity, names(n))
    np.testing.assert_array_equal(np.bincount(members.group_id[members.in_condition], minlength=count), found.size)
    np.testing.assert_array_equal(np.bincount(members.group_id[members.probe], minlength=count), conditions.probes)
    assert not (members.probe & ~members.in_condition).any()
    asked = np.minimum(found.size, probes) if probes else found.size
    # All of a group are averaged where one would dominate fewer, which nobody does at a limit of 1.
    assert ((conditions.probes == asked) | ((conditions.probes == found.size) & (dominance < 1))).all()
    assert count == 1 or found.dominance.max() <= dominance
    for group in range(count):
        mine = members.group_id == group
        np.testing.assert_allclose(conditions.cond[group], latents[mine & members.probe].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(found.centroid[group], latents[mine & members.in_condition].mean(axis=0), atol=1e-5)
        levels = level[mine & members.probe]
        assert found.dominance[group] == pytest.approx(levels.max() / levels.sum())
    if dominance == 1:
        outliers = n - np.count_nonzero(members.in_condition)
        assert outliers == n - 1 - np.floor((n - 1) * quantile)


def test_groups_are_the_blobs():
    rng = np.random.default_rng(1)
    blob = rng.integers(5, size=200)
    latents = (np.eye(5)[blob] * 50 + rng.standard_normal((200, 5))).astype(np.float32)
    found = form_groups(names(200), latents, np.ones(200), ClusterConfig(groups=5, max_dominance=1), 0)
    assert len(found.group_id) == 5
    for group in range(5):
        assert len(set(blob[found.members.group_id == group])) == 1


def test_result_does_not_depend_on_row_order_or_shards():
    rng = np.random.default_rng(5)
    entity = names(150)[rng.integers(150, size=400)]
    latents, level = blobs(400, 4, 3), rng.lognormal(size=400)
    config = ClusterConfig(probes=16)
    found = form_groups(entity, latents, level, config, 7)
    order = rng.permutation(400)
    same(found, form_groups(entity[order].tolist(), latents[order], level[order], config, 7))
    unique, means = entity_latents(entity, latents)
    for shards in (1, 3):
        same(found, form_groups(entity, None, level, config, 7, LocalShards(means, shards)))
    # An entity is one point and one member, however many series it has.
    assert found.members.entity.tolist() == sorted(set(entity)) == unique.tolist()
    other = form_groups(entity, latents, level, config, 8)
    assert not np.array_equal(found.members.probe, other.members.probe)


def test_outliers_move_neither_groups_nor_conditions():
    latents, rng = blobs(300, 3, 4, spread=5), np.random.default_rng(0)
    outliers = [7, 100, 222]
    directions = rng.standard_normal((3, 4)).astype(np.float32)
    config = ClusterConfig(outlier_quantile=0.99, max_dominance=1)
    results = []
    for distance in (100, 1000):
        latents[outliers] = distance * directions
        found = form_groups(names(300), latents, np.ones(300), config, 0)
        assert np.flatnonzero(~found.members.in_condition).tolist() == outliers
        results.append(found)
    near, far = results
    assert len(near.group_id) > 2
    np.testing.assert_array_equal(near.conditions.cond, far.conditions.cond)
    inside = near.members.in_condition
    np.testing.assert_array_equal(near.members.group_id[inside], far.members.group_id[inside])
    # They are members of the nearest group all the same, so that each counts in the shares of the population.
    assert len(allocate(near.members.group_id, 300)) == 300
    assert np.isfinite(near.condition_of(names(300)[outliers])).all()


def two_groups(sizes):
    """Two far blobs of the given sizes, entities in order."""
    rng = np.random.default_rng(0)
    centre = np.repeat([[0.0], [100.0]], sizes, axis=0)
    return (centre + rng.standard_normal((sum(sizes), 1))).astype(np.float32)


CONFIG = ClusterConfig(min_group_size=10, groups=2, outlier_quantile=1.0, max_dominance=0.2)


def test_dominant_entities_leave_largest_first():
    level = np.ones(26)
    # 12 of 12 + 5 + 11 = 28 is 0.43, so it leaves; 5 of 16 is 0.31, so it leaves too; then 1 of 11 is left.
    level[[2, 4]] = 12, 5
    found = form_groups(names(26), two_groups([13, 13]), level, CONFIG, 0)
    assert np.flatnonzero(~found.members.in_condition).tolist() == [2, 4]
    assert not found.members.probe[[2, 4]].any()
    first = found.members.group_id[0]
    assert found.size[first] == 11
    assert found.dominance[first] == pytest.approx(1 / 11)
    assert found.size[1 - first] == 13
    assert found.dominance[1 - first] == pytest.approx(1 / 13)


def test_group_that_dominance_makes_too_small_joins_its_neighbour():
    level = np.ones(23)
    # The first group has 10 entities, so none may leave: 4 of 13 is 0.31. Joined, 4 of 26 is 0.15, and nobody leaves.
    level[3] = 4
    found = form_groups(names(23), two_groups([10, 13]), level, CONFIG, 0)
    assert found.size.tolist() == [23]
    assert found.dominance[0] == pytest.approx(4 / 26)


def test_joined_groups_meet_in_between():
    rng = np.random.default_rng(0)
    # At 0 and 10 every household outweighs all smaller ones, so these groups join; 5 is nearer to -10.5 than to 21.
    latents = np.repeat([0.0, 10.0, -10.5, 21.0], 10)[:, None] + 0.01 * rng.standard_normal((40, 1))
    level = np.ones(40)
    level[:20] = 2.0 ** np.arange(20)
    config = dataclasses.replace(CONFIG, groups=4)
    members = form_groups(names(40), latents.astype(np.float32), level, config, 0).members
    assert len(set(members.group_id[:30])) == 1
    assert len(set(members.group_id[30:])) == 1
    assert members.group_id[0] != members.group_id[39]


def test_last_group_tells_its_dominance():
    level = np.full(20, 1e-3)
    level[:12] = 2.0 ** np.arange(12, 0, -1)  # each is about half of what is left
    found = form_groups(names(20), two_groups([10, 10]), level, CONFIG, 0)
    assert len(found.size) == 1
    assert found.size[0] >= 10
    held = level[found.members.in_condition]
    assert found.dominance[0] == pytest.approx(held.max() / held.sum())
    assert found.dominance[0] > CONFIG.max_dominance
    # Households that use nothing dominate nothing.
    assert form_groups(names(20), two_groups([10, 10]), np.zeros(20), CONFIG, 0).dominance.max() == 0


def test_small_group_is_dissolved_into_the_nearest():
    latents = np.concatenate([two_groups([20, 20]), np.full((4, 1), 80, np.float32)])
    config = dataclasses.replace(CONFIG, groups=3)
    found = form_groups(names(44), latents, np.ones(44), config, 0)
    assert sorted(found.size) == [20, 24]
    assert found.size[found.members.group_id[-1]] == 24
    assert found.members.group_id[-1] == found.members.group_id[20]


def test_allocate_by_largest_remainder():
    found = form_groups(names(50), two_groups([20, 30]), np.ones(50), CONFIG, 0)
    small = found.members.group_id[0]
    for total, expected in ((0, 0), (1, 0), (5, 2), (7, 3), (50, 20), (1000, 400), (1001, 400)):
        allocated = allocate(found.members.group_id, total)
        assert len(allocated) == total
        assert np.count_nonzero(allocated == small) == expected
        assert (np.diff(allocated) >= 0).all()


def test_condition_of_entities():
    found = form_groups(names(40), two_groups([20, 20]), np.ones(40), CONFIG, 0)
    cond = found.condition_of(["e0039", "e0000"])
    assert cond.dtype == np.float32
    np.testing.assert_array_equal(cond, found.conditions.cond[found.members.group_id[[39, 0]]])
    for name in ("a", "e0020x", "z"):
        with pytest.raises(DataError, match=f"entity '{name}' is in no group"):
            found.condition_of(["e0000", name])


@pytest.mark.parametrize("level", [-1.0, np.nan, np.inf])
def test_level_that_is_no_size(level):
    levels = np.ones(40)
    levels[5] = level
    with pytest.raises(DataError, match=r"level of entity 'e0005' is .*; allowed: 0 or more"):
        form_groups(names(40), two_groups([20, 20]), levels, CONFIG, 0)
