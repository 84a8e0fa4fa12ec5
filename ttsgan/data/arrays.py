"""Checks of series that a program passes as arrays, which `ttsgan.api` makes before any work.

Axis letters: B series, C channels, L points.
"""

import datetime
import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttsgan.data.quantiles import informative
from ttsgan.data.steps import DEFAULT_START
from ttsgan.errors import DataError


def checked_values(values: Any, min_observed: float) -> NDArray[np.float32]:
    """Return values (B, C, L) from an array or a data frame (B, L) or (B, C, L); NaN where masked or missing.

    Raises
    ------
    DataError
        If values are no numbers, complex or infinite, the shape is another, or a series is constant or missing in a
        channel or has less than the share ``min_observed`` of its values.
    """
    masked = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    try:
        # Missing values of pandas are not all NaN.
        held = values.to_numpy(dtype=float, na_value=np.nan) if hasattr(values, "isna") else np.asarray(values)
        if np.iscomplexobj(held):
            raise TypeError("complex numbers")
        with np.errstate(over="ignore"):  # told as infinite, below
            values = np.array(held, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"values hold what is no number ({error}); allowed: real numbers, NaN where missing") from error
    if masked is not None:
        values[masked] = np.nan
    values = values[:, None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        shape = f"{values.ndim} dimensions" if values.ndim != 3 else f"the shape {values.shape}"
        raise DataError(f"values have {shape}; allowed: 2 (series, points) or 3 with channels, none of them empty")
    infinite = np.flatnonzero(np.isinf(values).any(axis=(1, 2)))
    if len(infinite):
        raise DataError(f"series {infinite[0]} holds an infinite value; allowed: finite numbers, NaN where missing")
    usable = informative(values)
    if not usable.all():
        row = int(np.flatnonzero(~usable)[0])
        raise DataError(f"series {row} is constant or wholly missing in a channel; leave it out")
    observed = 1 - np.isnan(values).mean(axis=(1, 2))
    if (observed < min_observed).any():
        row = int(observed.argmin())
        raise DataError(
            f"series {row} has {observed[row]:.0%} of its values; allowed: {min_observed:.0%} or more"
            " (data.min_observed); leave it out, or allow fewer"
        )
    return values


def checked_starts(starts: Any, count: int) -> NDArray:
    """Return the first moment of each of ``count`` series, datetime64[s]; UTC where the zone is known.

    Raises
    ------
    DataError
        If there are not as many, or one is missing or no time: numbers are none, because their unit is not known.
    """
    if starts is None:
        return np.full(count, np.datetime64(DEFAULT_START, "s"))
    given = _one_each(starts, count, "starts")
    if given.dtype.kind == "O":
        given = np.array([_without_zone(one) for one in given], dtype=object)
    if given.dtype.kind not in "MUSO" or any(isinstance(one, numbers.Number) for one in given):
        raise DataError(f"starts hold numbers ({given.dtype}); allowed: datetime64, datetime, or ISO 8601 text")
    try:
        moments = given.astype("datetime64[s]")
    except ValueError as error:
        raise DataError(f"starts hold what is no moment ({error}); allowed: datetime64, or ISO 8601") from error
    if np.isnat(moments).any():
        raise DataError("starts hold NaT; allowed: the first moment of every series")
    return moments


def checked_entities(entities: Any, count: int) -> NDArray:
    """Return the name of the entity of each of ``count`` series; by default each series is its own.

    Raises
    ------
    DataError
        If there are not as many, or one is missing.
    """
    if entities is None:
        return np.arange(count).astype(str)
    given = _one_each(entities, count, "entities")
    for row, name in enumerate(given.tolist()):
        if name == "" if isinstance(name, str) else str(name) in ("None", "nan", "NaT", "<NA>"):
            raise DataError(f"entities is missing for series {row}; every series needs one: it is what is protected")
    return given.astype(str)


def _one_each(given: Any, count: int, name: str) -> NDArray:
    if np.shape(given) != (count,):
        raise DataError(f"{name} has the shape {np.shape(given)}; one for each of {count} is needed")
    return np.asarray(given)


def _without_zone(moment: Any) -> Any:
    """Return a `datetime` with a time zone in UTC, without it; anything else as it is."""
    if getattr(moment, "tzinfo", None) is None:
        return moment
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)
