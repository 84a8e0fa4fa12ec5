"""Zeros, peak and resolution of drawn laws, against values worked out by hand."""

import numpy as np
import pytest

from ttsgan.config import HouseholdConfig
from ttsgan.data import readings
from ttsgan.data.quantiles import plotting_scores
from ttsgan.data.scaling import SeriesScaler


@pytest.mark.parametrize("step", [0.001, 0.00025, 0.01, 1.0, 5.0, 1 / 12, 0.002, 0.004, 20.0, 1 / 16])
def test_resolution_of_a_meter(step):
    drawn = np.random.default_rng(0).gamma(1.0, 400, size=(20, 500)) // 1 * step
    drawn[:, ::7], drawn[:, ::50] = 0, np.nan
    assert readings.find_resolution(drawn.astype(np.float32)) == pytest.approx(step)


def test_readings_of_no_meter_have_no_resolution():
    rng = np.random.default_rng(0)
    assert readings.find_resolution(rng.gamma(1.0, size=(20, 500)).astype(np.float32)) == 0
    assert readings.find_resolution(np.zeros((2, 9), np.float32)) == 0
    assert readings.find_resolution(np.full((2, 9), np.nan, np.float32)) == 0


def test_a_few_odd_readings_do_not_hide_it():
    drawn = np.random.default_rng(0).integers(1, 900, size=20_000) * 0.001
    drawn[::150] += 0.0004
    assert readings.find_resolution(drawn.astype(np.float32)) == pytest.approx(0.001)


def test_rounding_keeps_what_is_above_zero_above_it():
    given = np.array([0.0, 1e-6, 0.0012, 0.0018, 3.00049, -0.0007])
    np.testing.assert_allclose(readings.rounded(given, 0.001), [0.0, 0.001, 0.001, 0.002, 3.0, -0.001], atol=1e-12)
    assert readings.rounded(given, 0.0) is given


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.6])
def test_a_law_reaches_its_peak_and_keeps_its_mean(factor):
    rng = np.random.default_rng(0)
    law = np.sort(rng.gamma([[0.5], [2.0], [9.0]], size=(3, 2190)), axis=1)
    law /= law.mean(axis=1, keepdims=True)
    made = readings.with_peak(law, np.log(factor * law[:, -1]))
    np.testing.assert_allclose(made[:, -1], factor * law[:, -1], rtol=0.01)
    np.testing.assert_allclose(made.mean(axis=1), 1)
    assert (np.diff(made, axis=1) >= 0).all()
    # What is below the top 2 % changes only as the mean does.
    np.testing.assert_allclose(made[:, :2100] / made[:, :1], law[:, :2100] / law[:, :1])


def test_a_peak_below_the_rest_of_the_law_is_not_reached():
    law = np.sort(np.random.default_rng(0).gamma(2.0, size=(1, 2190)), axis=1)
    made = readings.with_peak(law / law.mean(), np.array([-50.0]))
    assert np.isfinite(made).all()
    assert made[0, -1] > made[0, 2100] > made[0, 1000]


@pytest.mark.parametrize("least", [0.1, 0.3])
def test_no_law_is_pressed_against_a_ceiling(least):
    """Drawn to peak below where its top begins, it rises as much as it has to."""
    law = np.sort(np.random.default_rng(0).gamma(2.0, size=(1, 2190)), axis=1)
    made = readings.with_peak(law / law.mean(), np.array([-1.0]), least)
    begin = np.count_nonzero(plotting_scores(2190) <= readings.PEAK_FROM) - 1
    assert np.log(made[0, -1] / made[0, begin]) == pytest.approx(least, abs=0.01)
    np.testing.assert_allclose(made.mean(), 1)
    # One that is flatter by itself is left as it is.
    flat = np.sort(np.random.default_rng(0).uniform(0.9, 1.1, size=(1, 2190)), axis=1)
    flat = flat / flat.mean()
    np.testing.assert_allclose(readings.with_peak(flat, np.array([-1.0]), 0.3), flat)


def test_few_points_have_no_top_to_stretch():
    law = np.array([[0.5, 1.0, 1.5]])
    assert readings.with_peak(law, np.array([3.0])) is law


def test_new_series_have_the_resolution_and_the_peak_of_their_numbers():
    """Readings in steps of .25, three homes: whatever order and noise, values are steps and peaks those asked for."""
    rng = np.random.default_rng(0)
    values = np.maximum(rng.gamma(2.0, [[[20.0]], [[40.0]], [[90.0]]], size=(3, 1, 336)) // 0.25 * 0.25, 0.25)
    starts = np.full(3, np.datetime64("2013-01-01", "s"))
    scaler = SeriesScaler(HouseholdConfig(), 3600).fit(values.astype(np.float32), starts)
    scaled = scaler.transform(values.astype(np.float32), starts)
    made = scaler.inverse(scaler.compose_scores(rng.normal(size=values.shape), scaled.numbers, starts), scaled.numbers)
    np.testing.assert_array_equal(made, np.rint(made / 0.25) * 0.25)
    np.testing.assert_allclose(made.max(axis=2), values.max(axis=2), rtol=0.02)


def test_repeated_readings_are_counted_and_given():
    """Steps of 5, .0005, .02 and .015 at a mean near 5: one repeats; asked for three, the other two small ones do.

    Asked for none, the first of the two that are equal changes places with the next larger one.
    """
    given = np.array([[1.0, 6.0, 6.0005, 6.0205, 6.0355]] * 3)
    np.testing.assert_array_equal(readings.repeats(given), [1, 1, 1])
    made = readings.with_repeats(given, np.array([2, 3, 0]))
    # Of two readings either, which are as near to their mean; of four the nearest.
    assert made[0, 3] == made[0, 4] in given[0, 3:]
    np.testing.assert_array_equal(made[0, :3], given[0, :3])
    np.testing.assert_array_equal(made[1:], [[1.0] + [6.0205] * 4, given[2, [0, 1, 3, 2, 4]]])
    assert readings.repeats(np.array([[1.0, np.nan, 1.0, 1.0]]))[0] == 1
    np.testing.assert_allclose(readings.repeat_share(np.array([[[1.0, np.nan, 1.0, 1.0, 3.0]]])), [[1.5 / 3]])


def test_repeats_keep_mean_zeros_and_earlier_repeats():
    given = np.random.default_rng(0).gamma(1.0, size=(20, 2190)) // 0.0005 * 0.0005
    given[:, 100:140] = 0
    before = readings.repeats(given)
    made = readings.with_repeats(given, before + 2)
    assert (readings.repeats(made) >= before + 2).all()
    np.testing.assert_array_equal(made == 0, given == 0)
    np.testing.assert_allclose(made.mean(axis=1), given.mean(axis=1), rtol=2e-5)


def test_too_many_repeats_become_fewer_with_the_same_values():
    """A base load in steps of .0005 repeats itself: asked for fewer, readings change places, each by little."""
    rng = np.random.default_rng(1)
    given = 0.6 + 0.0005 * rng.integers(12, size=(20, 2190))
    given[:, ::3] = rng.uniform(1, 3, size=(20, 730))
    given[:, 100:140] = 0
    size, before = given.mean(axis=1, keepdims=True), readings.repeats(given)
    made = readings.with_repeats(given, before - 60)
    np.testing.assert_allclose(readings.repeats(made), before - 60, atol=25)
    np.testing.assert_array_equal(np.sort(made), np.sort(given))
    assert (np.abs(made - given) <= readings.STIRS * readings.LARGEST_STILLED * size).all()
    np.testing.assert_array_equal(made == 0, given == 0)


def test_two_readings_change_places_and_no_more():
    """Of 1, 1, 5, 1.0041 at a mean of 2 the second and the last do; 1.02 is too far from it, and zeros stay."""
    given = np.array([[1.0, 1.0, 5.0, 1.0041]])
    np.testing.assert_array_equal(readings.with_repeats(given, np.array([0])), [[1.0, 1.0041, 5.0, 1.0]])
    for kept in ([[1.0, 1.0, 5.0, 1.02]], [[0.0, 0.0, 5.0, 0.0041]]):
        np.testing.assert_array_equal(readings.with_repeats(np.array(kept), np.array([0])), kept)


def test_repeats_are_scattered():
    """A still night of 12 steps of .002, and days with single steps of .003: twelve asked for are not the night's."""
    night = 1 + 0.002 * np.arange(13)
    day = np.tile([0.6, 0.603, 1.4, 1.403], 15)
    given = np.concatenate([night, day])[None]
    made = readings.with_repeats(given, np.array([12]))[0]
    still = np.abs(np.diff(made)) <= readings.REPEATED
    assert still.sum() == 12
    assert still[:12].sum() == 4
    assert not (still[:11] & still[1:12]).any()
    assert still[13:].sum() == 8


def test_a_large_step_is_never_stilled():
    given = np.array([[1.0, 6.0, 1.0, 6.0]])
    np.testing.assert_array_equal(readings.with_repeats(given, np.array([3])), given)


def test_a_peak_stays_where_the_level_moves():
    """The peak is a number in physical units: a home that is drawn a third larger peaks no higher for it."""
    rng = np.random.default_rng(0)
    values = rng.gamma(rng.lognormal(-0.3, 0.4, (40, 1, 1)), size=(40, 1, 504))
    values = (values / values.max(axis=2, keepdims=True) * rng.lognormal(0, 0.3, (40, 1, 1))).astype(np.float32)
    starts = np.full(40, np.datetime64("2013-01-01", "s"))
    scaler = SeriesScaler(HouseholdConfig(), 14_400).fit(values, starts)
    scaled, layout = scaler.transform(values, starts), scaler.layout
    highest = values.max(axis=2)
    np.testing.assert_allclose(scaled.numbers[:, layout["peak"]], np.log(highest), rtol=1e-5)
    larger = scaled.numbers.copy()
    larger[:, layout["level"]] += np.log(4 / 3)
    made = scaler.inverse(scaled.scores, larger)
    np.testing.assert_allclose(made.mean(axis=2), 4 / 3 * values.mean(axis=2), rtol=0.02)
    # Of those whose peak over mean, and over where the top begins, stays within what training homes have.
    over = highest / values.mean(axis=2)
    rise = np.log(highest[:, 0] / np.quantile(values[:, 0], 0.977, axis=1))[:, None]
    inside = (over > 4 / 3 * over.min()) & (rise - np.log(4 / 3) > scaler.state["least_rise"] + 0.05)
    assert inside.sum() > 15
    np.testing.assert_allclose(made.max(axis=2)[inside], highest[inside], rtol=0.02)


def test_a_peak_moves_with_levels_that_differ_by_far_more():
    """Pages, or buildings: then the number of a peak is over the mean, which two numbers drawn apart would lose."""
    rng = np.random.default_rng(0)
    values = (rng.lognormal(0, 2, (40, 1, 1)) * rng.gamma(0.7, size=(40, 1, 504))).astype(np.float32)
    starts = np.full(40, np.datetime64("2013-01-01", "s"))
    scaler = SeriesScaler(HouseholdConfig(), 14_400).fit(values, starts)
    scaled, layout = scaler.transform(values, starts), scaler.layout
    highest, mean = values.max(axis=2), values.mean(axis=2)
    np.testing.assert_allclose(scaled.numbers[:, layout["peak"]], np.log(highest / mean), rtol=1e-4)
    larger = scaled.numbers.copy()
    larger[:, layout["level"]] += np.log(4 / 3)
    made = scaler.inverse(scaled.scores, larger)
    np.testing.assert_allclose(made.max(axis=2), 4 / 3 * highest, rtol=0.02)
