"""Attacks on sets whose answer is known: exact neighbours, planted copies, averages, independent draws."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ttsgan.evaluation import attacks, copying
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.neighbours import log_density, nearest
from ttsgan.evaluation.stats import auc_delong

STEPS = 6
DAY = STEPS


def homes(num, seed, prefix, days=56, start="2013-01-01"):
    """Draw homes of lognormal days: own level, own shape, correlated noise."""
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-1, 0.5, (num, 1, 1)))
    shape = np.exp(0.5 * rng.normal(size=(num, 1, STEPS)) + np.sin(np.arange(STEPS)))
    noise = np.exp(0.4 * rng.normal(size=(num, days, STEPS)) + 0.3 * rng.normal(size=(num, days, 1)))
    return Judged(
        values=(level * shape * noise).reshape(num, 1, -1).astype(np.float32),
        entities=np.array([f"{prefix}{i}" for i in range(num)]),
        starts=np.full(num, np.datetime64(start, "s")),
        step_seconds=14_400,
        unit="kWh",
    )


@pytest.fixture(scope="module")
def views():
    return attacks.Views(np.array([0.5]))


@pytest.fixture(scope="module")
def search(views):
    return copying.CopySearch(
        views, homes(200, 1, "t"), homes(100, 2, "h"), homes(100, 3, "r"), np.random.default_rng(0)
    )


SETTINGS = {"literal": 0.05, "soft": 0.9, "hard": 0.5}


def flags(search, synthetic, num_null=200):
    """Flag a set beside independent series, which say what chance does."""
    found = search.measure(copying_join(homes(num_null, 9, "s"), synthetic))
    lowest = copying.null_minimum(found.part(slice(0, num_null)), 0.05)
    return copying.copy_flags(found.part(slice(num_null, None)), lowest, **SETTINGS)


def copying_join(first, second):
    return replace(
        first,
        values=np.concatenate([first.values, second.values]),
        entities=np.concatenate([first.entities, second.entities]),
        starts=np.concatenate([first.starts, second.starts]),
    )


def test_nearest_is_exact():
    rng = np.random.default_rng(0)
    queries, base = (
        rng.normal(size=(70, 30)).astype(np.float32),
        rng.normal(size=(150, 30)).astype(np.float32),
    )
    distances, indices = nearest(queries, base, 3)
    full = cdist(queries, base)
    assert indices.tolist() == np.argsort(full, 1)[:, :3].tolist()
    assert distances == pytest.approx(np.sort(full, 1)[:, :3], rel=1e-5)


def test_nearest_does_not_depend_on_blocks():
    rng = np.random.default_rng(1)
    queries, base = (
        rng.normal(size=(90, 40)).astype(np.float32),
        rng.normal(size=(300, 40)).astype(np.float32),
    )
    base[200:] = base[:100]
    whole = nearest(queries, base, 4)
    for query_block, base_block in ((7, 13), (90, 64), (1, 299)):
        blocked = nearest(queries, base, 4, query_block=query_block, base_block=base_block)
        assert np.array_equal(whole[0], blocked[0])
        assert np.array_equal(whole[1], blocked[1])


def test_nearest_survives_cancellation_near_zero():
    """With |x| = 1e4 the product formula alone is wrong by more than the distances themselves."""
    rng = np.random.default_rng(2)
    base = (1e4 + rng.normal(size=(50, 100))).astype(np.float32)
    queries = base + np.float32(1e-2)
    distances, indices = nearest(queries, base, 1)
    assert indices[:, 0].tolist() == list(range(50))
    assert distances[:, 0] == pytest.approx(0.1, rel=0.1)
    assert nearest(base, base, 1)[0].max() == 0


def test_nearest_excludes_and_pads():
    base = np.arange(3, dtype=np.float32)[:, None]
    distances, indices = nearest(base, base, 3, exclude=np.arange(3))
    assert indices.tolist() == [[1, 2, -1], [0, 2, -1], [1, 0, -1]]
    assert np.isinf(distances[:, 2]).all()


def test_log_density_does_not_underflow():
    base = np.random.default_rng(0).normal(size=(200, 16))
    far = log_density(np.array([np.full(16, 100.0), np.full(16, 200.0)]), base, 0.5)
    assert np.isfinite(far).all()
    assert far[0] > far[1]


@pytest.mark.parametrize("kind", ["literal", "shift days", "shift hours", "scaled", "noisy", "mixed"])
def test_disguised_copies_are_flagged(search, kind):
    train = homes(200, 1, "t").take(np.arange(0, 200, 5))
    x, rng = train.values, np.random.default_rng(4)
    made = {
        "literal": x,
        "shift days": np.stack([np.roll(row, DAY * (i % 15 - 7), -1) for i, row in enumerate(x)]),
        "shift hours": np.roll(x, 8, -1),
        "scaled": x * rng.uniform(0.8, 1.25, (len(x), 1, 1)).astype(np.float32),
        "noisy": x * np.exp(0.1 * rng.normal(size=x.shape)).astype(np.float32),
        "mixed": 0.75 * x + 0.25 * homes(40, 5, "x").values,
    }[kind]  # fmt: skip
    found = flags(search, replace(train, values=made))
    assert found.soft.mean() >= (0.8 if kind == "mixed" else 1.0)
    assert not found.soft_control.any()
    if kind in ("literal", "shift days", "scaled"):
        assert found.hard.all()
    if kind == "mixed":
        assert not found.hard.any()


def test_independent_series_are_not_flagged(search):
    found = flags(search, homes(300, 6, "s"))
    assert found.soft.sum() <= 1
    assert not found.hard.any()
    assert not found.hard_control.any()


def test_copies_of_the_holdout_count_for_the_control_only(search):
    found = flags(search, homes(100, 2, "h"))
    assert found.hard_control.all()
    assert not found.soft.any()


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_the_planted_share_is_recovered(search, share):
    synthetic = homes(300, 7, "s")
    values = synthetic.values.copy()
    planted = round(share * 300)
    values[:planted] = homes(200, 1, "t").values[10 : 10 + planted]
    found = flags(search, replace(synthetic, values=values))
    assert found.hard[:planted].all()
    assert not found.hard[planted:].any()


def test_a_copy_is_found_at_its_exact_shift(search):
    shape = search.views.shape(homes(4, 1, "t"))
    moved = np.roll(shape, 11, axis=1)
    distance = search._best_shift(moved, shape, np.arange(4)[:, None].repeat(4, 1).T)
    assert distance == pytest.approx(np.zeros(4), abs=5e-3)


def test_pasted_weeks_are_found_and_independent_series_are_not(search):
    train = homes(200, 1, "t").values
    rng, week = np.random.default_rng(0), 7 * DAY
    values = np.empty((50, 1, train.shape[2]), np.float32)
    for begin in range(0, train.shape[2], week):
        values[:, :, begin : begin + week] = train[rng.permutation(200)[:50], :, begin : begin + week] * 1.1
    pasted, control = search.stretches(replace(homes(50, 8, "s"), values=values), literal=0.05, hard=0.5)
    assert pasted.all()
    assert not control.any()
    pasted, control = search.stretches(homes(50, 8, "s"), literal=0.05, hard=0.5)
    assert not pasted.any()
    assert not control.any()


def best_auc(found):
    return max(auc_delong(found.members[name], found.nonmembers[name])[0] for name in found.members)


def attacked(views, synthetic):
    holdout, reference = homes(100, 2, "h"), homes(50, 3, "r")
    return attacks.membership(views, homes(150, 1, "t"), holdout, reference, synthetic, lambda *_: None)


def test_membership_of_copies_is_certain(views):
    found = attacked(views, homes(150, 1, "t"))
    aucs = {name: auc_delong(found.members[name], found.nonmembers[name])[0] for name in found.members}
    assert all(aucs[name] > 0.99 for name in aucs if name.endswith("k=1"))
    assert aucs["density"] > 0.9


def test_membership_of_independent_series_is_a_coin_toss(views):
    found = attacked(views, homes(150, 5, "s"))
    assert 0.4 < best_auc(found) < 0.62


def test_averages_of_few_members_are_traceable(views):
    """The leak that copy flags and closeness to training alone do not show."""
    train, rng = homes(150, 1, "t").values, np.random.default_rng(0)
    mean_of_five = np.stack([train[rng.permutation(150)[:5]].mean(0) for _ in range(150)])
    assert best_auc(attacked(views, replace(homes(150, 5, "s"), values=mean_of_five))) > 0.65


def test_members_are_traced_in_a_mean_that_every_synthetic_series_carries(views):
    """Independent series, each with the members' mean course laid over it: no series is close, the mean tells all."""
    members, nonmembers, reference = homes(200, 1, "t"), homes(200, 2, "h"), homes(400, 3, "r")
    plain = homes(800, 4, "s")
    logs = np.log(members.values) - np.log(homes(2000, 5, "x").values).mean(0)
    carrying = replace(plain, values=(plain.values * np.exp(logs.mean(0))).astype(np.float32))

    def traced(synthetic):
        found = attacks.membership(views, members, nonmembers, reference, synthetic, lambda *_: None)
        return auc_delong(found.members["mean"], found.nonmembers["mean"])[0]

    assert traced(carrying) > 0.65
    assert abs(traced(plain) - 0.5) < 0.1


def test_linkage(views):
    train, other = homes(60, 1, "t", days=63), homes(60, 2, "h", days=63)
    linked = attacks.linkage(views, train, train, 1, np.random.default_rng(0))
    assert linked.mean() > 0.9
    assert attacks.linkage(views, other, train, 1, np.random.default_rng(0)).mean() < 0.6


def test_series_of_another_year_are_moved_to_the_same_weekday():
    judged = homes(3, 0, "a", start="2013-01-01")
    later = replace(judged, starts=np.full(3, np.datetime64("2013-01-03T04:00", "s")))
    moved = attacks.align_weekday(later, judged.starts[0])
    assert np.array_equal(moved.values, np.roll(judged.values, 2 * DAY + 1, axis=2))
    assert moved.starts.tolist() == judged.starts.tolist()
