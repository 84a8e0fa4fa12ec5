"""How widely a household's scores spread about its habits: by slot of the day, times by season of the year.

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
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log standard deviation of ``rest`` in each slot (B, C, S), and of a season over a slot's (B, C, K)."""
    log_slot_BCS = np.empty((*rest_BCT.shape[:2], num_slots))
    relative_BCT = np.empty(rest_BCT.shape)
    for s in range(num_slots):
        at = np.flatnonzero(slot_T == s)
        seen = observed_BCT[:, :, at]
        variance_BC = (np.square(rest_BCT[:, :, at]) * seen).sum(axis=2) + 0.1
        variance_BC = variance_BC / (seen.sum(axis=2) + 1)
        log_slot_BCS[:, :, s] = 0.5 * np.log(variance_BC)
        relative_BCT[:, :, at] = np.square(rest_BCT[:, :, at]) * seen / variance_BC[..., None]
    kept = KEPT_STEPS * num_slots
    season_BCK = (relative_BCT @ weight_KT.T + kept) / (observed_BCT.astype(np.float64) @ weight_KT.T + kept)
    return log_slot_BCS, 0.5 * np.log(season_BCK)


def course_of(
    log_slot_BCS: NDArray, log_season_BCK: NDArray, slot_T: NDArray, weight_KT: NDArray
) -> NDArray[np.float64]:
    """Return the standard deviation at each step (B, C, T): that of its slot times those of the seasons, weighed."""
    return np.exp(log_slot_BCS[:, :, slot_T] + log_season_BCK @ weight_KT)
