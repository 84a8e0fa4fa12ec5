"""What is regular of a household: habit and common course, of series that are there and of new ones."""

import numpy as np
from scaled import decode_scores

from ttsgan.config import HouseholdConfig
from ttsgan.data import calendar
from ttsgan.data.habits import Habits
from ttsgan.data.scaling import SeriesScaler

START, STEP, SLOTS, LENGTH = np.datetime64("2013-01-02T00:00:00", "s"), 14_400, 6, 60 * 6


def series(count, seed=0):
    rng = np.random.default_rng(seed)
    day = np.exp(rng.normal(size=(count, 1, 1, SLOTS)))
    return (day * rng.lognormal(0, 0.3, (count, 1, LENGTH // SLOTS, SLOTS))).reshape(count, 1, -1).astype(np.float32)


def test_a_habit_is_found_again_and_goes_on_before_the_start():
    """Scores that are one value by slot on weekdays and another at weekends; the ridge of one day takes its share."""
    habits, before = Habits(LENGTH, STEP, SLOTS), 7 * SLOTS
    at = calendar.moments(START - np.timedelta64(before * STEP, "s"), before + LENGTH, STEP)
    weekend, slot = calendar.weekday(at) >= 5, at % 86_400 // STEP
    whole = np.where(weekend, -1.0, 0.5) + slot / 10
    scores, starts = whole[None, None, before:], np.array([START])
    found = habits.coefficients(scores, np.ones_like(scores, bool), starts).reshape(1, 1, SLOTS, -1)
    course = habits.course(found, starts, before)[0, 0]
    np.testing.assert_array_equal(habits.slots(START, before), slot)
    np.testing.assert_allclose(course[before:], scores[0, 0], atol=0.1)
    np.testing.assert_allclose(course[:before], whole[:before], atol=0.1)


def test_regular_and_residual_are_the_scores_over_the_spread():
    values = series(30)
    starts = np.full(30, START)
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit(values, starts)
    scaled = scaler.transform(values, starts)
    spread = decode_scores(scaler, np.ones_like(scaled.residual), scaled.numbers, starts) - decode_scores(
        scaler, np.zeros_like(scaled.residual), scaled.numbers, starts
    )
    np.testing.assert_allclose((scaled.regular + scaled.residual) * spread, scaled.scores, atol=1e-4)


def test_what_is_regular_of_new_series_is_that_of_real_ones_where_no_common_course_is_known():
    """Fewer series than a common course takes: habit alone. Before the start it is that of earlier dates."""
    values, starts = series(8), np.full(8, START)
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit(values, starts)
    scaled, before = scaler.transform(values, starts), 3 * SLOTS
    whole = scaler.regular(scaled.numbers, starts, before)
    assert whole.shape == (8, 1, before + LENGTH)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole[..., before:], scaled.regular, atol=1e-4)
    early = scaler.regular(scaled.numbers, starts - np.timedelta64(before * STEP, "s"))
    np.testing.assert_allclose(whole[..., :LENGTH], early, atol=1e-5)


def test_the_common_course_is_part_of_what_is_regular_from_the_start_on():
    values, starts = series(30), np.full(30, START)
    shared = np.exp(np.random.default_rng(1).normal(size=LENGTH))
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit((values * shared).astype(np.float32), starts)
    numbers = scaler.transform((values * shared).astype(np.float32), starts).numbers
    with_course, without = scaler.regular(numbers, starts, SLOTS), numbers.copy()
    without[:, scaler.layout["loading"]] = 0
    gone = with_course - scaler.regular(without, starts, SLOTS)
    assert not gone[..., :SLOTS].any()
    assert np.abs(np.corrcoef(gone[0, 0, SLOTS:], scaler.state["common_guess"][0, 0])[0, 1]) > 0.9
