"""Times and steps: parsing of their settings, and aggregation of steps into longer ones.

Axis letters: n series, C channels, L time steps, k source steps in one joined step. Missing values are NaN.
"""

import dataclasses
import logging
import re
from datetime import UTC, datetime

import numpy as np

from ttsgan.config import DataConfig
from ttsgan.data.calendar import DAY_SECONDS
from ttsgan.data.grid import Period
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.units import aggregation_of
from ttsgan.errors import ConfigError, DataError

YEAR_SECONDS = 365 * DAY_SECONDS
DEFAULT_START = "2013-01-01"
_STEP_TEXT = re.compile(r"(\d+)\s*(s|min|h|d)")
_STEP_UNITS = {"s": 1, "min": 60, "h": 3600, "d": DAY_SECONDS}

logger = logging.getLogger(__name__)


def infer_step_seconds(length: int) -> int:
    """Return the step, in seconds, of ``length`` values that fill a year of 365 days, or 0 if they cannot.

    The length must be a whole multiple or a divisor of 8760, and the step a whole number of seconds.
    """
    if length < 1 or (length % 8760 and 8760 % length) or YEAR_SECONDS % length:
        return 0
    return YEAR_SECONDS // length


def parse_start(text: str) -> np.datetime64:
    """Return the setting ``data.start`` (ISO 8601, converted to UTC if zoned) as datetime64[s]."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"data.start is {text!r}; allowed: an ISO 8601 time such as {DEFAULT_START}T00:00") from error
    try:
        moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo is not None else moment
    except OverflowError as error:
        raise ConfigError(f"data.start is {text!r}; allowed: a time that has a date in UTC") from error
    return np.datetime64(moment, "s")


def parse_period(text: str) -> Period | None:
    """Return the setting ``data.period``; None if it is empty, `ConfigError` unless it is two times in order."""
    if not text:
        return None
    parts = text.split("/")
    if len(parts) != 2 or (period := (parse_start(parts[0]), parse_start(parts[1])))[0] >= period[1]:
        raise ConfigError(f"data.period is {text!r}; allowed: two times in order, such as 2013-01-01/2014-01-01")
    return period


def parse_step(text: str) -> int:
    """Return a step such as ``4h``, ``30min``, ``900s`` or ``1d`` in seconds; `ConfigError` for other text."""
    match = _STEP_TEXT.fullmatch(text.strip().lower())
    seconds = int(match[1]) * _STEP_UNITS[match[2]] if match else 0
    if not seconds:
        raise ConfigError(f"data.step is {text!r}; allowed: a whole number and s, min, h or d, such as 4h or 30min")
    return seconds


def check_times(config: DataConfig) -> None:
    """Refuse a step, start or period that cannot be parsed, before any data are read; `ConfigError` names it."""
    for text, parse in ((config.step, parse_step), (config.start, parse_start), (config.period, parse_period)):
        if text:
            parse(text)


def aggregate(values: np.ndarray, k: int, how: str) -> np.ndarray:
    """Join every k steps into one by their mean or sum.

    Parameters
    ----------
    values : ndarray of shape (n, C, L), float32
        NaN where missing; k divides L.
    k : int
        Steps to join.
    how : str
        ``mean``, or ``sum``: k times the mean, so that a missing reading counts as the mean of the observed ones.

    Returns
    -------
    ndarray of shape (n, C, L / k), float32
        From the observed steps if at least half are observed, else NaN.
    """
    n, channels, length = values.shape
    out = np.empty((n, channels, length // k), dtype=np.float32)
    for at in range(0, n, 256):
        block = values[at : at + 256].reshape(-1, channels, length // k, k)
        seen = ~np.isnan(block)
        count = seen.sum(axis=-1)
        total = np.where(seen, block, 0).sum(axis=-1, dtype=np.float64)
        mean = total / np.maximum(count, 1)
        out[at : at + 256] = np.where(2 * count >= k, mean * k if how == "sum" else mean, np.nan)
    return out


def join_steps(series: SeriesSet, config: DataConfig, name: str) -> tuple[SeriesSet, str | None]:
    """Return the series with steps of ``data.step``, and how values were joined: ``sum``, ``mean`` or None if not.

    Raises
    ------
    DataError
        The new step is no multiple of the old one, the length is no multiple of the number of steps joined, or the unit
        does not tell how to join values.
    """
    if not config.step:
        return series, None
    target, source = parse_step(config.step), series.step_seconds
    if target == source:
        return series, None
    if target % source:
        raise DataError(f"{name}: data.step is {config.step} ({target} s), no multiple of the {source} s of the source")
    k = target // source
    series = _begun_together(series, k, name)
    if series.length % k:
        raise DataError(
            f"{name}: data.step is {config.step}, which joins {k} steps, but the length {series.length} is no multiple"
            f" of {k}; choose another step, or cut the series"
        )
    how = aggregation_of(series.unit, config.aggregate)
    return dataclasses.replace(series, values=aggregate(series.values, k, how), step_seconds=target), how


def _begun_together(series: SeriesSet, k: int, name: str) -> SeriesSet:
    """Move series that begin within a joined step back to its start, on the grid of joined steps on which most begin.

    The same hours are then joined in all series, whenever a series begins. A moved series is padded with NaN before its
    first value, and loses as many values at its end.
    """
    target, seconds = k * series.step_seconds, series.starts.astype("datetime64[s]").astype(np.int64)
    begins, counts = np.unique(seconds % target, return_counts=True)
    late = (seconds - begins[counts.argmax()]) % target // series.step_seconds
    if not late.any():
        return series
    logger.warning(
        "%s: %d of %d series begin between two of the others' steps of %d s, and are taken to begin with the step that"
        " they are in; what goes beyond the end of the others is left out", name, (late > 0).sum(), len(series), target,
    )  # fmt: skip
    values = series.values.copy()
    for at in np.unique(late[late > 0]):
        values[late == at, :, at:] = series.values[late == at, :, :-at]
        values[late == at, :, :at] = np.nan
    starts = series.starts - late * np.timedelta64(series.step_seconds, "s")
    return dataclasses.replace(series, values=values, starts=starts)
