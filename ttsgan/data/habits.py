"""The habit of a household: its mean course by slot of the day, kind of day and season, fitted by ridge regression.

Axis letters: B series, C channels, T time steps, S slots of a day, J basis functions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttsgan.data import calendar

HABIT_RIDGE = np.array([1.0, 1.0, 4.0, 4.0, 4.0, 4.0])
"""Ridge penalty, in days, of the weekday mean, the weekend mean and two seasonal harmonics (sine and cosine each)."""


@dataclass(frozen=True)
class Habits:
    """Habits of series of one length and step.

    Parameters
    ----------
    length : int
        Time steps T.
    step_seconds : int
        Spacing of the points, seconds.
    num_slots : int
        Slots S of a day.
    """

    length: int
    step_seconds: int
    num_slots: int

    def slots(self, start: np.datetime64, before: int = 0) -> NDArray[np.int64]:
        """Return the slot of the day of each step (``before`` + T,), beginning ``before`` steps before ``start``."""
        at = self._moments(start, before)
        slot_T = (at % calendar.DAY_SECONDS) // self.step_seconds if self.num_slots > 1 else np.zeros(len(at), int)
        return slot_T % self.num_slots

    def coefficients(self, scores: NDArray, observed: NDArray, starts: NDArray) -> NDArray:
        """Fit each series' scores (B, C, T) by ridge regression on the basis, slot by slot; return (B, C*S*J)."""
        count, channels = scores.shape[:2]
        out = np.zeros((count, channels, self.num_slots, len(HABIT_RIDGE)))
        for start in np.unique(starts):
            rows, slot_T, basis_TJ = starts == start, self.slots(start), self._basis(start)
            for s in range(self.num_slots):
                at = np.flatnonzero(slot_T == s)
                weight = observed[rows][:, :, at].astype(np.float64)
                outer = basis_TJ[at][:, :, None] * basis_TJ[at][:, None, :]
                gram = np.einsum("bct,tij->bcij", weight, outer) + np.diag(HABIT_RIDGE)
                target = np.einsum("bct,tj->bcj", weight * scores[rows][:, :, at], basis_TJ[at])
                out[rows, :, s] = np.linalg.solve(gram, target[..., None])[..., 0]
        return out.reshape(count, -1)

    def course(self, table_BCSJ: NDArray, starts: NDArray, before: int = 0) -> NDArray:
        """Return the course (B, C, ``before`` + T) of habits with these coefficients."""
        out = np.empty((*table_BCSJ.shape[:2], before + self.length))
        for start in np.unique(starts):
            rows, slot_T, basis_TJ = starts == start, self.slots(start, before), self._basis(start, before)
            for s in range(self.num_slots):
                at = np.flatnonzero(slot_T == s)
                out[np.ix_(rows, range(out.shape[1]), at)] = table_BCSJ[rows, :, s] @ basis_TJ[at].T
        return out

    def _basis(self, start: np.datetime64, before: int = 0) -> NDArray[np.float64]:
        """Return the basis of each step (``before`` + T, J): weekday, weekend, two harmonics of the year."""
        at = self._moments(start, before)
        weekend_T, angle_T = calendar.weekday(at) >= 5, calendar.year_angle(at)
        waves = [f(k * angle_T) for k in (1, 2) for f in (np.sin, np.cos)]
        return np.stack([~weekend_T, weekend_T, *waves], axis=1).astype(np.float64)

    def _moments(self, start: np.datetime64, before: int) -> NDArray[np.int64]:
        return calendar.moments(start, before + self.length, self.step_seconds) - before * self.step_seconds
