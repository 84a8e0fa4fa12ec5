"""What series may hold that they should not: readings of a counter, codes for missing values, one home under two names.

Axis letters: n series, C channels, L time steps.
"""

import numpy as np

from ttsgan.errors import DataError

REGISTER_SERIES, REGISTER_VALUES = 200, 24
"""Series that are looked at, and the fewest values that tell."""
REGISTER_FALLS, REGISTER_RISES = 0.001, 0.01
"""Shares of the steps at which a counter may fall (a meter is replaced), and must rise."""
CODE_TIMES = 10
"""Least times that a code for a missing value occurs."""


def look_like_registers(values: np.ndarray) -> bool:
    """Tell whether nearly all series (n, C, L), of the first few, rise and hardly ever fall, as a counter does."""
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

    That is the lowest or highest value of all, written with nines alone, which occurs at least `CODE_TIMES` times,
    while no other value is half as far out.
    """
    for furthest, sign, least_digits, side in ((np.fmin, -1, 2, "below"), (np.fmax, 1, 3, "above")):
        code = float(furthest.reduce(values, axis=None))
        digits = f"{sign * code:g}"
        if len(digits) < least_digits or set(digits) != {"9"}:
            continue
        at = values == np.float32(code)
        if at.sum() >= CODE_TIMES and not (sign * values[~at] > abs(code) / 2).any():
            raise DataError(
                f"{where}: the value {code:g} stands {at.sum()} times, in {at.any(axis=(1, 2)).sum()} of {len(values)}"
                f" series, and no other is {side} {code / 2:g}: it seems to be a code for missing values; leave them"
                " empty"
            )


def alike(names: np.ndarray) -> list[str]:
    """Return two labels (n,) that differ by their case or by spaces around them alone, if there are any."""
    distinct = np.unique(names.astype(str))
    folded = np.array([name.strip().casefold() for name in distinct])
    _, first, counts = np.unique(folded, return_index=True, return_counts=True)
    return distinct[folded == folded[first[np.argmax(counts > 1)]]].tolist()[:2] if (counts > 1).any() else []
