"""Spread by slot and season: weights, known variances, there and back."""

import numpy as np
import pytest

from ttsgan.data import spread

START, LENGTH, STEP = np.datetime64("2013-01-01"), 2190, 14_400
SLOTS = np.arange(LENGTH) % 6


@pytest.mark.parametrize(("start", "length"), [(START, LENGTH), (np.datetime64("2012-07-19"), 9000), (START, 3)])
def test_weights_of_the_seasons_add_up_to_one(start, length):
    weights = spread.season_weights(start, length, STEP)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert weights.min() >= 0


def test_a_season_rules_its_middle():
    weights = spread.season_weights(START, LENGTH, STEP)
    for season, day in enumerate((0, 91, 182, 274)):
        assert weights[season, 6 * day] == pytest.approx(1, abs=1e-3)


def test_a_spread_that_changes_is_found_and_given_back():
    """Three times as wide in winter as in summer, in slot 3 half as wide as in the others."""
    weights = spread.season_weights(START, LENGTH, STEP)
    truth = np.exp(np.log(3) * (weights[0] - weights[2]) / 2) * np.where(SLOTS == 3, 0.5, 1.0)
    rest = np.random.default_rng(0).normal(size=(300, 1, LENGTH)) * truth
    seen = np.random.default_rng(1).random(rest.shape) > 0.2
    by_slot, by_season = spread.log_spreads(rest * seen, seen, SLOTS, weights, 6)
    assert (by_slot.shape, by_season.shape) == ((300, 1, 6), (300, 1, 4))
    course = np.exp(np.log(spread.course_of(by_slot, by_season, SLOTS, weights)).mean(axis=(0, 1)))
    np.testing.assert_allclose(course[SLOTS == 3], course[SLOTS == 2] / 2, rtol=0.05)
    # Seasons overlap, and each is taken as a whole: most of the change is found, never more.
    assert 2 < course[0] / course[6 * 182] < 3
    assert np.corrcoef(course, truth)[0, 1] > 0.97


def test_a_season_without_a_step_has_the_spread_of_the_others():
    weights = spread.season_weights(START, 60, STEP)  # ten days of January
    rest = np.random.default_rng(0).normal(size=(200, 1, 60)) * 2
    by_slot, by_season = spread.log_spreads(rest, np.ones_like(rest, bool), SLOTS[:60], weights, 6)
    np.testing.assert_allclose(by_slot.mean(axis=(0, 1)), np.log(2), atol=0.15)
    np.testing.assert_allclose(by_season[:, 0, 1:].mean(axis=0), 0, atol=0.1)
