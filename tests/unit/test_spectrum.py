"""Rhythm: spectra measured in bands, and given to series that keep their values."""

import numpy as np
import pytest

from ttsgan.config import HouseholdConfig
from ttsgan.data import spectrum
from ttsgan.data.calendar import DAY_SECONDS, YEAR_DAYS, moments, weekday
from ttsgan.data.quantiles import place
from ttsgan.data.scaling import SeriesScaler

SLOTS, LENGTH, STEP = 6, 2190, 14_400
DATES = spectrum.Dates.of(np.datetime64("2013-01-01"), LENGTH, STEP)
WEEKEND = weekday(moments(np.datetime64("2013-01-01"), LENGTH, STEP)) >= 5


def smooth(shape, memory, seed=0):
    """First-order autoregressive noise; ``memory`` (B,) says how much of the last value stays."""
    noise = np.random.default_rng(seed).normal(size=shape)
    out = np.zeros(shape)
    for t in range(1, shape[-1]):
        out[..., t] = memory[:, None] * out[..., t - 1] + noise[..., t]
    return out / out.std(axis=-1, keepdims=True)


def wave(cycles_a_day):
    return np.cos(2 * np.pi * cycles_a_day * np.arange(LENGTH) / SLOTS)


@pytest.mark.parametrize(
    ("length", "slots"),
    [(2190, 6), (8760, 24), (2191, 6), (365, 1), (730, 2), (35_040, 96), (50, 6), (3, 6), (1251, 24 / 7), (520, 1 / 7)],
)
def test_every_frequency_but_the_mean_is_in_one_band(length, slots):
    bands = spectrum.bands(length, round(DAY_SECONDS / slots))
    np.testing.assert_array_equal((bands > 0).sum(axis=1), [0] + [1] * (length // 2))
    np.testing.assert_allclose(bands.sum(axis=0), 1)
    assert bands.shape[1] <= 36


def test_bands_of_known_waves():
    """A year's wave, weekly, daily and its sidebands lie in bands of their own; near ones share theirs."""
    bands = spectrum.bands(LENGTH, STEP)

    def band_of(cycles_a_day):
        return int(bands[round(cycles_a_day * LENGTH / SLOTS)].argmax())

    week, year = 1 / 7, 1 / YEAR_DAYS
    waves = (year, 4 * year, week, 40 * year, 0.4, 1, 1 + 4 * year, 1 + week, 1.4, 2, 3)
    assert len({band_of(w) for w in waves}) == len(waves)
    assert band_of(week) == band_of(2 * week) == band_of(3 * week)
    assert band_of(1 + week) == band_of(1 - 2 * week)


def test_densities_of_known_series():
    """White noise has density 1 in every band; a pure wave has all its power in one."""
    bands = spectrum.bands(LENGTH, STEP)
    noise = np.random.default_rng(0).normal(size=(400, 1, LENGTH))
    density = np.exp(spectrum.measure(noise, bands, DATES).log_density) - spectrum.LEAST
    np.testing.assert_allclose(density.mean(axis=(0, 1)), 1, atol=0.15)
    daily = np.exp(spectrum.measure(wave(1)[None, None], bands, DATES).log_density[0, 0]) - spectrum.LEAST
    own = int(bands[LENGTH // SLOTS].argmax())
    assert daily[own] == pytest.approx((LENGTH // 2) / (bands[:, own] > 0).sum())
    assert np.delete(daily, own).max() < 1e-3


def test_contrast_is_weekend_less_weekday_over_the_mean():
    values = np.full((1, 1, LENGTH), 2.0)
    values[..., WEEKEND] = 3.0
    rhythm = spectrum.measure(values, spectrum.bands(LENGTH, STEP), DATES)
    assert rhythm.contrast[0, 0] == pytest.approx(1 / values.mean())
    values[..., ::2] += 0.5
    assert spectrum.measure(values, spectrum.bands(LENGTH, STEP), DATES).contrast[0, 0] == pytest.approx(
        1 / values.mean(), rel=0.01
    )


def test_without_a_weekend_there_is_no_contrast():
    values = np.random.default_rng(0).gamma(1.0, size=(2, 1, 24))
    monday = spectrum.Dates.of(np.datetime64("2013-01-07"), 24, STEP)
    rhythm = spectrum.measure(values, spectrum.bands(24, STEP), monday)
    np.testing.assert_array_equal(rhythm.contrast, 0)


@pytest.mark.parametrize(
    ("start", "first"), [("2013-01-01T00:00", 6), ("2013-01-01T08:00", 4), ("2013-01-01T22:00", 1)]
)
def test_midnights_are_the_first_steps_of_days(start, first):
    dates = spectrum.Dates.of(np.datetime64(start), LENGTH, STEP)
    np.testing.assert_array_equal(np.flatnonzero(dates.midnight), np.arange(first, LENGTH, 6))


@pytest.mark.parametrize("step", [DAY_SECONDS, 7 * DAY_SECONDS, 50_000])
def test_steps_that_make_no_day_have_no_midnight(step):
    dates = spectrum.Dates.of(np.datetime64("2013-01-01"), 40, step)
    assert not dates.midnight.any()
    rhythm = spectrum.measure(np.random.default_rng(0).gamma(1.0, size=(2, 1, 40)), spectrum.bands(40, step), dates)
    np.testing.assert_array_equal(rhythm.jump, 0)


def test_jump_of_a_known_series():
    """Days of one value each, 1 and 3 in turn: only midnight jumps, by 2; then a rise of .5 inside every day."""
    days = np.repeat(np.tile([1.0, 3.0], 183)[:365], SLOTS)[None, None]
    bands = spectrum.bands(LENGTH, STEP)
    size = days.mean()
    expected = np.log((2 / size + spectrum.LEAST_JUMP) / spectrum.LEAST_JUMP)
    assert spectrum.measure(days, bands, DATES).jump[0, 0] == pytest.approx(expected)
    days[..., 3::SLOTS] += 0.5  # two of five jumps inside a day
    elsewhere = 365 * 2 * 0.5 / (LENGTH - 365) / days.mean()
    expected = np.log((2 / days.mean() + spectrum.LEAST_JUMP) / (elsewhere + spectrum.LEAST_JUMP))
    assert spectrum.measure(days, bands, DATES).jump[0, 0] == pytest.approx(expected, rel=1e-3)


def test_the_rhythm_of_others_is_taken_on():
    """Forty skewed series, each asked for the rhythm of another one, have it, and keep every value of their own."""
    rng = np.random.default_rng(1)
    course = smooth((40, 1, LENGTH), np.linspace(0.1, 0.9, 40)) + rng.normal(0, 0.5, (40, 1, 1)) * WEEKEND
    course[..., ::SLOTS] += rng.uniform(0, 2, (40, 1, 1))
    values = np.exp(course + rng.uniform(0, 1, (40, 1, 1)) * wave(1))
    bands, order = spectrum.bands(LENGTH, STEP), rng.permutation(40)
    before = spectrum.measure(values, bands, DATES)
    wanted = spectrum.Rhythm(*(figure[order] for figure in before))
    ordered = np.sort(values, axis=2)
    made = place(spectrum.with_rhythm(values, ordered, wanted, bands, DATES), ordered)
    np.testing.assert_array_equal(np.sort(made, axis=2), ordered)
    after = spectrum.measure(made, bands, DATES)
    for got, had, asked in zip(after, before, wanted, strict=True):
        assert np.abs(got - asked).mean() < 0.2 * np.abs(had - asked).mean()


def test_zeros_stay_where_they_are():
    """Nights without sun, of different length for each of forty series: no rhythm of others fills them."""
    rng = np.random.default_rng(2)
    sun = np.maximum(wave(1) - rng.uniform(-0.5, 0.5, (40, 1, 1)), 0)
    values = sun * np.exp(smooth((40, 1, LENGTH), np.linspace(0.1, 0.9, 40)))
    bands, order = spectrum.bands(LENGTH, STEP), rng.permutation(40)
    wanted = spectrum.Rhythm(*(figure[order] for figure in spectrum.measure(values, bands, DATES)))
    ordered = np.sort(values, axis=2)
    made = place(spectrum.with_rhythm(values, ordered, wanted, bands, DATES), ordered)
    np.testing.assert_array_equal(made == 0, values == 0)
    assert (made != values).mean() > 0.1


def test_own_rhythm_changes_little():
    values = np.exp(smooth((5, 2, LENGTH), np.full(5, 0.6)))
    bands, ordered = spectrum.bands(LENGTH, STEP), np.sort(values, axis=2)
    scores = spectrum.with_rhythm(values, ordered, spectrum.measure(values, bands, DATES), bands, DATES)
    np.testing.assert_allclose(place(scores, ordered), values, atol=1e-6)


def test_impossible_rhythm_stays_finite():
    values = np.exp(smooth((3, 1, LENGTH), np.full(1, 0.6)))
    bands = spectrum.bands(LENGTH, STEP)
    wanted = spectrum.Rhythm(np.full((3, 1), 50.0), np.full((3, 1), 50.0), np.full((3, 1, bands.shape[1]), -60.0))
    for ordered in (np.sort(values, axis=2), np.zeros_like(values)):
        assert np.isfinite(spectrum.with_rhythm(values, ordered, wanted, bands, DATES)).all()


def test_gaps_are_filled_from_the_same_hour_of_the_week():
    week = np.arange(14.0)
    values = np.tile(week, 5)[None, None]
    gaps = values.copy()
    gaps[0, 0, [0, 1, 20, 33, 34, 69]] = np.nan
    np.testing.assert_array_equal(spectrum.fill_by_week(gaps, DAY_SECONDS // 2), values)
    gaps[0, 0, 3::14] = np.nan  # never seen: between its neighbours
    np.testing.assert_array_equal(spectrum.fill_by_week(gaps, DAY_SECONDS // 2), values)
    assert np.isnan(gaps).any()


@pytest.mark.parametrize(("num_slots", "length", "channels"), [(6, 504, 2), (1, 365, 1), (24, 24, 1), (6, 5, 1)])
def test_any_calendar_and_length(num_slots, length, channels):
    """Short series, days without slots, several channels: scores of new series are normal scores, whatever is asked."""
    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, size=(12, channels, length)).astype(np.float32)
    starts = np.full(12, np.datetime64("2013-01-01", "s"))
    scaler = SeriesScaler(HouseholdConfig(), 86_400 // num_slots).fit(values, starts)
    scaled = scaler.transform(values, starts)
    numbers = scaled.numbers[rng.permutation(12)]
    scores = scaler.compose_scores(rng.normal(size=values.shape), numbers, starts)
    np.testing.assert_allclose(np.sort(scores, axis=2), np.sort(scaled.scores, axis=2), atol=1e-5)
    made = scaler.inverse(scores, numbers)
    assert np.isfinite(made).all()
    np.testing.assert_allclose(np.abs(made).mean(2), np.exp(numbers[:, scaler.layout["level"]]), rtol=1e-4)


def test_small_values_move_less_than_large_ones():
    """Shifts of 1 at half, once and twice the mean and at zero: a quarter below it, and all enlarged to sum to 4."""
    moved = spectrum._by_size(np.ones((1, 1, 4)), np.array([[[0.5, 1.0, 2.0, 0.0]]]))
    np.testing.assert_allclose(moved, np.array([[[0.25, 1.0, 1.0, 0.0]]]) * 4 / 2.25)
    assert moved.sum() == pytest.approx(4)
    # Whatever the unit, and where all values are zero, none moves.
    tiny = spectrum._by_size(np.full((1, 1, 2), 1e-12), np.array([[[0.5, 2.0]]]))
    np.testing.assert_allclose(tiny, np.array([[[0.25, 1.0]]]) * 1e-12 * 2 / 1.25)
    np.testing.assert_array_equal(spectrum._by_size(np.ones((1, 1, 3)), np.zeros((1, 1, 3))), 0)


def test_a_base_load_keeps_its_order():
    """Days of thirty times the size of nights are asked for another rhythm: what rings on does not reorder the nights.

    If small values moved as far as large ones, ranks of nights before and after would correlate by .39, not .98.
    """
    rng = np.random.default_rng(3)
    values = np.exp(smooth((30, 1, LENGTH), np.full(30, 0.5)))
    values[..., 2::SLOTS] *= 0.03
    bands = spectrum.bands(LENGTH, STEP)
    others = np.exp(smooth((30, 1, LENGTH), np.full(30, 0.9), seed=4) + rng.uniform(0, 1, (30, 1, 1)) * wave(1))
    ordered, wanted = np.sort(values, axis=2), spectrum.measure(others, bands, DATES)
    made = place(spectrum.with_rhythm(values, ordered, wanted, bands, DATES), ordered)

    def kept(part):
        ranks = [series[..., part].argsort(axis=2).argsort(axis=2)[:, 0] for series in (values, made)]
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*ranks, strict=True)])

    assert kept(slice(2, None, SLOTS)) > 0.95
    assert kept(slice(4, None, SLOTS)) < 0.75
