"""Persistence given to residuals: figures that come out as asked for, for any channels, steps and lengths."""

import numpy as np
import pytest

from ttsgan.config import HouseholdConfig
from ttsgan.data.persistence import DRIFT_DAYS, drift, lags, persistence, with_persistence
from ttsgan.data.scaling import SeriesScaler


def measured(residual, num_slots):
    """Persistence (B, C, L) and drift (B, C) of complete residuals."""
    seen = np.ones(residual.shape, dtype=bool)
    figures = np.stack([persistence(residual, seen, lag) for lag in lags(num_slots)], axis=-1)
    return figures, drift(residual, seen, DRIFT_DAYS * num_slots)


def smooth(shape, memory, seed=0):
    """First-order autoregressive noise; ``memory`` (B,) says how much of the last value stays."""
    noise = np.random.default_rng(seed).normal(size=shape)
    out = np.zeros(shape)
    for t in range(1, shape[-1]):
        out[..., t] = memory[:, None] * out[..., t - 1] + noise[..., t]
    return out / out.std(axis=-1, keepdims=True)


@pytest.mark.parametrize("length", [2190, 2191])
def test_the_figures_of_others_are_taken_on(length):
    """Forty series, each asked for the figures of another one, have them; phases of their waves stay."""
    rng = np.random.default_rng(1)
    series = smooth((40, 2, length), rng.uniform(0, 0.9, 40))
    wanted, wanted_drift = (figure[rng.permutation(40)] for figure in measured(series, 6))
    given = with_persistence(series, wanted, wanted_drift, 6)
    np.testing.assert_allclose(given.mean(axis=2), 0, atol=1e-9)
    np.testing.assert_allclose(np.square(given).mean(axis=2), 1, atol=1e-6)
    got, got_drift = measured(given, 6)
    before, before_drift = measured(series, 6)
    assert np.abs(got - wanted).mean() < 0.1 * np.abs(before - wanted).mean()
    assert np.abs(got_drift - wanted_drift).mean() < 0.5 * np.abs(before_drift - wanted_drift).mean()
    turn = np.fft.rfft(given)[..., 1:-1] / np.fft.rfft(series)[..., 1:-1]
    np.testing.assert_allclose(turn.imag, 0, atol=1e-6)
    assert (turn.real > 0).all()


def test_a_series_that_has_its_figures_stays():
    series = smooth((10, 1, 2190), np.linspace(0, 0.8, 10))
    series -= series.mean(axis=2, keepdims=True)
    given = with_persistence(series, *measured(series, 6), 6)
    assert np.square(given - series).mean() < 0.01


def test_figures_that_no_series_has():
    """Like at one step and unlike at one day, two days and a week: finite, and of size 1."""
    series = np.random.default_rng(0).normal(size=(3, 1, 2190))
    given = with_persistence(series, np.full((3, 1, 5), [2.0, -2.0, -2.0, -2.0, 2.0]), np.full((3, 1), 3.0), 6)
    np.testing.assert_allclose(np.square(given).mean(axis=2), 1, atol=1e-6)


@pytest.mark.parametrize(("length", "num_slots"), [(2, 1), (7, 24), (40, 1), (60, 24), (400, 2)])
def test_short_series(length, num_slots):
    series = np.random.default_rng(0).normal(size=(4, 1, length))
    given = with_persistence(series, *measured(series, num_slots), num_slots)
    assert given.shape == series.shape
    assert np.isfinite(given).all()


def test_new_series_have_scores_of_size_one():
    """Habits drawn for one household and a residual drawn for another: together as wide as scores are."""
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(2190) / 6) * rng.uniform(0, 2, (30, 1, 1))
    values = np.exp(day + smooth((30, 1, 2190), rng.uniform(0, 0.9, 30))).astype(np.float32)
    starts = np.full(30, np.datetime64("2013-01-01", "s"))
    scaler = SeriesScaler(HouseholdConfig(), 14_400).fit(values, starts)
    scaled = scaler.transform(values, starts)
    scores = scaler.compose_scores(3 * scaled.residual[::-1], scaled.numbers, starts)
    np.testing.assert_allclose(scores.std(axis=2), 1, atol=0.1)
