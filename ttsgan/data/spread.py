"""How widely a household's scores spread about its habits: by slot of the day and season of the year.

Seasons are overlapping waves of weights that add up to 1 at every moment, so that the spread changes smoothly.

Axis letters: B series, C channels, T time steps, S slots of a day, K seasons.
"""

import numpy as np
from numpy.typing import NDArray

from ttsgan.data import calendar

SEASONS = 4
KEPT_STEPS = 5.0
"""A season's variance is drawn towards that of the whole year as if it had so many more steps in each slot."""


def season_weights(start: np.datetime64, length: int, step_seconds: int) -> NDArray[np.float64]:
    """Return the weight of each season (K, T): half a cosine about its middle, the first at the turn of the year."""
    angle_T = calendar.year_angle(calendar.moments(start, length, step_seconds))
    middle_K1 = 2 * np.pi * np.arange(SEASONS)[:, None] / SEASONS
    apart_KT = (angle_T - middle_K1 + np.pi) % (2 * np.pi) - np.pi
    near_KT = np.abs(apart_KT) < 2 * np.pi / SEASONS
    return np.where(near_KT, 0.5 + 0.5 * np.cos(apart_KT * SEASONS / 2), 0.0)


def log_spreads(
    rest_BCT: NDArray, observed_BCT: NDArray, slot_T: NDArray, weight_KT: NDArray, num_slots: int
) -> NDArray[np.float64]:
    """Return the log standard deviation of ``rest`` in each slot and season (B, C, S, K)."""
    out_BCSK = np.empty((*rest_BCT.shape[:2], num_slots, len(weight_KT)))
    for s in range(num_slots):
        at = np.flatnonzero(slot_T == s)
        seen = observed_BCT[:, :, at].astype(np.float64)
        square = np.square(rest_BCT[:, :, at]) * seen
        year = (square.sum(axis=2) + 0.1) / (seen.sum(axis=2) + 1)
        weight = weight_KT[:, at].T
        season = (square @ weight + KEPT_STEPS * year[..., None]) / (seen @ weight + KEPT_STEPS)
        out_BCSK[:, :, s] = 0.5 * np.log(season)
    return out_BCSK


def course_of(log_spread_BCSK: NDArray, slot_T: NDArray, weight_KT: NDArray) -> NDArray[np.float64]:
    """Return the standard deviation at each step (B, C, T): the seasons' logarithms, weighed."""
    out_BCT = np.empty((*log_spread_BCSK.shape[:2], len(slot_T)))
    for s in range(log_spread_BCSK.shape[2]):
        at = np.flatnonzero(slot_T == s)
        out_BCT[:, :, at] = np.exp(log_spread_BCSK[:, :, s] @ weight_KT[:, at])
    return out_BCT
