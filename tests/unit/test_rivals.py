"""The rivals and the traps of the benchmarks: what each must get right, or wrong, by construction."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench_traps
import rivals

from ttsgan.data.simulate import simulate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit

STEP = 14_400
TRAPS = {**bench_traps.LEAKS, **bench_traps.BROKEN, **bench_traps.GENERATORS}
GENERATORS = [name for name in rivals.RIVALS if name != "training set itself"]
COPULAS = ["hierarchical copula", "hierarchical copula in groups"]


@pytest.fixture(scope="module")
def population():
    made = simulate(120, length=2190, seed=3)
    values = made.values.copy()
    values[5, 0, 100:160] = np.nan
    return values, made.starts


@pytest.fixture(scope="module")
def training(population):
    values, starts = population
    return values[:60], starts[:60]


@pytest.fixture(scope="module")
def drawn(training):
    return {name: draw(*training, STEP, 60, 0) for name, draw in rivals.RIVALS.items()}


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_shape_type_and_range(name, drawn, training):
    values = drawn[name]
    assert values.shape == (60, 1, 2190)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 1.5 * np.nanmax(training[0])


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_the_seed_decides(name, training):
    draw = rivals.RIVALS[name]
    first = draw(*training, STEP, 7, 1)
    np.testing.assert_array_equal(first, draw(*training, STEP, 7, 1))
    if name not in ("training set itself", "k-means centroids"):
        assert (first != draw(*training, STEP, 7, 2)).any()


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_channels_that_turn_negative_more_draws_than_series_and_odd_lengths(name):
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 1.0, (40, 2, 155)).astype(np.float32)
    values[:, 1] -= 2
    values[0, 0, 3], values[1, 1] = np.nan, np.nan
    starts = np.array(["2013-01-01", "2013-01-02"], dtype="datetime64[s]")[np.arange(40) % 2]
    out = rivals.RIVALS[name](values, starts, STEP, 50, 0)
    assert out.shape == (50, 2, 155)
    assert np.isfinite(out).all()
    assert out[:, 0].min() >= 0
    assert out[:, 1].min() < 0


@pytest.mark.parametrize("name", GENERATORS)
def test_the_population_keeps_its_size(name, drawn, training):
    assert drawn[name].mean() == pytest.approx(np.nanmean(training[0]), rel=0.25)


@pytest.mark.parametrize("name", COPULAS)
def test_hierarchical_copulas_keep_level_peak_load_factor_and_day(name, drawn, training):
    real = rivals.fill_gaps(training[0], STEP)

    def described(values):
        level, peak = values.mean(axis=2)[:, 0], values.max(axis=2)[:, 0]
        return [np.median(figure) for figure in (np.log(level), np.log(peak), level / peak)]

    assert np.abs(np.subtract(described(drawn[name]), described(real))).max() < 0.3
    day = real.mean(axis=0).reshape(-1, 6).mean(axis=0)
    assert np.corrcoef(drawn[name].mean(axis=0).reshape(-1, 6).mean(axis=0), day)[0, 1] > 0.95
    # no series is one of the training series
    assert min(np.abs(real - series).max(axis=(1, 2)).min() for series in drawn[name]) > 0.1


@pytest.mark.parametrize("name", COPULAS)
def test_hierarchical_copulas_remember_yesterday(name, drawn, training):
    def persistence(values):
        days = values[:, 0].reshape(len(values), 365, 6).mean(axis=2)
        days = days - days.mean(axis=1, keepdims=True)
        return np.median((days[:, 1:] * days[:, :-1]).mean(axis=1) / (days**2).mean(axis=1))

    assert persistence(drawn[name]) == pytest.approx(persistence(rivals.fill_gaps(training[0], STEP)), abs=0.12)


def test_gaussian_copula_keeps_the_law_of_each_moment(training):
    real = rivals.fill_gaps(training[0], STEP)
    out = rivals.gaussian_copula(*training, STEP, 2000, 0)
    for probability in (0.1, 0.5, 0.9):
        wanted, found = (np.quantile(x[:, 0], probability, axis=0) for x in (real, out))
        assert np.mean(found) == pytest.approx(np.mean(wanted), rel=0.05)
    assert (out.max(axis=0) <= real.max(axis=0) + 1e-5).all()


def test_swapped_weeks_are_weeks_of_training_series(drawn, training):
    real = rivals.fill_gaps(training[0], STEP).astype(np.float32)
    for begin in range(0, 2190, 42):
        weeks = {week.tobytes() for week in real[:, 0, begin : begin + 42]}
        assert all(week.tobytes() in weeks for week in drawn["weeks swapped"][:10, 0, begin : begin + 42])


def test_audit_catches_swapped_weeks_and_copies_but_not_the_copula(drawn, population):
    values, starts = population

    def judged(series, prefix, index):
        return Judged(
            values=series,
            entities=np.array([f"{prefix}{i}" for i in range(len(series))]),
            starts=starts[index],
            step_seconds=STEP,
            unit="kWh/h",
        )

    train, holdout = judged(values[:60], "t", slice(60)), judged(values[60:], "h", slice(60, None))

    def found(name):
        report = audit(train, holdout, judged(drawn[name], "s", slice(60)))
        return report["verdict"], {check["attack"] for check in report["checks"] if check["passed"] is False}

    result, attacks = found("weeks swapped")
    assert result == "FAIL"
    assert attacks & {"copying", "fragments"}
    result, attacks = found("training set itself")
    assert result == "FAIL"
    assert "copying" in attacks
    assert found("hierarchical copula")[1].isdisjoint({"copying", "fragments"})


def test_gaps_are_filled_with_the_typical_day():
    values = np.tile(np.arange(6, dtype=np.float32), 4)[None, None]
    gaps = values.copy()
    gaps[0, 0, [3, 13]] = np.nan
    np.testing.assert_array_equal(rivals.fill_gaps(gaps, STEP), values)
    np.testing.assert_array_equal(rivals.fill_gaps(np.full((1, 1, 12), np.nan), STEP), 0)


def test_shrinkage_is_that_of_ledoit_and_wolf():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 50)) @ rng.normal(size=(50, 50))
    rows -= rows.mean(axis=0)
    weight, size = rivals.shrinkage(rows)
    covariance = rows.T @ rows / len(rows)
    shrunk, wanted = ledoit_wolf(rows, assume_centered=True)
    assert weight == pytest.approx(wanted)
    np.testing.assert_allclose((1 - weight) * covariance + weight * size * np.eye(50), shrunk)
    draws = rivals.draw_gaussian(rows, 200_000, rng)
    np.testing.assert_allclose(np.cov(draws.T), shrunk, atol=0.03 * np.abs(shrunk).max())


def test_scores_and_laws_invert_each_other():
    columns = np.random.default_rng(0).gamma(1.0, size=(40, 3))
    np.testing.assert_allclose(rivals.from_scores(rivals.normal_scores(columns), columns), columns)
    far = rivals.from_scores(np.array([[-9.0] * 3, [9.0] * 3]), columns)
    np.testing.assert_array_equal(far, [columns.min(axis=0), columns.max(axis=0)])


def test_small_groups_join_the_nearest():
    features = np.concatenate([np.zeros((20, 1)), np.full((20, 1), 10.0), np.full((3, 1), 11.0)])
    features += np.random.default_rng(0).normal(0, 0.01, features.shape)
    labels = rivals.group_by_kmeans(features, 3, 10, 0)
    assert sorted(np.bincount(labels)) == [20, 23]
    assert len(np.unique(labels[20:])) == 1


# ---- traps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAPS)
def test_traps_take_gaps_negative_channels_and_more_draws_than_series(name):
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 1.0, (23, 2, 155)).astype(np.float32)
    values[:, 1] -= 2
    values[0, 0, 3], values[1, 1] = np.nan, np.nan
    starts = np.full(23, np.datetime64("2013-01-01", "s"))
    out = TRAPS[name](values, starts, STEP, 30, 0)
    assert out.shape == (30, 2, 155)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert out[:, 0].min() >= 0
    np.testing.assert_array_equal(out, TRAPS[name](values, starts, STEP, 30, 0))


def test_noise_of_a_noisy_copy_is_a_share_of_each_series_own_spread(training):
    real = rivals.fill_gaps(training[0], STEP)
    added = bench_traps.noisy_copy(*training, STEP, 60, 0) - real
    # where it is not cut at zero
    share = np.array([a[r > r.std()].std() / r.std() for a, r in zip(added[:, 0], real[:, 0], strict=True)])
    assert share == pytest.approx(np.full(60, 0.05), rel=0.25)


def test_broken_sets_keep_the_means_and_lose_the_homes(training):
    real = rivals.fill_gaps(training[0], STEP).astype(np.float32)
    mean = bench_traps.collapsed_mean(*training, STEP, 60, 0)
    np.testing.assert_allclose(mean, np.repeat(real.mean(axis=0, keepdims=True), 60, axis=0), rtol=1e-5)
    shuffled = bench_traps.shuffled_hours(*training, STEP, 60, 0)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(real, axis=0))
    assert shuffled.mean(axis=2).std() < 0.2 * real.mean(axis=2).std()


def test_every_mean_of_five_has_at_least_five_members(training):
    real = rivals.fill_gaps(training[0], STEP)
    means = bench_traps.small_centroids(*training, STEP, 60, 0)
    _, labels, sizes = np.unique(means, axis=0, return_inverse=True, return_counts=True)
    assert sizes.min() >= 5
    assert sizes.max() < 10
    for group in range(len(sizes)):
        members = labels.ravel() == group
        np.testing.assert_allclose(means[members][0], real[members].mean(axis=0), rtol=1e-4, atol=1e-6)


def trap_table(real=1.0, copula=1.4, broken=5.0, verdict="FAIL"):
    """Make the table that a run would give."""
    headlines = {bench_traps.REAL: real, **dict.fromkeys(TRAPS, 2.0), "hierarchical copula": copula}
    headlines |= dict.fromkeys(bench_traps.BROKEN, broken) | dict.fromkeys(bench_traps.LEAKS, 0.9)
    return [
        {"system": name, "kind": bench_traps.KINDS[name], "headline": value, "verdicts": [verdict]}
        for name, value in headlines.items()
    ]


@pytest.mark.parametrize(
    ("options", "set_name", "broken_claims"),
    [
        ({}, "sample-4h", 0),
        ({"copula": 0.9}, "sample-4h", 1),
        ({"broken": 2.9}, "sample-4h", 2),
        ({"verdict": "UNPROVEN"}, "sample-4h", 3),
        ({"verdict": "UNPROVEN"}, "london-4h", 0),
        ({"verdict": "PASS"}, "london-4h", 3),
    ],
)
def test_claims_hold_only_where_they_should(options, set_name, broken_claims):
    found = bench_traps.claims(trap_table(**options), {"set": set_name})
    assert len(found) == 1 + len(bench_traps.BROKEN) + len(bench_traps.LEAKS)
    assert sum(not claim["ok"] for claim in found) == broken_claims
    assert all(set(claim) == {"name", "value", "limit", "ok"} for claim in found)
