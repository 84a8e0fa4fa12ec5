"""The scaler: laws of values, zeros and signs that come back."""

import numpy as np
import pytest
from scaled import START, STEP, check_there_and_back, fitted, population

from ttsgan.data import readings
from ttsgan.errors import DataError


def test_median_peak_is_close():
    values, starts = population(count=80, length=2190)
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    peak = scaler.inverse(scaled.scores, scaled.numbers).max(2) / values.max(2)
    assert abs(np.median(peak) - 1) < 0.05
    assert np.quantile(np.abs(peak - 1), 0.9) < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_zero_share(seed):
    values, starts = population("zeros", seed=seed)
    _, _, back = check_there_and_back(values, starts)
    np.testing.assert_allclose((back == 0).mean(2), (values == 0).mean(2), atol=1.5 / 504)
    np.testing.assert_allclose(back.mean(2), values.mean(2), rtol=1e-4)


def test_signed_series():
    values, starts = population("temperature")
    _, _, back = check_there_and_back(values, starts)
    assert (values.min(2) < 0).mean() > 0.5
    np.testing.assert_allclose(np.abs(back).mean(2), np.abs(values).mean(2), rtol=1e-4)
    np.testing.assert_allclose(back.mean(2), values.mean(2), atol=0.3)
    np.testing.assert_allclose(back.min(2), values.min(2), atol=2.5)


def test_nearly_empty_series():
    """Two series with 98 % zeros among forty ordinary ones keep their level and their zeros."""
    values, starts = population("zeros")
    rng = np.random.default_rng(4)
    for row in (0, 1):
        values[row] = np.where(rng.random(values[row].shape) < 0.98, 0, rng.lognormal(size=values[row].shape))
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    back = scaler.inverse(scaled.scores, scaled.numbers)
    assert np.isfinite(scaled.numbers).all()
    np.testing.assert_allclose((back[:2] == 0).mean(2), (values[:2] == 0).mean(2), atol=0.003)
    np.testing.assert_allclose(back[:2].mean(2), values[:2].mean(2), rtol=1e-3)
    np.testing.assert_allclose(back[:2].max(2) / values[:2].max(2), 1, atol=0.6)


def test_nights_without_sun_stay_empty():
    """Drawn with the residuals of others, series that are zero at night are: no order is made up for zeros."""
    rng = np.random.default_rng(6)
    at = np.arange(504) * STEP
    sun = np.maximum(np.sin(2 * np.pi * at / 86_400 - 1), 0)
    clouds = np.repeat(rng.gamma(4, size=(40, 1, 84)), 6, axis=2)
    values = (sun * clouds * rng.lognormal(size=(40, 1, 1))).astype(np.float32)
    starts = np.full(40, START)
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    night = np.broadcast_to(sun == 0, values.shape)
    assert np.ptp(scaled.scores[night]) < 1e-3
    made = scaler.inverse(
        scaler.compose_scores(np.roll(scaled.residual, 1, axis=0), scaled.numbers, starts), scaled.numbers
    )
    assert (made[night] == 0).mean() > 0.99
    np.testing.assert_allclose((made == 0).mean(2), (values == 0).mean(2), atol=1.5 / 504)


def test_zeros_stay_a_share_of_a_series_with_gaps():
    values, starts = population("zeros")
    values[:, :, 200:300] = np.nan
    _, _, back = check_there_and_back(values, starts)
    wanted = (values == 0).sum(2) / (~np.isnan(values)).sum(2)
    np.testing.assert_allclose((back == 0).mean(2), wanted, atol=0.01)


def test_quantiles_are_monotone_for_any_numbers():
    """Household numbers drawn far out still give a law: finite, in order, not below zero."""
    values, starts = population("zeros")
    scaler = fitted(values, starts)
    rng = np.random.default_rng(2)
    numbers = rng.normal(scale=5, size=(30, scaler.num_numbers)).astype(np.float32)
    scores = rng.normal(size=(30, 1, values.shape[2])).astype(np.float32)
    back = scaler.inverse(scores, numbers)
    assert np.isfinite(back).all()
    assert (back >= 0).all()
    some = back.max(2)[:, 0] > 0
    assert some.mean() > 0.9
    np.testing.assert_allclose(back.mean(axis=(1, 2))[some], scaler.level(numbers)[some], rtol=1e-4)
    assert (np.diff(scaler._sorted_values(numbers.astype(float)), axis=2) >= 0).all()
    # None may repeat another, so that those that do change places with others as large but for a little.
    numbers[:, scaler.layout["repeats"]] = -20
    in_order = np.take_along_axis(scaler.inverse(scores, numbers), scores.argsort(axis=2), axis=2)
    moved = readings.STIRS * readings.LARGEST_STILLED * in_order.mean(axis=2, keepdims=True)
    assert (np.diff(in_order, axis=2) >= -2 * moved).all()
    np.testing.assert_allclose(in_order, np.sort(in_order, axis=2), atol=moved.max())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_negative_reading_in_a_series_that_was_not_fitted():
    """The scaler is fitted on a part of large sets, so that a first negative value can come later: never NaN."""
    values, starts = population()
    scaler = fitted(values, starts)
    values[3, 0, 10] = -5 * values[3].mean()
    try:
        numbers = scaler.transform(values, starts).numbers
    except DataError:
        return
    assert np.isfinite(numbers).all()


def test_zeros_are_drawn_apart_from_the_law_of_the_rest():
    """With the zero share of another series: so many zeros, and what is not zero of the same mean and law."""
    values, starts = population("zeros", length=2184)
    values[:20] += 0.2 * values[:20].mean(axis=2, keepdims=True)
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    numbers, zero = scaled.numbers.copy(), scaler.layout["zero_share"]
    numbers[:20, zero], numbers[20:, zero] = scaled.numbers[20:, zero], scaled.numbers[:20, zero]
    own, other = scaler.inverse(scaled.scores, scaled.numbers), scaler.inverse(scaled.scores, numbers)
    np.testing.assert_array_equal((other == 0).sum(2), np.roll((values == 0).sum(2), 20, axis=0))
    in_use = [x.sum(2) / (x > 0).sum(2) for x in (other, values)]
    np.testing.assert_allclose(*in_use, rtol=1e-5)
    for a, b in zip(own[:, 0], other[:, 0], strict=True):
        middle = [np.quantile(x[x > 0], [0.1, 0.25, 0.75, 0.9]) / np.median(x[x > 0]) for x in (a, b)]
        np.testing.assert_allclose(*middle, rtol=0.1)
