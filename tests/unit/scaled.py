"""Series for tests of the scaler, and the way there and back."""

import numpy as np

from ttsgan.config import HouseholdConfig
from ttsgan.data.scaling import SeriesScaler

START = np.datetime64("2013-01-01T00:00:00", "s")
STEP = 14_400


def population(
    kind: str = "load", count: int = 40, length: int = 504, step: int = STEP, channels: int = 1, seed: int = 0
):
    """Series (n, C, L) with a level of their own, a daily habit, noise with memory, and starts."""
    rng = np.random.default_rng(seed)
    at = np.arange(length) * step
    day = 2 * np.pi * at / 86_400
    shape = (count, channels, 1)
    habit = rng.normal(size=shape) * np.sin(day) + rng.normal(size=shape) * np.cos(day)
    noise = rng.normal(size=(count, channels, length))
    for t in range(1, length):
        noise[..., t] += 0.5 * noise[..., t - 1]
    course = habit + 0.7 * noise
    if kind == "load":
        values = rng.lognormal(0, 1, shape) * np.exp(0.6 * course)
    elif kind == "zeros":
        values = np.maximum(np.exp(course) - np.exp(rng.uniform(-1, 1, shape)), 0)
    elif kind == "temperature":
        values = 8 + 3 * rng.normal(size=shape) + 5 * course
    else:
        raise AssertionError(kind)
    return values.astype(np.float32), np.full(count, START)


def fitted(values, starts, step=STEP, **config):
    return SeriesScaler(HouseholdConfig(**config), step).fit(values, starts)


def decode_scores(scaler, residual, numbers, starts):
    """Return the scores (B, C, T) of the residuals (B, C, T) that the scaler found with these numbers (B, H)."""
    numbers = np.asarray(numbers, dtype=np.float64)
    habit, loading, spread = (numbers[:, scaler.layout[name]] for name in ("habit", "loading", "spread"))
    course = scaler._habit(habit, starts) + loading[..., None] * scaler._common(starts, "common_course")
    return (course + residual * scaler._spread(spread, starts)).astype(np.float32)


def correlation(one, other, seen):
    return np.array([np.corrcoef(a[s], b[s])[0, 1] for a, b, s in zip(one, other, seen, strict=True)])


def check_there_and_back(values, starts, step=STEP, rows=None, worst=0.97):
    """Round trip of ``values``; returns the scaler, the scaled form and the values that came back."""
    scaler = fitted(values if rows is None else values[rows], starts if rows is None else starts[rows], step)
    scaled = scaler.transform(values, starts)
    count, channels, _ = values.shape
    assert scaled.scores.shape == scaled.residual.shape == scaled.observed.shape == values.shape
    assert scaled.numbers.shape == (count, scaler.num_numbers)
    assert {a.dtype for a in (scaled.scores, scaled.residual, scaled.numbers)} == {np.dtype(np.float32)}
    for array in (scaled.scores, scaled.residual, scaled.numbers):
        assert np.isfinite(array).all()
    np.testing.assert_array_equal(scaled.observed, ~np.isnan(values))
    assert not scaled.scores[~scaled.observed].any()

    again = decode_scores(scaler, scaled.residual, scaled.numbers, starts)
    assert np.abs(again - scaled.scores)[scaled.observed].max() < 2e-4
    back = scaler.inverse(scaled.scores, scaled.numbers)
    assert back.dtype == np.float32
    assert np.isfinite(back).all()
    for c in range(channels):
        assert correlation(values[:, c], back[:, c], scaled.observed[:, c]).min() > worst
    return scaler, scaled, back
