"""Checks for faults in series: counters, codes for missing values, other units, sums of others, steps of two lengths.

Axis letters: n series, C channels, L time steps.
"""

from collections.abc import Iterator

import numpy as np

from ttsgan.errors import DataError

REGISTER_SERIES, REGISTER_VALUES = 200, 24
"""Number of series that are inspected for counters, and the smallest number of values that decides."""
REGISTER_FALLS, REGISTER_RISES = 0.001, 0.01
"""Largest share of steps at which a counter may fall (a meter is replaced); share of steps above which it must rise."""
CODE_TIMES = 10
"""Smallest number of occurrences of a code for a missing value."""
CODES = frozenset(map(float, map(np.float32, (32767, 65535, 2147483647, 4294967295, 1e20, 9.96921e36))))
"""Codes that are not written with nines: largest integers of a type, and fill values of NetCDF."""
FAR_BELOW = 10
"""Multiple of the largest value; a value further below zero is no feed-in: no home feeds in what it never draws."""
OTHER_UNIT = 300
"""Ratio of a series' median size to that of most series, above which it is taken to be in another unit."""
FAR_OFF = 100
"""Multiple of the 99 % quantile of its series, and of the peak of most series, above which a value is doubted."""
SPARSE_RUN = 48
"""Number of consecutive values, all the same few steps apart, that is no coincidence."""
SUM_ERROR = 1e-3
"""Mean difference, as a share of the mean size, up to which a series is the sum or mean of all others."""
BLOCK = 1024
"""Number of series that are summed at a time."""


def look_like_registers(values: np.ndarray) -> bool:
    """Tell whether nearly all of the first series (n, C, L) rise and hardly ever fall, as a counter does."""
    rising = []
    for row in values[:REGISTER_SERIES].reshape(-1, values.shape[2]):
        seen = row[~np.isnan(row)]
        if len(seen) >= REGISTER_VALUES and seen.min() < seen.max():
            step = np.diff(seen)
            falls, rises = np.count_nonzero(step < 0), np.count_nonzero(step > 0)
            rising.append(falls <= max(1, REGISTER_FALLS * len(step)) and rises > REGISTER_RISES * len(step))
    return len(rising) > 0 and np.mean(rising) > 0.9


def refuse_codes(values: np.ndarray, where: object) -> None:
    """Refuse series (n, C, L) with a code for missing values, such as -999.

    Such a code is the lowest or highest of all values, occurs at least `CODE_TIMES` times, and no other value is half
    as far from zero on its side. It also is written with nines alone (two digits or more below zero, three above), or
    is one of `CODES`, or is the only value below zero, with a size above `FAR_BELOW` times the highest value.
    """
    lowest, highest = (float(furthest.reduce(values, axis=None)) for furthest in (np.fmin, np.fmax))
    for code, sign, least_digits, side in ((lowest, -1, 2, "below"), (highest, 1, 3, "above")):
        digits = f"{sign * code:.10g}"
        known = (len(digits) >= least_digits and set(digits) == {"9"}) or code in CODES
        if not known and not (sign < 0 and -code > FAR_BELOW * highest):
            continue
        at = values == np.float32(code)
        if not known and (values[~at] < 0).any():
            continue
        if at.sum() >= CODE_TIMES and not (sign * values[~at] > abs(code) / 2).any():
            raise DataError(
                f"{where}: the value {code:.10g} stands {at.sum()} times, in {at.any(axis=(1, 2)).sum()} of"
                f" {len(values)} series, and no other is {side} {code / 2:.10g}: it seems to be a code for missing"
                " values; leave them empty"
            )


def odd_meter(values: np.ndarray, ids: np.ndarray) -> str:
    """Return a warning of series (n, C, L) whose median size is over `OTHER_UNIT` times that of most, or ""."""
    for of_channel in values.swapaxes(0, 1):
        sizes = np.array([np.median(np.abs(row[row != 0])) if row.any() else 0.0 for row in _seen(of_channel)])
        times = sizes / np.median(sizes[sizes > 0]) if sizes.any() else sizes
        rows = np.flatnonzero(times > OTHER_UNIT)
        if len(rows):
            return (
                f"the values of {str(ids[rows[0]])!r} are {times[rows[0]]:.3g} times those of most series"
                f"{_others(rows)}: are they in another unit?"
            )
    return ""


def odd_reading(values: np.ndarray, ids: np.ndarray) -> str:
    """Return a warning of single values far outside of their series (n, C, L) and of most others, or ""."""
    for of_channel in values.swapaxes(0, 1):
        peaks = np.fmax.reduce(np.abs(of_channel), axis=1)
        usual = np.nanmedian(peaks) if np.isfinite(peaks).any() else np.nan
        rows = np.flatnonzero(peaks > FAR_OFF * usual)
        highs = np.array([np.quantile(np.abs(row), 0.99) for row in _seen(of_channel[rows])])
        rows = rows[peaks[rows] > FAR_OFF * highs]
        if len(rows):
            row = of_channel[rows[0]]
            value = row[np.nanargmax(np.abs(row))]
            return (
                f"{str(ids[rows[0]])!r} has the value {value:.6g}{_others(rows)}, and most series none above"
                f" {usual:.3g}: is it a fault of the meter? Leave such values empty"
            )
    return ""


def _seen(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the observed values of each series (n, L)."""
    return (row[~np.isnan(row)] for row in values)


def _others(rows: np.ndarray) -> str:
    return f" (and {len(rows) - 1} more series)" if len(rows) > 1 else ""


def alike(names: np.ndarray) -> list[str]:
    """Return two of the labels (n,) that differ only in case or in spaces around them, or an empty list."""
    distinct = np.unique(names.astype(str))
    folded = np.array([name.strip().casefold() for name in distinct])
    _, first, counts = np.unique(folded, return_index=True, return_counts=True)
    return distinct[folded == folded[first[np.argmax(counts > 1)]]].tolist()[:2] if (counts > 1).any() else []


def refuse_other_steps(values: np.ndarray, ids: np.ndarray, step_seconds: int, where: object) -> None:
    """Refuse series (n, C, L) that for a time have a value only every few steps, such as hourly ones on a 15 min grid.

    Each such value belongs to a longer step: energy would be counted several times, or treated as missing.
    """
    for row, series in enumerate(values):
        seen = np.flatnonzero(~np.isnan(series).all(axis=0))
        gaps = np.diff(seen)
        if len(seen) == values.shape[2] or not len(gaps):
            continue
        first = np.flatnonzero(np.diff(gaps, prepend=0))
        runs = np.diff(first, append=len(gaps))
        sparse = np.flatnonzero((gaps[first] > 1) & (runs >= SPARSE_RUN))
        if len(sparse):
            one = first[sparse[0]]
            raise DataError(
                f"{where}: {str(ids[row])!r} has a value every {gaps[one] * step_seconds} s, {runs[sparse[0]]} times"
                f" from its step {seen[one]} on, where the step is {step_seconds} s; bring all to one step, or read"
                " them apart"
            )


def refuse_sums(values: np.ndarray, ids: np.ndarray, where: object) -> None:
    """Refuse series (n, C, L) of which one is the sum or mean of all others: it would be protected, yet reveal all."""
    others = len(values) - 1
    if others < 3:
        return
    blocks = range(0, len(values), BLOCK)
    total = sum(np.nan_to_num(values[at : at + BLOCK]).sum(axis=0, dtype=np.float64) for at in blocks)
    sums = np.concatenate([np.nansum(values[at : at + BLOCK], axis=(1, 2), dtype=np.float64) for at in blocks])
    rest = sums.sum() - sums
    for share, what in ((1, "sum"), (others, "mean")):
        found = []
        for row in np.flatnonzero(np.abs(sums - rest / share) <= 2 * SUM_ERROR * np.abs(sums)):
            series = np.nan_to_num(values[row]).astype(np.float64)
            if np.abs(series - (total - series) / share).mean() <= SUM_ERROR * np.abs(series).mean():
                found.append(row)
        # Where most are the mean of the others, all series are nearly the same, which a judge must be able to see.
        if found and 2 * len(found) < len(values):
            raise DataError(f"{where}: {str(ids[found[0]])!r} is the {what} of all other series; leave it out")
