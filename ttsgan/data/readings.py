"""Marks of a meter in the values of a series: peak, resolution, repeated readings.

Axis letters: B series, T ranks or time steps.
"""

import numpy as np
from numpy.typing import NDArray

from ttsgan.data.quantiles import plotting_scores

PEAK_FROM = 2.0
"""Normal score from which a distribution is stretched to reach its peak: its highest 2 %."""
PEAK_ROUNDS = 4
"""Rounds of stretching and of rescaling to the mean, which the stretch changes."""
STEEPEST = 0.9
"""A distribution is compressed by at most this share of its rise: the log ratio of its peak to the value where the
stretch begins."""
DIVISORS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 25)
"""A resolution is a power of ten over one of these. Readings of a decimal meter may be means of that many values, or
multiples of 2 or 4 of its last digit if amounts per half or quarter hour were turned into rates; sensors count in
sixteenths."""
FINEST = 1e-4
"""Steps finer than this share of the median reading are no resolution: any value is near a multiple of them."""
REPEATED = 1e-3
"""Two readings closer than this share of the mean size of a series repeat each other."""
LARGEST_STILLED = 0.005
"""A step larger than this share of the mean size never becomes a repetition, however many were drawn; readings further
apart than this are not swapped."""
SCATTERED = 3
"""Number of small steps to choose from, for each that becomes a repetition."""
STIRS = 3
"""Rounds of swapping readings where too many repeat: among many equal ones, a swapped reading may repeat another."""
LATTICE_SHARE = 0.99
"""Share of readings that must be multiples of a resolution."""
MOST_ROUNDED = 0.05
"""Largest root mean square distance of readings from multiples of a resolution, as a share of their standard deviation.
A frequency of 50 Hz that varies by hundredths is always near a multiple of 50, but 50 is not its resolution."""
SAMPLED = 100_000
"""Number of readings, about, in which the resolution is sought."""


def find_resolution(values: NDArray[np.float32]) -> float:
    """Return the step that readings are multiples of (a meter's last digit, or a part of it), or 0 if there is none.

    Parameters
    ----------
    values : ndarray of any shape, NaN where missing

    Returns
    -------
    float
        Physical units. The largest power of ten, or power of ten over one of `DIVISORS`, that more than 99 % of the
        non-zero readings are multiples of, provided that rounding to it keeps their differences (`MOST_ROUNDED`).
    """
    seen = np.abs(values[np.isfinite(values) & (values != 0)]).astype(np.float64)
    seen = seen[:: max(1, len(seen) // SAMPLED)]
    if not len(seen):
        return 0.0
    typical = float(np.median(seen))
    last = int(np.ceil(np.log10(typical))) + 1
    steps = sorted({10.0**k / d for k in range(last - 7, last) for d in DIVISORS}, reverse=True)
    for step in steps:
        count = seen / step
        off = np.abs(count - np.rint(count))
        near = (off < 0.02 + 4e-7 * count) & (np.rint(count) >= 1)  # float32 keeps seven digits
        if step <= FINEST * typical or np.mean(near) <= LATTICE_SHARE:
            continue
        if step * np.sqrt(np.mean(off[near] ** 2)) <= MOST_ROUNDED * seen[near].std():
            return step
    return 0.0


def rounded(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Return values rounded to multiples of ``step`` (0: unchanged); positive values stay positive."""
    if step == 0:
        return values
    count = np.rint(values / step)
    return np.where(values > 0, np.maximum(count, 1), count) * step


def repeats(values_BT: NDArray) -> NDArray[np.int64]:
    """Return the number of readings (B,) that repeat the one before them; NaN repeats nothing."""
    return (_steps(values_BT) <= REPEATED).sum(axis=1)


def _steps(values_T: NDArray) -> NDArray[np.float64]:
    """Return the size of each step (..., T - 1), over the mean size of its series."""
    size_1 = np.maximum(np.nanmean(np.abs(values_T), axis=-1, keepdims=True), 1e-12)
    return np.abs(np.diff(values_T, axis=-1)) / size_1


def repeat_share(values_BCT: NDArray) -> NDArray[np.float64]:
    """Return the share of readings (B, C) that repeat the one before; half a repetition is added, so it is never 0."""
    count_BC = np.stack([repeats(values_BCT[:, c]) for c in range(values_BCT.shape[1])], axis=1)
    pairs_BC = (~np.isnan(np.diff(values_BCT, axis=2))).sum(axis=2)
    return (count_BC + 0.5) / (pairs_BC + 1)


def with_repeats(values_BT: NDArray, repeats_B: NDArray) -> NDArray:
    """Return series with ``repeats_B`` repeated readings, as nearly as small changes allow, and with unchanged means.

    A smooth drawn quantile function has fewer equal values than the readings of a meter or, where it is steep, more.
    Zeros do not change.
    """
    out_BT = values_BT.copy()
    missing_B = repeats_B - repeats(values_BT)
    for row in np.flatnonzero(missing_B > 0):
        _still(out_BT[row], missing_B[row])
    for _ in range(STIRS):
        excess_B = repeats(out_BT) - repeats_B
        for row in np.flatnonzero(excess_B > 0):
            _stir(out_BT[row], excess_B[row])
    return out_BT


def _still(x_T: NDArray, missing: int) -> None:
    """Make ``missing`` more readings of a series repeat the one before, in place, by removing small steps.

    These are taken evenly from the `SCATTERED` times as many smallest steps, where there are enough: the very smallest
    lie side by side, in still nights, and would make one long run. All readings of a run take one of its values, chosen
    to keep the mean of the series.
    """
    step_T = _steps(x_T)
    step_T[(x_T[1:] == 0) != (x_T[:-1] == 0)] = np.inf
    small = np.flatnonzero((step_T > REPEATED) & (step_T <= LARGEST_STILLED))
    every = max(1, min(SCATTERED, len(small) // missing))
    stilled = small[np.argsort(step_T[small])[: every * missing : every]]
    equal_T = step_T <= REPEATED
    equal_T[stilled] = True
    run_T = np.concatenate([[0], np.cumsum(~equal_T)])
    moved = 0.0
    for run in np.unique(run_T[stilled]):
        at = slice(*np.searchsorted(run_T, [run, run + 1]))
        readings = x_T[at].copy()
        x_T[at] = readings[np.abs(readings - (readings.sum() - moved) / len(readings)).argmin()]
        moved += (x_T[at] - readings).sum()


def _stir(x_T: NDArray, excess: int) -> None:
    """Make ``excess`` readings of a series no longer repeat the one before, in place, where possible.

    Each is swapped with the next larger reading that clearly differs from it; no reading is swapped twice.
    """
    repeated = 1 + np.flatnonzero((_steps(x_T) <= REPEATED) & (x_T[1:] != 0))
    if not len(repeated):
        return
    chosen = repeated[np.unique(np.linspace(0, len(repeated) - 1, excess).round().astype(int))]
    bounds = np.abs(x_T).mean() * np.array([2 * REPEATED, LARGEST_STILLED])
    at_T = np.argsort(x_T, kind="stable")
    sorted_T, free_T = x_T[at_T], ~np.isin(at_T, chosen)
    for t in chosen:
        low, high = np.searchsorted(sorted_T, x_T[t] + bounds)
        larger = low + np.flatnonzero(free_T[low:high])
        if len(larger):
            other = at_T[larger[0]]
            free_T[larger[0]] = False
            x_T[t], x_T[other] = x_T[other], x_T[t]


def with_peak(sorted_BT: NDArray, log_peak_B: NDArray, least_rise: float = 0.0) -> NDArray:
    """Return non-negative distributions of the same mean, stretched to a largest value near ``exp(log_peak_B)``.

    Components of a quantile function that are drawn separately do not add up to the peaks of real series. No
    distribution is compressed to a rise, the log ratio of its peak to the value where the stretch begins, below
    ``least_rise``: many of its readings would stand at one ceiling.
    """
    score_T = plotting_scores(sorted_BT.shape[1])
    if score_T[-1] <= PEAK_FROM:
        return sorted_BT
    mean_B1 = sorted_BT.mean(axis=1, keepdims=True)
    share_T = np.clip((score_T - PEAK_FROM) / (score_T[-1] - PEAK_FROM), 0, 1)
    last = np.count_nonzero(share_T == 0) - 1
    for _ in range(PEAK_ROUNDS):
        log_BT = np.log(np.maximum(sorted_BT[:, [last, -1]], 1e-12))
        rise_B = log_BT[:, 1] - log_BT[:, 0]
        most_B = np.minimum(STEEPEST * rise_B, np.maximum(rise_B - least_rise, 0))
        push_B = np.maximum(log_peak_B - log_BT[:, 1], -most_B)
        sorted_BT = np.sort(sorted_BT * np.exp(push_B[:, None] * share_T), axis=1)
        sorted_BT = sorted_BT * mean_B1 / np.maximum(sorted_BT.mean(axis=1, keepdims=True), 1e-12)
    return sorted_BT
