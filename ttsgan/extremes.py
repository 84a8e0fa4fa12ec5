"""Bounds of new values: extremes that several households reach (with fewer than 400 households, those of a single one).

If bounds came from one household, whoever knows it would recognise it in every set.

Axis letters: B series, X columns.
"""

import numpy as np
from numpy.typing import NDArray

BEHIND = 5
"""Entities that must reach a bound, if there are enough of them."""
EACH = 200
"""Entities needed for each of `BEHIND`: with only a few hundred, the cut ends would be most of the extreme values."""


def bounds(values_BX: NDArray, owners_B: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest value (X,) of each column that several entities reach; NaN is ignored.

    With n entities in a column, n // `EACH` of them must reach the bound, at least 1 and at most `BEHIND`. With 1 the
    bounds are the extremes themselves.

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
