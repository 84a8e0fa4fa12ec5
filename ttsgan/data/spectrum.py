"""The rhythm of a series, mainly its power spectrum in bands: measured as household numbers, given to a drawn series.

A band is a range of distances from the nearest daily line (0, 1, 2 ... cycles a day): the line itself, seasons, months,
the weekly lines beside it, weeks, single days. The bands of line 0 describe how a household's days follow each other;
the bands of line 1 describe how its daily rhythm comes and goes. Two numbers are measured separately: the weekend
contrast (mean of the weekend less that of other days), because power has no sign, and the jump at midnight, because a
stationary spectrum cannot tell it from other jumps. The densities of all bands are shares of one variance. They
determine the autocorrelations of a series and the strength of its daily and weekly rhythm.

`with_rhythm` gives a series the band densities in its numbers while it keeps the values in its numbers. It alternates
three steps: scale the spectrum band by band, which keeps phases and thus the events of single days; widen or narrow the
jumps at midnight; put the values back by their ranks. These are iterated surrogates (Schreiber and Schmitz 1996) with
bands in place of single frequencies. Shifts are weighted by the square of a value's size, up to the mean, so that a
base load stays one.

Axis letters: B series, C channels, T time steps, W frequencies, K bands.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ttsgan.data import calendar
from ttsgan.data.calendar import DAY_SECONDS, YEAR_DAYS
from ttsgan.data.quantiles import place

LINES = (0, 1, 2, 3, 4, 7)
"""First daily line (cycles a day) of each group of lines; the last group takes all faster lines."""
DISTANCES = (1.5, 8.0, 26.0, 91.0)
"""Bounds between bands, in cycles a year from the line: the line, seasons, months, weeks, days."""
WEEKLY = YEAR_DAYS / 7
"""Cycles a year of the weekly line."""
HARMONICS = (1, 2, 3)
"""Harmonics of the weekly line; beside each group of daily lines they share one band."""
LEAST = 1e-3
"""Added to densities (white noise is 1) before their logarithm."""
LARGEST_GAIN = 10.0
"""Largest factor by which one round multiplies or divides an amplitude."""
LARGEST_WIDENING = 1.0
"""Largest change of the logarithm of the jump at midnight in one round."""
LEAST_JUMP = 1e-3
"""Added to jumps, relative to the mean absolute value of the series, before their logarithm."""
ROUNDS = 3
"""Rounds that alternate spectrum and values. More rounds bring the rhythm nearer to the wanted one, but disturb the
order of slots and days more: after six, the convolution of the judge detects such series more easily, and they are no
closer to real ones."""


class Dates(NamedTuple):
    """Which of the T steps of a series are on weekends and at midnight.

    Attributes
    ----------
    weekend : ndarray of bool (T,)
    midnight : ndarray of bool (T,)
        The first step of each day, except the first of the series; nowhere if a day is one step or no whole number of
        steps.
    """

    weekend: NDArray[np.bool_]
    midnight: NDArray[np.bool_]

    @classmethod
    def of(cls, start: np.datetime64, length: int, step_seconds: int) -> "Dates":
        """Return the dates of ``length`` steps from ``start``."""
        at = calendar.moments(start, length, step_seconds)
        midnight = (at % DAY_SECONDS < step_seconds) & (calendar.slots_per_day(step_seconds) > 1)
        return cls(calendar.weekday(at) >= 5, midnight & (np.arange(length) > 0))


@cache
def bands(length: int, step_seconds: int) -> NDArray[np.float64]:
    """Return the read-only matrix (W, K) that averages spectra of series of ``length`` steps over each band.

    Bands without a frequency are left out; frequency 0, the mean of a series, is in no band.
    """
    days = length * step_seconds / DAY_SECONDS
    cycles_W = np.arange(length // 2 + 1) / days
    line_W = np.rint(cycles_W)
    apart_W = np.abs(cycles_W - line_W) * YEAR_DAYS
    band_W = np.searchsorted(DISTANCES, apart_W, side="right")
    near_week = np.abs(apart_W[:, None] - WEEKLY * np.array(HARMONICS)).min(axis=1) < 1.5 * max(YEAR_DAYS / days, 1.0)
    band_W[near_week & (band_W > 0)] = len(DISTANCES) + 1
    band_W += (len(DISTANCES) + 2) * np.searchsorted(LINES, line_W, side="right")
    band_W[0] = -1
    member_WK = (band_W[:, None] == np.unique(band_W[1:])).astype(np.float64)
    mean_WK = member_WK / member_WK.sum(axis=0)
    mean_WK.flags.writeable = False
    return mean_WK


def fill_by_week(values_BCT: NDArray, step_seconds: int) -> NDArray[np.float64]:
    """Return series without gaps: a missing value is copied from the same time of the last week that has one.

    If no earlier week has one, the next later week is used; if no week has one, the value is interpolated linearly.
    """
    week = max(1, round(7 * DAY_SECONDS / step_seconds))
    complete = values_BCT.astype(np.float64)
    length = values_BCT.shape[2]
    for b, c in zip(*np.nonzero(np.isnan(values_BCT).any(axis=2)), strict=True):
        weeks = np.full((-(-length // week), week), np.nan)
        weeks.reshape(-1)[:length] = complete[b, c]
        for table in (weeks, weeks[::-1]):
            known = np.where(np.isnan(table), -1, np.arange(len(table))[:, None])
            last = np.maximum.accumulate(known, axis=0)
            table[:] = np.where(last >= 0, np.take_along_axis(table, np.maximum(last, 0), axis=0), table)
        seen = np.flatnonzero(~np.isnan(weeks.reshape(-1)[:length]))
        complete[b, c] = np.interp(np.arange(length), seen, weeks.reshape(-1)[seen])
    return complete


class Rhythm(NamedTuple):
    """Measured rhythm of series.

    Attributes
    ----------
    contrast : ndarray (B, C)
        Mean of the weekend less that of other days, over the mean absolute value.
    jump : ndarray (B, C)
        Log ratio of the mean jump at midnight to that elsewhere; 0 where there is no midnight.
    log_density : ndarray (B, C, K)
        Log ratio of the mean power in each band to that of white noise of the same variance, without the contrast.
    """

    contrast: NDArray[np.float64]
    jump: NDArray[np.float64]
    log_density: NDArray[np.float64]


def measure(values_BCT: NDArray, bands_WK: NDArray, dates: Dates) -> Rhythm:
    """Return the rhythm of complete series of the same dates."""
    contrast_BC, rest_BCT = _without_contrast(values_BCT, dates.weekend)
    size_BC = np.maximum(np.abs(values_BCT).mean(axis=2), 1e-12)
    jump_BC = _jump(values_BCT / size_BC[..., None], dates.midnight)
    return Rhythm(contrast_BC / size_BC, jump_BC, np.log(_densities(_waves(rest_BCT), bands_WK) + LEAST))


def with_rhythm(
    scores_BCT: NDArray,
    sorted_BCT: NDArray,
    wanted: Rhythm,
    bands_WK: NDArray,
    dates: Dates,
    settled: Callable[[NDArray], NDArray] = lambda scores_BCT: scores_BCT,
) -> NDArray[np.float64]:
    """Return scores whose order gives series with these values and, as far as the values allow, the wanted rhythm.

    Parameters
    ----------
    scores_BCT : ndarray
        Initial order of the values, and with it the phases.
    sorted_BCT : ndarray
        The values of each series in rising order.
    wanted : Rhythm
    bands_WK : ndarray
        `bands` for series of this length.
    dates : Dates
    settled : callable
        Corrects scores (B, C, T) after each move, before their order is used.
    """
    density_BCK = np.maximum(np.exp(wanted.log_density) - LEAST, 0.1 * LEAST)
    size_BC1 = np.maximum(np.abs(sorted_BCT).mean(axis=2, keepdims=True), 1e-12)
    contrast_BC1 = wanted.contrast[..., None] * size_BC1
    member_KW = (bands_WK > 0).T.astype(np.float64)
    first_M = np.flatnonzero(dates.midnight)
    # Zeros that are the lowest values are nights, summers, absences: they stay in place.
    scores_BCT = settled(scores_BCT)
    zero_BCT = place(scores_BCT, (sorted_BCT == 0) & (sorted_BCT[..., :1] == 0))
    for _ in range(ROUNDS):
        values_BCT = place(scores_BCT, sorted_BCT)
        waves = _waves(_without_contrast(values_BCT, dates.weekend)[1])
        gain_BCK = np.sqrt(density_BCK / np.maximum(_densities(waves, bands_WK), 1e-9))
        waves *= np.clip(gain_BCK, 1 / LARGEST_GAIN, LARGEST_GAIN) @ member_KW
        filtered_BCT = np.fft.irfft(waves, n=values_BCT.shape[2], axis=2)
        filtered_BCT += contrast_BC1 * (dates.weekend - dates.weekend.mean())
        shift_BCT = filtered_BCT - (values_BCT - values_BCT.mean(axis=2, keepdims=True))
        scores_BCT = values_BCT + _by_size(shift_BCT, np.abs(values_BCT) / size_BC1)
        scores_BCT = settled(_zeros_lowest(scores_BCT, zero_BCT))
        if not len(first_M):
            continue
        missing_BC = wanted.jump - _jump(place(scores_BCT, sorted_BCT) / size_BC1, dates.midnight)
        widen_BC1 = np.exp(np.clip(missing_BC, -LARGEST_WIDENING, LARGEST_WIDENING))[..., None] - 1
        push_BCM = 0.5 * widen_BC1 * (scores_BCT[..., first_M] - scores_BCT[..., first_M - 1])
        scores_BCT[..., first_M] += push_BCM
        scores_BCT[..., first_M - 1] -= push_BCM
        scores_BCT = settled(_zeros_lowest(scores_BCT, zero_BCT))
    return scores_BCT


def _by_size(shift_BCT: NDArray, size_BCT: NDArray) -> NDArray[np.float64]:
    """Return shifts times the square of ``size_BCT``, the size of values over the mean, where that is below 1.

    A filter rings after each peak. A base load is steadier than that ringing, which would soon destroy its order. All
    shifts are then scaled up, so that together they go as far in the original direction as before.
    """
    moved_BCT = np.square(np.minimum(size_BCT, 1)) * shift_BCT
    asked_BC1, gone_BC1 = ((x * shift_BCT).sum(axis=2, keepdims=True) for x in (shift_BCT, moved_BCT))
    return moved_BCT * np.divide(asked_BC1, gone_BC1, out=np.zeros_like(gone_BC1), where=gone_BC1 > 0)


def _zeros_lowest(scores_BCT: NDArray, zero_BCT: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return scores with those of zeros below all others: a filter rings on through the nights of a series."""
    return np.where(zero_BCT, scores_BCT.min(axis=2, keepdims=True) - 1, scores_BCT)


def _jump(values_BCT: NDArray, midnight_T: NDArray) -> NDArray[np.float64]:
    """Return the log ratio (B, C) of the mean jump at midnight to that elsewhere, for series of mean size 1."""
    if not midnight_T.any():
        return np.zeros(values_BCT.shape[:2])
    jump = np.abs(np.diff(values_BCT, axis=2))
    at, elsewhere = (jump[..., which].mean(axis=2) for which in (midnight_T[1:], ~midnight_T[1:]))
    return np.log((at + LEAST_JUMP) / (elsewhere + LEAST_JUMP))


def _without_contrast(values_BCT: NDArray, weekend_T: NDArray) -> tuple[NDArray, NDArray]:
    """Return the weekend contrast (B, C), mean of the weekend less that of other days, and the series without it."""
    course_T = weekend_T - weekend_T.mean()
    size = course_T @ course_T
    contrast_BC = values_BCT @ (course_T / size) if size > 0 else np.zeros(values_BCT.shape[:2])
    return contrast_BC, values_BCT - contrast_BC[..., None] * course_T


def _waves(values_BCT: NDArray) -> NDArray:
    waves = np.fft.rfft(values_BCT, axis=2)
    waves[..., 0] = 0
    return waves


def _densities(waves_BCW: NDArray, bands_WK: NDArray) -> NDArray[np.float64]:
    power_BCW = np.square(waves_BCW.real) + np.square(waves_BCW.imag)
    total_BC1 = np.maximum(power_BCW.sum(axis=2, keepdims=True), 1e-12)
    return power_BCW @ bands_WK * (power_BCW.shape[2] - 1) / total_BC1
