"""Calendar features against Python's own calendar."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from ttsgan.data import calendar

MONDAY = np.datetime64("2024-01-01T00:00:00", "s")


@pytest.mark.parametrize(
    ("step", "slots"), [(3600, 24), (14_400, 6), (900, 96), (86_400, 1), (25_200, 1), (604_800, 1), (7, 1)]
)
def test_slots_per_day(step, slots):
    assert calendar.slots_per_day(step) == slots


def test_moments():
    start = np.datetime64("1970-01-02T00:00:10", "s")
    np.testing.assert_array_equal(calendar.moments(start, 3, 60), [86_410, 86_470, 86_530])


@pytest.mark.parametrize("start", ["1960-02-28", "2000-02-28", "2013-01-01", "2024-02-28", "2100-02-27"])
def test_weekday_is_pythons(start):
    at = calendar.moments(np.datetime64(start, "s"), 40, 43_200)
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)
    wanted = [(first + i * timedelta(hours=12)).weekday() for i in range(40)]
    assert calendar.weekday(at).tolist() == wanted


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2013, 2024, 2050])
def test_year_begins_at_angle_zero(year):
    """Leap days move the turn of the year by a day at most."""
    angle = calendar.year_angle(calendar.moments(np.datetime64(f"{year}-01-01", "s"), 1, 1))[0]
    off = (angle + np.pi) % (2 * np.pi) - np.pi
    assert abs(off) <= 2 * np.pi * 1.01 / calendar.YEAR_DAYS
    middle = calendar.year_angle(calendar.moments(np.datetime64(f"{year}-07-02", "s"), 1, 1))[0]
    assert middle == pytest.approx(np.pi, abs=0.03)


def test_features():
    made = calendar.features(MONDAY, 14, 86_400)
    assert made.shape == (14, calendar.NUM_FEATURES)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[:, :7], np.tile(np.eye(7, dtype=np.float32), (2, 1)))
    np.testing.assert_allclose(made[:, 7] ** 2 + made[:, 8] ** 2, 1, atol=1e-6)
    np.testing.assert_allclose(made[:, 9], 2 * made[:, 7] * made[:, 8], atol=1e-6)  # sin 2a
    np.testing.assert_allclose(made[:, 11:13], np.tile([0, 1], (14, 1)), atol=1e-6)  # midnight


def test_hour_features():
    made = calendar.features(MONDAY, 4, 21_600)[:, 11:13]
    np.testing.assert_allclose(made, [[0, 1], [1, 0], [0, -1], [-1, 0]], atol=1e-6)


@pytest.mark.parametrize("year", [1969, 2012, 2013])
def test_turn_of_the_year(year):
    """21 December to 3 January, 25 and 26 December and 1 January, in leap years too; twice, for the halves of a day."""
    first = date(year, 12, 1)
    made = calendar.features(np.datetime64(first, "s"), 2 * 60, 43_200)[:, 13:].reshape(60, 2, 2)
    dates = [first + timedelta(days) for days in range(60)]
    turn = [date(year, 12, 21) <= day <= date(year + 1, 1, 3) for day in dates]
    feasts = [(day.month, day.day) in ((12, 25), (12, 26), (1, 1)) for day in dates]
    for half in (0, 1):
        np.testing.assert_array_equal(made[:, half], np.stack([turn, feasts], axis=1))


def test_features_of_a_later_start_are_a_later_part():
    long = calendar.features(MONDAY, 20, 14_400)
    later = calendar.features(MONDAY + np.timedelta64(5 * 14_400, "s"), 15, 14_400)
    np.testing.assert_array_equal(long[5:], later)


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
def test_unit_of_the_start_does_not_matter(unit):
    np.testing.assert_array_equal(
        calendar.features(MONDAY.astype(f"datetime64[{unit}]"), 3, 3600), calendar.features(MONDAY, 3, 3600)
    )


def test_features_of_series_with_days_before():
    """Series by series what `features` gives, from as many tokens earlier."""
    starts = np.array([MONDAY, MONDAY + np.timedelta64(3, "D"), MONDAY])
    made = calendar.features_of(starts, 5, 86_400, lead=2)
    assert made.shape == (3, 7, calendar.NUM_FEATURES)
    for one, start in zip(made, starts, strict=True):
        np.testing.assert_array_equal(one, calendar.features(start - np.timedelta64(2, "D"), 7, 86_400))
    np.testing.assert_array_equal(calendar.features_of(starts, 5, 86_400), made[:, 2:])
