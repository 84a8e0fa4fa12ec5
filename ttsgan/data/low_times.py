"""Slots of the day and months in which no household is at its low end, or all are, such as the nights of roofs.

A low value of a channel is zero, or a value below zero if homes have values of either sign. A drawn order and a drawn
number of low values do not match by themselves: some roofs would feed in at night and have zeros at noon. So the low
values of a series go first to the cells in which all homes are low, and last to those in which none is. Where low
values come at any time (absences), there are no such cells, and nothing is moved.

Axis letters: B series, C channels, T time steps, S slots of a day, K cells: twelve months of S slots; M entities.
"""

import numpy as np
from numpy.typing import NDArray

from ttsgan.data import calendar
from ttsgan.data.marginals import ABOVE, BOTH
from ttsgan.data.quantiles import place

RARE = 0.005
"""Largest share of readings in a cell that may be exceptions."""
FEWEST = 50
"""Smallest number of entities with readings in a cell, among those with both low and other values."""
OFTEN = 0.05
"""A series counts here, and is corrected, only if at least this share of its readings is low and as much is not."""
ALWAYS, NEVER = 1, -1


def cells_of(start: np.datetime64, length: int, step_seconds: int) -> NDArray[np.int64]:
    """Return the month and slot of the day (T,), as one number, of the steps from ``start``."""
    slots, at = calendar.slots_per_day(step_seconds), calendar.moments(start, length, step_seconds)
    month = at.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12
    return month * slots + (at % calendar.DAY_SECONDS) // step_seconds % slots


def find(
    values_BCT: NDArray, signs_C: NDArray, starts_B: NDArray, owners_B: NDArray, step_seconds: int
) -> NDArray[np.int8]:
    """Return `ALWAYS`, `NEVER` or 0 for each cell of each channel (C, K): all low, none, or neither.

    Each entity has the same weight, however many series it has.
    """
    channels, length = values_BCT.shape[1:]
    count = 12 * calendar.slots_per_day(step_seconds)
    low, seen = (np.zeros((len(values_BCT), channels, count)) for _ in range(2))
    for start in np.unique(starts_B):
        rows = np.flatnonzero(starts_B == start)
        cell_T = cells_of(start, length, step_seconds)
        order, cells = cell_T.argsort(kind="stable"), np.unique(cell_T)
        begin = np.searchsorted(cell_T[order], cells)
        observed = ~np.isnan(values_BCT[rows])
        for out, of in ((low, _is_low(values_BCT[rows], signs_C)), (seen, observed)):
            out[np.ix_(rows, range(channels), cells)] = np.add.reduceat(of[..., order] * 1.0, begin, axis=2)
    share_BC = low.sum(axis=2) / np.maximum(seen.sum(axis=2), 1)
    out_CK = np.zeros((channels, count), np.int8)
    for c in range(channels):
        rows = np.flatnonzero((share_BC[:, c] >= OFTEN) & (share_BC[:, c] <= 1 - OFTEN))
        owner = np.unique(owners_B[rows], return_inverse=True)[1]
        low_MK, seen_MK = (np.zeros((owner.max(initial=-1) + 1, count)) for _ in range(2))
        np.add.at(low_MK, owner, low[rows, c])
        np.add.at(seen_MK, owner, seen[rows, c])
        known_K = (seen_MK > 0).sum(axis=0) >= FEWEST
        share_K = (low_MK / np.maximum(seen_MK, 1)).sum(axis=0) / np.maximum((seen_MK > 0).sum(axis=0), 1)
        out_CK[c] = known_K * (ALWAYS * (share_K >= 1 - RARE) + NEVER * (share_K <= RARE))
    return out_CK


def _is_low(values_BCT: NDArray, signs_C: NDArray) -> NDArray[np.bool_]:
    """Return where values are at the low end of their channel; nowhere in a channel that is `WHOLE`."""
    signs_C1 = signs_C[:, None]
    return ((values_BCT <= 0) & (signs_C1 == ABOVE)) | ((values_BCT < 0) & (signs_C1 == BOTH))


def low_first(
    scores_BCT: NDArray, sorted_BCT: NDArray, signs_C: NDArray, when_BCT: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Return scores in which low values fall first on `ALWAYS` and last on `NEVER` steps.

    The scores of the chosen steps are moved below all others and keep their order.

    Parameters
    ----------
    scores_BCT : ndarray
    sorted_BCT : ndarray
        The values of each series in rising order.
    signs_C : ndarray
    when_BCT : ndarray
        `ALWAYS`, `NEVER` or 0 for each step.
    """
    low_BCT = _is_low(sorted_BCT, signs_C)
    share_BC1 = low_BCT.mean(axis=2, keepdims=True)
    asked_BC1 = (share_BC1 >= OFTEN) & (share_BC1 <= 1 - OFTEN)
    reach_BC1 = np.ptp(scores_BCT, axis=2, keepdims=True) + 1e-9
    chosen_BCT = place(scores_BCT - 2 * reach_BC1 * when_BCT, low_BCT)
    highest_BC1 = np.where(chosen_BCT, scores_BCT, -np.inf).max(axis=2, keepdims=True)
    lowest_BC1 = np.where(chosen_BCT, np.inf, scores_BCT).min(axis=2, keepdims=True)
    moved_BC1 = np.where(asked_BC1 & (highest_BC1 >= lowest_BC1), highest_BC1 - lowest_BC1 + 1e-3 * reach_BC1, 0.0)
    return scores_BCT - moved_BC1 * chosen_BCT
