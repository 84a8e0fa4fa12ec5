"""What a single household reaches is no bound of new ones: who knows that it is there would find it in every set.

Axis letters: B series, X columns.
"""

import numpy as np
from numpy.typing import NDArray

BEHIND = 5
"""Entities that reach the ends of a law, at least, where there are enough of them."""
EACH = 200
"""Entities for each of these: of a few hundred the ends of all laws would be most of what is far out."""


def bounds(values_BX: NDArray, owners_B: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest value (X,) of each column that so many entities reach; NaN is left out.

    `BEHIND` entities, or fewer where there are not `EACH` for each of them: then, at last, the extremes themselves.

    Parameters
    ----------
    values_BX : ndarray
    owners_B : ndarray
        Entity of each series.
    """
    order = np.argsort(owners_B, kind="stable")
    begin = np.flatnonzero(np.concatenate([[True], owners_B[order][1:] != owners_B[order][:-1]]))
    ends = []
    for sign in (1, -1):
        own = np.fmin.reduceat(sign * values_BX[order].astype(np.float64), begin, axis=0)
        rising = np.sort(own, axis=0)  # NaN comes last
        known = (~np.isnan(own)).sum(axis=0)
        behind = np.clip(known // EACH, 1, BEHIND)
        ends.append(sign * np.take_along_axis(rising, behind[None] - 1, axis=0)[0])
    return ends[0], ends[1]
