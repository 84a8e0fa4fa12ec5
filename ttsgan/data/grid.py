"""The regular grid of steps that time stamps lie on, and the span of it that is taken."""

import numpy as np

from ttsgan.data.calendar import DAY_SECONDS
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

LEAST_SHARE = 0.25
"""Share of the span of all series that what they have in common must be, to be told of."""
OFTEN = 0.01
"""Share of rows from which on stamps that occur twice are no hour of autumn, but several series in one."""

Period = tuple[np.datetime64, np.datetime64]
"""First moment, and the first that is no longer in it."""


def steps_of(period: Period, step: int) -> int:
    """Return how many steps a period has."""
    seconds = int((period[1] - period[0]).astype("m8[s]").astype(np.int64))
    if seconds % step:
        raise DataError(f"data.period, {period[0]} to {period[1]}, is no whole number of steps of {step} s")
    return seconds // step


def inside(when: np.ndarray, period: Period | None, where: Location) -> np.ndarray:
    """Return which rows (n,) have stamps in the period."""
    within = np.ones(len(when), dtype=bool) if period is None else (when >= period[0]) & (when < period[1])
    if not within.any():
        raise DataError(
            f"{where} has no time stamp within data.period ({period[0]} to {period[1]}): it holds {when.min()} to"
            f" {when.max()}"
        )
    return np.flatnonzero(within)


def frequent(gaps: np.ndarray) -> int:
    """Return the most frequent spacing in seconds, 0 when there is none."""
    sizes, counts = np.unique(gaps, return_counts=True)
    return int(sizes[np.argmax(counts)]) if len(sizes) else 0


def twice_advice(share: float, told_apart_by: str) -> str:
    """Return what to do about stamps that occur twice in this share of the rows."""
    if share >= OFTEN:
        return (
            f"so many are several series in one: {told_apart_by}; or a column beside the stamps tells the time of day:"
            " join the two to one stamp"
        )
    return "keep one row for each (local clock time repeats an hour in autumn: use UTC)"


def span_of_all(begin: np.ndarray, end: np.ndarray) -> str:
    """Return the span of whole days that series have in common, or, where that is a small part, that of them all.

    Parameters
    ----------
    begin, end : ndarray of shape (n,), int64
        Seconds since 1970 of the first moment of each series, and of the first after it.
    """
    low, high = -(-begin.max() // DAY_SECONDS), end.min() // DAY_SECONDS
    first, last = begin.min() // DAY_SECONDS, -(-end.max() // DAY_SECONDS)
    span = (low, high) if high - low > LEAST_SHARE * (last - first) else (first, last)
    return "/".join(str(day.astype("datetime64[D]")) for day in span)
