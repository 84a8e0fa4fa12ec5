"""Intervals against hand-computed values and against scipy."""

import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ttsgan.evaluation import stats


def test_clopper_pearson_zero_hits_is_the_closed_form():
    for trials in (1, 10, 5000):
        assert stats.clopper_pearson_upper(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials))
        assert stats.clopper_pearson_lower(trials, trials) == pytest.approx(0.05 ** (1 / trials))


@pytest.mark.parametrize(("hits", "trials"), [(1, 20), (7, 50), (83, 5000)])
def test_clopper_pearson_agrees_with_scipy(hits, trials):
    exact = scipy_stats.binomtest(hits, trials).proportion_ci(0.9, "exact")
    assert stats.clopper_pearson_lower(hits, trials) == pytest.approx(exact.low)
    assert stats.clopper_pearson_upper(hits, trials) == pytest.approx(exact.high)


def test_clopper_pearson_ends():
    assert stats.clopper_pearson_upper(3, 3) == 1
    assert stats.clopper_pearson_lower(0, 3) == 0
    assert stats.clopper_pearson_upper(0, 0) == 1
    assert stats.clopper_pearson_lower(0, 0) == 0


def test_wilson_centre_and_agreement_with_scipy():
    centre, half = stats.wilson(1, 4)
    assert centre == pytest.approx(0.3725, abs=1e-4)
    other = scipy_stats.binomtest(1, 4).proportion_ci(0.95, "wilson")
    assert (centre - half, centre + half) == pytest.approx((other.low, other.high))


def test_residual_risk():
    risk, low, high = stats.residual_risk((2000, 2000), (0, 2000))
    assert risk > 0.99
    assert low > 0.99
    assert high == 1
    risk, low, high = stats.residual_risk((100, 2000), (100, 2000))
    assert risk == 0
    assert low == 0
    assert 0 < high < 0.03
    assert stats.residual_risk((0, 10), (10, 10)) == (0, 0, 0)


def test_residual_risk_worked_out_by_hand():
    """150 of 200 against 40 of 200: centres .7453 and .2057, half widths .0596 and .0552."""
    risk, low, high = stats.residual_risk((150, 200), (40, 200), confidence=0.95)
    assert risk == pytest.approx(0.6794, abs=2e-4)
    assert (low, high) == (pytest.approx(risk - 0.0783, abs=3e-4), pytest.approx(risk + 0.0783, abs=3e-4))


def test_an_attack_that_its_control_beats_gains_nothing():
    assert stats.residual_risk((100, 300), (298, 300)) == (0, 0, 0)
    assert stats.residual_risk((297, 300), (298, 300))[2] > 0


def test_auc_counts_pairs_and_ties():
    auc, _ = stats.auc_delong(np.array([3.0, 1.0]), np.array([2.0, 1.0]))
    assert auc == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_delong_error_equals_the_placement_formula():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.8, 1, 70), rng.normal(0, 1, 90)
    wins = (positive[:, None] > negative).astype(float)
    by_hand = math.sqrt(wins.mean(1).var(ddof=1) / 70 + wins.mean(0).var(ddof=1) / 90)
    auc, error = stats.auc_delong(positive, negative)
    assert auc == pytest.approx(wins.mean())
    assert error == pytest.approx(max(by_hand, math.sqrt(161 / (12 * 70 * 90))))


def test_delong_error_is_the_spread_of_repeated_draws():
    rng = np.random.default_rng(1)
    draws = [stats.auc_delong(rng.normal(0.4, 1, 80), rng.normal(0, 1, 60)) for _ in range(1500)]
    aucs, errors = np.array(draws).T
    assert errors.mean() == pytest.approx(aucs.std(), rel=0.12)


def test_separated_small_samples_keep_an_error():
    auc, error = stats.auc_delong(np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0]))
    assert auc == 1
    assert error == pytest.approx(math.sqrt(7 / 108))


def test_trials_to_bound():
    needed = stats.trials_to_bound(0.0, 0.001)
    assert stats.clopper_pearson_upper(0, needed) <= 0.001
    assert needed == pytest.approx(math.log(0.05) / math.log(0.999), rel=0.02)
    assert stats.trials_to_bound(0.02, 0.02) is None


def test_entities_to_bound_follows_the_square_root():
    assert stats.entities_to_bound(0.5, 0.1, 100, 0.55) == 400
    assert stats.entities_to_bound(0.56, 0.1, 100, 0.55) is None


def test_wasserstein_columns_equals_scipy_with_weights():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 3))
    first, second = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    order = np.argsort(values.T, axis=1)
    gaps = np.diff(np.take_along_axis(values.T, order, 1), axis=1)
    got = stats.wasserstein_columns(order, gaps, first / first.sum() - second / second.sum())
    expected = [
        scipy_stats.wasserstein_distance(values[:, k], values[:, k], first, second) for k in range(values.shape[1])
    ]
    assert got == pytest.approx(expected)


def test_jsonable_has_no_nan_and_no_numpy():
    made = stats.jsonable(
        {1: np.float32(0.1), "a": np.array([np.nan, 1]), "b": (np.int64(2), np.bool_(True), math.inf)}
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == {"1": 0.1, "a": [None, 1.0], "b": [2, True, None]}
