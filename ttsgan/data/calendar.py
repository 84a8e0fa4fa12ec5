"""Calendar features of a moment, known before anything is measured: hour, weekday, season, turn of the year.

Axis letters: B series, T time steps, N tokens, F calendar features.
"""

import numpy as np
from numpy.typing import NDArray

DAY_SECONDS = 86_400
YEAR_DAYS = 365.2425
NUM_FEATURES = 15
TURN_DAYS, BEFORE_TURN = 14, 11
"""Length in days of the turn of the year, and how many days before 1 January it begins: 21 December to 3 January."""
FEASTS = (4, 5, 11)
"""Days of the turn of the year, counted from 0, that are like no others: 25 and 26 December, 1 January."""


def slots_per_day(step_seconds: int) -> int:
    """Return the number of steps in a day, or 1 if the step does not divide the day."""
    return DAY_SECONDS // step_seconds if DAY_SECONDS % step_seconds == 0 else 1


def moments(start: np.datetime64, count: int, seconds: int) -> NDArray[np.int64]:
    """Return ``count`` moments from ``start``, ``seconds`` apart, as seconds since 1970 (a Thursday)."""
    first = np.datetime64(start, "s").astype(np.int64)
    return first + seconds * np.arange(count, dtype=np.int64)


def weekday(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the day of the week, Monday 0 to Sunday 6."""
    return (seconds // DAY_SECONDS + 3) % 7


def year_angle(seconds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the position in the year as an angle, 0 at the turn of the year."""
    return 2 * np.pi * ((seconds / DAY_SECONDS / YEAR_DAYS) % 1.0)


def days_of_turn(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the days since the last turn of the year began, on 21 December."""
    shifted = (seconds // DAY_SECONDS + BEFORE_TURN).astype("datetime64[D]")
    return (shifted - shifted.astype("datetime64[Y]")).astype(np.int64)


def features(start: np.datetime64, count: int, seconds: int) -> NDArray[np.float32]:
    """Return calendar features (N, F) of tokens that begin ``seconds`` apart.

    Seven features are the weekday (one-hot), four the season (two harmonics), two the hour of the token's start, and
    two flag the turn of the year, when homes are empty or full, and its feasts.
    """
    at = moments(start, count, seconds)
    season = year_angle(at)
    hour = 2 * np.pi * (at % DAY_SECONDS) / DAY_SECONDS
    waves = [f(k * season) for k in (1, 2) for f in (np.sin, np.cos)] + [np.sin(hour), np.cos(hour)]
    of_turn = days_of_turn(at)
    turn = [of_turn < TURN_DAYS, np.isin(of_turn, FEASTS)]
    return np.concatenate([np.eye(7)[weekday(at)], np.stack([*waves, *turn], axis=1)], axis=1).astype(np.float32)


def features_of(starts_B: NDArray, count: int, seconds: int, lead: int = 0) -> NDArray[np.float32]:
    """Return the features (B, ``lead`` + N, F) of series that start at ``starts_B``, and of ``lead`` tokens before."""
    distinct, index_B = np.unique(starts_B, return_inverse=True)
    before = np.timedelta64(lead * seconds, "s")
    return np.stack([features(start - before, lead + count, seconds) for start in distinct])[index_B]
