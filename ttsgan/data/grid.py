"""The regular grid of steps on which time stamps lie, and the span of it that is read."""

import numpy as np

from ttsgan.data.calendar import DAY_SECONDS, weekday
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

LEAST_SHARE = 0.25
"""The common span of all series is suggested only if it exceeds this share of their total span."""
OFTEN = 0.01
"""From this share of rows on, duplicate stamps mean several series in one."""

SUNDAY = 6
CLOCK_MONTHS = 3, 4, 10, 11
"""Months in which summer time ends, north and south."""
CLOCK_HOURS = 4
"""Summer time ends within this many hours of midnight."""
CLOCK_TWICE = (
    "%s has two values for %s, an hour that local clocks repeat: their mean is taken (spring's hour is missing)"
)
"""What a warning says of a source with such an hour."""

Period = tuple[np.datetime64, np.datetime64]
"""First moment, and the first moment after the period."""


def steps_of(period: Period, step: int) -> int:
    """Return the number of steps in a period; `DataError` if it is not whole."""
    seconds = int((period[1] - period[0]).astype("m8[s]").astype(np.int64))
    if seconds % step:
        raise DataError(f"data.period, {period[0]} to {period[1]}, is no whole number of steps of {step} s")
    return seconds // step


def inside(when: np.ndarray, period: Period | None, where: Location) -> np.ndarray:
    """Return the positions of the stamps (n,) that lie in the period, all without one; `DataError` if none does."""
    within = np.ones(len(when), dtype=bool) if period is None else (when >= period[0]) & (when < period[1])
    if not within.any():
        raise DataError(
            f"{where} has no time stamp within data.period ({period[0]} to {period[1]}): it holds {when.min()} to"
            f" {when.max()}"
        )
    return np.flatnonzero(within)


def frequent(gaps: np.ndarray) -> int:
    """Return the most frequent spacing in seconds, or 0 if there is none."""
    sizes, counts = np.unique(gaps, return_counts=True)
    return int(sizes[np.argmax(counts)]) if len(sizes) else 0


def twice_advice(share: float, told_apart_by: str) -> str:
    """Return advice on duplicate stamps that occur in this share of the rows."""
    if share >= OFTEN:
        return (
            f"so many are several series in one: {told_apart_by}; or a column beside the stamps tells the time of day:"
            " join the two to one stamp"
        )
    return "keep one row for each"


def of_clock(seconds: np.ndarray) -> bool:
    """Tell whether stamps (n,), seconds since 1970, that occur twice are what a local clock repeats after summer time.

    These are the stamps of one hour in the small hours of a Sunday, in October or November (March or April in the
    south), once a year at most.
    """
    moments = np.unique(seconds)
    days, day_at = np.unique(moments // DAY_SECONDS, return_inverse=True)
    dates = days.astype("datetime64[D]")
    months, years = dates.astype("datetime64[M]").astype(np.int64) % 12 + 1, dates.astype("datetime64[Y]")
    hours = [moments[day_at == i] % DAY_SECONDS for i in range(len(days))]
    return bool(
        (weekday(moments) == SUNDAY).all()
        and np.isin(months, CLOCK_MONTHS).all()
        and len(np.unique(years)) == len(years)
        and all(at.max() < CLOCK_HOURS * 3600 and np.ptp(at) < 3600 for at in hours)
    )


def span_of_all(begin: np.ndarray, end: np.ndarray) -> str:
    """Return the span of whole days that all series share or, if it is a small part of it, their total span.

    Parameters
    ----------
    begin, end : ndarray of shape (n,), int64
        Seconds since 1970 of the first moment of each series, and of the first moment after it.
    """
    low, high = -(-begin.max() // DAY_SECONDS), end.min() // DAY_SECONDS
    first, last = begin.min() // DAY_SECONDS, -(-end.max() // DAY_SECONDS)
    span = (low, high) if high - low > LEAST_SHARE * (last - first) else (first, last)
    return "/".join(str(day.astype("datetime64[D]")) for day in span)
