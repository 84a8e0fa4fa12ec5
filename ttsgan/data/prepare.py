"""From the user's files to the series for training: read, join, assign entities, check, aggregate, set aside.

Axis letters: n series, C channels, L time steps. Missing values are NaN.
"""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsgan.config import DataConfig, PatchConfig
from ttsgan.data.calendar import DAY_SECONDS
from ttsgan.data.grid import steps_of
from ttsgan.data.plausibility import (
    alike,
    look_like_registers,
    odd_meter,
    odd_reading,
    refuse_codes,
    refuse_other_steps,
    refuse_sums,
)
from ttsgan.data.quantiles import informative, used_channels
from ttsgan.data.readers import read_series
from ttsgan.data.series_set import SeriesSet, concatenate, refuse_duplicates, refuse_untold_entities
from ttsgan.data.steps import DEFAULT_START, check_times, infer_step_seconds, join_steps, parse_period, parse_start
from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import labels
from ttsgan.errors import ConfigError, DataError

MOST_POINTS = 480
"""Largest number of points of a day that make one token by default; the distribution of a token's values has weights
for each pair of points."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetAside:
    """A series that is not used, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class PrepareReport:
    """Report on the series that were read, those that are used, and the changes made to them.

    Attributes
    ----------
    read, kept : int
        Series found, and series used.
    set_aside : tuple of SetAside
        The series that are not used.
    entities : int
        Distinct entities among those used.
    length, channels, step_seconds, unit
        Properties of the series used.
    aggregated_from : int or None
        Step of the source in seconds, if steps were joined.
    aggregated_by : str or None
        ``sum`` or ``mean``, if steps were joined.
    missing_share : float
        Share of missing values in the series used (0 to 1).
    smallest, mean, largest : float
        Of the values used, in ``unit``.
    first, end : str
        First moment of the series used, and the first moment after their end, ISO 8601; in UTC if the source has time
        zones.
    """

    read: int
    kept: int
    set_aside: tuple[SetAside, ...]
    entities: int
    length: int
    channels: int
    step_seconds: int
    unit: str
    aggregated_from: int | None
    aggregated_by: str | None
    missing_share: float
    smallest: float
    mean: float
    largest: float
    first: str
    end: str

    @property
    def joined(self) -> str:
        """How steps were joined, in words; "" if they were not."""
        if not self.aggregated_by:
            return ""
        return f"steps of {self.aggregated_from} s to {self.step_seconds} s, the {self.aggregated_by} of their values"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain objects for JSON, with a count for each reason."""
        reasons = Counter(item.reason for item in self.set_aside)
        return dataclasses.asdict(self) | {
            "set_aside": [dataclasses.asdict(item) for item in self.set_aside],
            "set_aside_by_reason": dict(sorted(reasons.items())),
        }


def prepare(
    config: DataConfig,
    sources: list[Location] | None,
    *,
    simulated: SeriesSet | None = None,
    keep_all: bool = False,
    like: SeriesSet | None = None,
) -> tuple[SeriesSet, PrepareReport]:
    """Read the sources and make the set of series for a run.

    Parameters
    ----------
    config : DataConfig
        Unit, step, start, entity column, aggregation and the share of values that must be observed.
    sources : list of Location, or None
        Files and folders to join; None: those of ``config.source``.
    simulated : SeriesSet, optional
        Series to use instead of any source.
    keep_all : bool
        Keep all series, in the order of the sources: for an evaluation, which counts those that cannot be used.
    like : SeriesSet, optional
        Training series, which give step and start if neither sources nor settings do.

    Returns
    -------
    SeriesSet
        Sorted by id, unless ``keep_all``. Series without values, with too few, or that tell nothing
        (`quantiles.informative`) are set aside; a meter that is nearly always zero is kept.
    PrepareReport

    Raises
    ------
    DataError
        A source or its series violate the contract, or no series can be used.
    ConfigError
        A setting cannot be read.
    """
    check_times(config)
    if simulated is not None:
        series = fill_unknown(simulated, "sample", DataConfig())
        series = _with_entities(_cut(series, config, "sample"), config.entity, "sample")
    else:
        places = sources if sources is not None else [Location.parse(text) for text in config.source]
        names, parts = [str(place) for place in places], [_read_one(place, config, like) for place in places]
        refuse_untold_entities(dict(zip(names, parts, strict=True)), one_line(", ".join(names), 160))
        series = concatenate(parts, names)
    name = "sample" if simulated is not None else ", ".join(names)
    months = "; parts of one table, such as months, are joined where their folder is given"
    refuse_duplicates(series.ids, one_line(name, 160), months if simulated is None and len(parts) > 1 else "")
    if simulated is None:
        _doubt(series, one_line(name, 160))
    before = series.step_seconds
    series, how = join_steps(series, config, one_line(name, 160))
    series, set_aside = (series, ()) if keep_all else _set_aside(series, config.min_observed)
    report = PrepareReport(
        read=len(series) + len(set_aside),
        kept=len(series),
        set_aside=set_aside,
        entities=len(np.unique(series.entities.astype(str))),
        length=series.length,
        channels=series.channels,
        step_seconds=series.step_seconds,
        unit=series.unit,
        aggregated_from=before if how else None,
        aggregated_by=how,
        missing_share=float(np.isnan(series.values).mean()),
        smallest=float(np.fmin.reduce(series.values, axis=None)),
        mean=float(np.nansum(series.values, dtype=np.float64) / max(1, np.count_nonzero(~np.isnan(series.values)))),
        largest=float(np.fmax.reduce(series.values, axis=None)),
        first=str(series.starts.min()),
        end=str(series.starts.max() + np.timedelta64(series.length * series.step_seconds, "s")),
    )
    return series, report


def _doubt(series: SeriesSet, name: str) -> None:
    """Refuse series with certain faults, and warn of others."""
    refuse_codes(series.values, name)
    refuse_other_steps(series.values, series.ids, series.step_seconds, name)
    refuse_sums(series.values, series.ids, name)
    if look_like_registers(series.values):
        logger.warning("%s: values hardly ever fall: are they readings of a register? Take their differences", name)
    for told in (odd_meter(series.values, series.ids), odd_reading(series.values, series.ids)):
        if told:
            logger.warning("%s: %s", name, told)
    if twins := alike(series.entities):
        logger.warning(
            "%s: %r and %r are taken for two entities: if they are one, give it one name, or it may be trained on and"
            " held out at once",
            name,
            *twins,
        )


def _read_one(where: Location, config: DataConfig, like: SeriesSet | None) -> SeriesSet:
    series = read_series(where, config.step_seconds, config.entity, parse_period(config.period))
    series = fill_unknown(series, where, config, like)
    return _with_entities(_cut(series, config, where), config.entity, where)


def _cut(series: SeriesSet, config: DataConfig, where: object) -> SeriesSet:
    """Return the series cut to ``data.period``, with NaN where they have no value."""
    period = parse_period(config.period)
    if period is None:
        return series
    length, step = steps_of(period, series.step_seconds), np.timedelta64(series.step_seconds, "s")
    late = (series.starts - period[0]) % step != np.timedelta64(0, "s")
    if late.any():
        row = int(np.argmax(late))
        raise DataError(
            f"{where}: {series.ids[row]!r} starts at {series.starts[row]}, no whole number of steps of"
            f" {series.step_seconds} s from data.period, which begins at {period[0]}; move data.period"
        )
    first = ((series.starts - period[0]) // step).astype(np.int64)
    values = np.full((len(series), series.channels, length), np.nan, dtype=np.float32)
    for at in np.unique(first):
        rows, low, high = first == at, max(at, 0), min(at + series.length, length)
        if low < high:
            values[rows, :, low:high] = series.values[rows, :, low - at : high - at]
    return dataclasses.replace(series, values=values, starts=np.full(len(series), period[0]))


def _with_entities(series: SeriesSet, column: str, where: object) -> SeriesSet:
    """Take the entities from the attribute column named by the setting."""
    if column == "entity":
        return series
    if column == "id":
        return dataclasses.replace(series, entities=series.ids)
    names = [] if series.attributes is None else series.attributes.column_names
    if column not in names:
        found = one_line(", ".join(["id", "entity", *names]), 160)
        raise DataError(f"{where}: data.entity names the column {column!r}, which is not there; its columns: {found}")
    return dataclasses.replace(series, entities=labels(series.attributes[column], where, column))


def check_replaceable(where: Location, sources: Iterable[Location]) -> None:
    """Refuse to write a store over anything but an older store, or over one of its sources.

    Raises
    ------
    ConfigError
        Something would be lost; the message names it.
    """
    held = where.list_all() if where.is_dir() else []
    other = next((item for item in held if not re.fullmatch(r"part-\d+\.parquet", item.name)), None)
    lost = other or next((source for source in sources if f"{source}/".startswith(f"{where}/")), None)
    if lost:
        raise ConfigError(f"{where} would be replaced as a whole, and {lost} with it; choose a new folder")


def fill_unknown(
    series: SeriesSet,
    where: object,
    config: DataConfig,
    like: SeriesSet | None = None,
) -> SeriesSet:
    """Return the set with unit, step and start filled in where its source does not give them.

    Parameters
    ----------
    where : object
        Name of the source, for messages.
    config : DataConfig
        Its unit, step and start. If they are empty or 0, the unit stays unknown, the step is a year divided by the
        length, and the start is 2013-01-01.
    like : SeriesSet, optional
        Training series, used before these defaults: their unit; their step if the series have the same length, or the
        step before ``data.step`` joined theirs if that makes the series as long; and their start, if they have only
        one, if the series cover the same span of time.

    Raises
    ------
    DataError
        Source and setting disagree on unit or step, neither gives the step and the length does not fit a year, or only
        some series have a start and no setting gives one.
    """
    unit, start = config.unit, config.start
    for name, told, set_to in (
        ("unit", series.unit, unit),
        ("step_seconds", series.step_seconds, config.step_seconds),
    ):
        if told and set_to and str(told).lower() != str(set_to).lower():
            raise DataError(
                f"{where}: {name} is {told} in the file and {set_to} in the setting data.{name}; leave the setting out,"
                " or correct the file"
            )
    known, taken = series.step_seconds or config.step_seconds, []
    if not known and like is not None:
        parts, rest = divmod(series.length, like.length)
        if not rest and (parts == 1 or config.step) and like.step_seconds % parts == 0:
            known = like.step_seconds // parts
            taken.append(f"the step of {known} s")
    if like is not None and like.unit and not series.unit and not unit:
        unit = like.unit
        taken.append(f"the unit {unit}")
    step = known or infer_step_seconds(series.length)
    if not step:
        raise DataError(
            f"{where}: the step of {series.length} values is not known (a year would be a multiple or divisor of 8760);"
            " set data.step_seconds (--step-seconds), or write step_seconds into the schema metadata of a Parquet file"
        )
    if not known:
        logger.warning("%s: its %d values are taken for a year, at %d s (--step-seconds)", where, series.length, step)
    untold = np.isnat(series.starts)
    if untold.any() and not untold.all() and not start:
        raise DataError(
            f"{where}: {untold.sum()} of {len(series)} series have no start, such as {series.ids[untold][0]!r}, and the"
            " others have one; write the start of each into the file, or set data.start (--start) for those without"
        )
    same_span = like is not None and like.length * like.step_seconds == series.length * step
    if untold.any() and not start and same_span and (like.starts == like.starts[0]).all():
        start = str(like.starts[0])
        taken.append(f"the start {start}")
    if taken:
        logger.warning("%s: it tells none, so it is given %s of the training series", where, " and ".join(taken))
    if start and not untold.any() and (series.starts != parse_start(start)).any():
        logger.warning("%s: it tells its own dates; %s is not used (--start)", where, start)
    if untold.any() and not start:
        logger.warning("%s: it tells no dates; %s is taken for the start (--start)", where, DEFAULT_START)
    starts = np.where(untold, parse_start(start or DEFAULT_START), series.starts)
    return dataclasses.replace(
        series, unit=series.unit or unit, step_seconds=step, starts=starts.astype("datetime64[s]")
    )


def day_points(step_seconds: int, patch: PatchConfig) -> int:
    """Return the number of points in one token: ``patch.size``, or one day of steps if that is 0.

    Raises
    ------
    DataError
        ``patch.size`` is 0, and a day is no whole number of steps or has more than `MOST_POINTS`.
    """
    if patch.size:
        return patch.size
    if DAY_SECONDS % step_seconds:
        raise DataError(
            f"a day is no whole number of steps of {step_seconds} s; set patch.size to the points of one token, such as"
            f" --set patch.size={max(4, round(DAY_SECONDS / step_seconds))}"
        )
    if (points := DAY_SECONDS // step_seconds) > MOST_POINTS:
        raise DataError(
            f"a day has {points} steps of {step_seconds} s, too many for one token: join them, such as --step 15min, or"
            f" set patch.size to the points of one token, such as --set patch.size={points // 24}"
        )
    return points


def _set_aside(series: SeriesSet, min_observed: float) -> tuple[SeriesSet, tuple[SetAside, ...]]:
    """Return the series that can be used, sorted by id, and the others with the reason."""
    seen = np.empty(len(series))
    constant, used = np.empty(len(series), dtype=bool), np.zeros(series.channels, dtype=bool)
    for at in range(0, len(series), 256):
        block = series.values[at : at + 256]
        seen[at : at + 256] = 1 - np.isnan(block).mean(axis=(1, 2))
        constant[at : at + 256] = ~informative(block)
        used |= used_channels(block)
    reasons = np.full(len(series), "", dtype=object)
    reasons[constant] = "constant" if series.channels == 1 else "constant or missing in a channel, and not zero there"
    reasons[seen < min_observed] = f"observed below {min_observed:g} (data.min_observed)"
    reasons[seen == 0] = "all values missing"
    order = np.argsort(series.ids.astype(str), kind="stable")
    out = [row for row in order if reasons[row]]
    set_aside = tuple(SetAside(str(series.ids[row]), reasons[row]) for row in out)
    tally = Counter(item.reason for item in set_aside)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.items()))
    if len(out) == len(series):
        raise DataError(f"values: none of {len(series)} series can be used ({counts}); bring other data")
    if not used.all():
        raise DataError(f"values: channel {int(np.argmin(used))} is zero in all {len(series)} series; leave it out")
    if out:
        logger.warning("%d of %d series are set aside: %s", len(out), len(series), counts)
    return series.subset(order[reasons[order] == ""]), set_aside
