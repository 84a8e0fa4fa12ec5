"""The table layouts of series, recognised by column names.

Axis letters: n series, C channels, L time steps. Missing values are NaN.

Long table   one row per value: an id, a time stamp and a value; other columns that are constant within an id become
             attributes. The step is the most frequent spacing; missing stamps become NaN.
Day rows     one row per id and day: an id, a date and one column per step of the day, named by consecutive numbers
             (``hh_0``) or by times (``0:30`` to ``0:00``, ``00:00`` to ``23:30``); converted to a long table.
Wide by time one row per time stamp; each other column is a series, its name the id.
Wide by row  one row per series: an id and one column per value, named by consecutive numbers (``0``, ``h17``) or by
             time stamps; ``entity``, ``start`` and other columns are read too.

Column names are matched with `ID_NAMES`, `TIME_NAMES` and `VALUE_NAMES` in any case, with spaces as ``_``, and only up
to a bracket. If several columns can be the id, the one that is first in `ID_NAMES` is. A date and an hour or time of
day in another column are joined to one stamp. A value column may name the unit: ``kWh``, ``energy_kwh``,
``Flow (m3/h)``.
"""

import dataclasses
import logging
import re

import numpy as np
import pyarrow as pa

from ttsgan.data.calendar import DAY_SECONDS
from ttsgan.data.columns import (
    CLOCK_NAMES,
    HOME_NAMES,
    ID_NAMES,
    TIME_NAMES,
    codes,
    is_number,
    is_stamp,
    is_text,
    numbers,
    plain_name,
    series_set,
    stamps,
)
from ttsgan.data.grid import CLOCK_TWICE, Period, frequent, inside, of_clock, steps_of, twice_advice
from ttsgan.data.long_tables import read_long
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import labels
from ttsgan.data.units import bracketed_unit, named_unit
from ttsgan.errors import DataError

NO_HOME_WORDS = frozenset(
    (
        *("aggregate", "average", "avg", "mean", "sum", "total"),
        *("humidity", "irradiance", "price", "radiation", "weather"),
        *("temp", "temperature", "temperatur", "temperatura"),
        *("dayofweek", "holiday", "hour", "month", "season", "tariff", "weekday", "weekend", "year"),
    )
)
"""Names of columns that are no household, in tables with one column for each household. Within longer names they count
only if fewer than half of the columns contain any."""
NO_HOME = NO_HOME_WORDS | {
    "all",
    "count",
    "day",
    "dst",
    "index",
    "minute",
    "outdoor_temperature",
    "quarter",
    "row",
    "week",
}
"""Such names, as a whole."""
MOST_ABSENT = 4
"""Steps of the grid per stamp; if there are more, some stamp lies far away from the others."""
FEWEST_ROWS, WEEKS_ALIKE = 24, 3
"""Smallest numbers of rows that are not numbered consecutively, and of weeks that are not identical, by chance."""
_BESIDE = re.compile(r"(.+)_(?:status|state|flag|quality|qc)")
_STEP_NAME = re.compile(r"(\D*)(\d+)")
_CLOCK = re.compile(r"(\d\d?):(\d\d)(?::00)?")
MINUTES = DAY_SECONDS // 60
_MONTH = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_MOMENT = re.compile(
    r"\d{1,4}([-./])\d{1,2}\1\d{1,4}\b|.*\d:\d\d"
    rf"|\d{{1,2}}[- ]?{_MONTH}[- ]\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}}",
    re.IGNORECASE,
)

logger = logging.getLogger(__name__)


def series_of(
    table: pa.Table, where: Location, step_seconds: int, entity: str, period: Period | None = None
) -> SeriesSet:
    """Return the series of a table; its columns determine its layout.

    Parameters
    ----------
    table : pyarrow.Table
        One row or more.
    where : Location
        Source of the table, for messages.
    step_seconds, entity, period
        As for `ttsgan.data.readers.read_series`.

    Raises
    ------
    DataError
        Columns are not recognised, or their contents are not valid.
    """
    table = _one_stamp(table, where)
    names = table.column_names
    plain = {name: plain_name(name) for name in names}
    known = sorted((name for name in names if plain[name] in ID_NAMES), key=lambda name: ID_NAMES.index(plain[name]))
    id_column = known[0] if known else None
    homes = [name for name in known[1:] if plain[name] in HOME_NAMES]
    if homes and entity == "entity" and "entity" not in plain.values():
        asked = (
            f"{where} has the columns {id_column!r} and {homes[0]!r}: name the one that is to be protected: --entity"
            f" {homes[0]!r}, or --entity id for each {id_column!r} by itself"
        )
        # A column with the name of the contract, ``id``, is protected by default.
        if plain[id_column] != "id":
            raise DataError(asked)
        logger.warning("%s (taken now)", asked)
    # Without any other id, the entity column is the id.
    id_column = id_column or next((name for name in names if plain[name] in ("entity", plain_name(entity))), None)
    time_column = _time_column(table, id_column, where)
    if id_column and time_column is not None and len(known) > 1 and plain[id_column] == "id":
        counts = [len(codes(table[name], where, name)[0]) for name in known[:2]]
        if counts[0] == table.num_rows > counts[1]:
            raise DataError(
                f"{where}: column {id_column!r} has another value in each row, so that it numbers the rows; leave it"
                f" out, and {known[1]!r} is the id"
            )
    if id_column and time_column is not None:
        table = _day_rows(table, where, id_column, time_column)
        found = read_long(table, where, step_seconds, id_column, time_column, entity, period)
        return _with_named_id(found, id_column, entity)
    others = [field for field in table.schema if field.name != time_column]
    by_time = names[0] == time_column or all(is_number(field.type) for field in others)
    if time_column is not None and others and by_time:
        return _read_by_time(table, where, step_seconds, period, time_column)
    series = _read_by_row(table, where, id_column)
    if series is None:
        raise DataError(
            f"{where} has no `values` column, and its columns are not recognised: {one_line(', '.join(names), 120)};"
            " allowed: id + values (lists), id + timestamp + value, timestamps + one column per series, or id +"
            " numbered columns; a column of ids with another name is named by --entity"
        )
    return _with_named_id(series, id_column, entity)


def _with_named_id(series: SeriesSet, id_column: str | None, entity: str) -> SeriesSet:
    """Return the set with its ids also as an attribute if ``entity`` names their column: they are then the entities."""
    if id_column is None or plain_name(id_column) in ("id", "entity") or plain_name(id_column) != plain_name(entity):
        return series
    ids = pa.array(series.ids.astype(str))
    kept = series.attributes
    return dataclasses.replace(
        series, attributes=pa.table({entity: ids}) if kept is None else kept.append_column(entity, ids)
    )


def _time_column(table: pa.Table, id_column: str | None, where: Location) -> str | None:
    """Return the column of time stamps: one of `TIME_NAMES`, or a column that holds time stamps; None if there is none.

    Beside an id column, a column without such a name counts only if ids repeat: otherwise its stamps belong to whole
    series, not to values. Without an id column, it must be the first column of the table or the only one with stamps.
    """
    names = [name for name in table.column_names if name != id_column]
    named = [name for name in names if plain_name(name) in TIME_NAMES]
    holding = [name for name in names if is_stamp(table.schema.field(name).type)]
    if named or not holding:
        return named[0] if named else None
    if id_column is None:
        return holding[0] if holding[0] == names[0] or len(holding) == 1 else None
    # The stamp of an interval is its start.
    holding.sort(key=lambda name: not re.search("start|begin|from", plain_name(name)))
    return holding[0] if len(codes(table[id_column], where, id_column)[0]) < table.num_rows else None


def _one_stamp(table: pa.Table, where: Location) -> pa.Table:
    """Return the table with a date column and a column of hours or times of day joined to one."""
    plain = {plain_name(name): name for name in table.column_names}
    clock = next((plain[name] for name in CLOCK_NAMES if name in plain), None)
    seconds = None if clock is None or "date" not in plain else _seconds_of_day(table[clock], where, clock)
    if seconds is None:
        return table
    date = plain["date"]
    when = stamps(table[date], where, date)
    if (when != when.astype("datetime64[D]")).any():
        return table
    joined = pa.chunked_array([pa.array(when + seconds.astype("timedelta64[s]"))])
    return table.set_column(table.column_names.index(date), date, joined).drop_columns([clock])


def _seconds_of_day(column: pa.ChunkedArray, where: Location, name: str) -> np.ndarray | None:
    """Return hours (0 to 23, or 1 to 24 for their ends) or times of day as seconds (n,), or None for anything else."""
    if column.null_count:
        return None
    if is_text(column.type):
        texts, rank = codes(column, where, name)
        found = [re.fullmatch(r"(\d\d?):(\d\d)(?::(\d\d))?", text.strip()) for text in texts]
        if not all(found):
            return None
        parts = np.array([[int(part or 0) for part in match.groups()] for match in found])
        seconds = (parts @ [3600, 60, 1])[rank]
    elif pa.types.is_time(column.type):
        seconds = column.cast(pa.time32("s"), safe=False).cast(pa.int32()).to_numpy().astype(np.int64)
    elif pa.types.is_integer(column.type):
        hours = column.to_numpy().astype(np.int64)
        seconds = (hours - (hours.min() == 1 and hours.max() == 24)) * 3600
    else:
        return None
    return seconds if seconds.min() >= 0 and seconds.max() < DAY_SECONDS else None


def _numbered(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the longest family of columns numbered consecutively as steps, and the prefixes of all families as long.

    Both are empty if there are fewer than 2 such columns, or their numbers are not consecutive.
    """
    numbered: dict[str, list[str]] = {}
    for name in names:
        if match := _STEP_NAME.fullmatch(name):
            numbered.setdefault(match[1], []).append(name)
    steps = max(numbered.values(), key=len, default=[])
    families = [prefix for prefix, family in numbered.items() if len(family) == len(steps)]
    if len(steps) < 2 or np.any(np.diff([int(_STEP_NAME.fullmatch(name)[2]) for name in steps]) != 1):
        return [], []
    return steps, families


def _clocked(names: list[str]) -> list[str]:
    """Return the columns that are the steps of a day by times as names, from 0:00 on or by their ends up to 0:00."""
    found = {name: match for name in names if (match := _CLOCK.fullmatch(name.strip()))}
    minutes = np.array([60 * int(match[1]) + int(match[2]) for match in found.values()])
    if len(found) < 2 or MINUTES % len(found):
        return []
    step = MINUTES // len(found)
    of_ends = (minutes - step * np.arange(1, len(found) + 1)) % MINUTES
    return list(found) if not of_ends.any() or (minutes == step * np.arange(len(found))).all() else []


def _day_rows(table: pa.Table, where: Location, id_column: str, time_column: str) -> pa.Table:
    """Return a table with one row per id and day as a long table, and any other table unchanged."""
    rest = [name for name in table.column_names if name not in (id_column, time_column)]
    steps, families = _clocked(rest), [""]
    if not steps:
        steps, families = _numbered(rest)
    if not steps or len(families) > 1:
        return table
    if len(steps) in (25, 50, 100):
        raise DataError(
            f"{where} has {len(steps)} columns for a day, {steps[0]!r} to {steps[-1]!r}: more than fit, for the day of"
            " autumn on which local clock time repeats an hour; write one row for each value, with its time in UTC, or"
            f" leave the last {len(steps) // 25} out"
        )
    if DAY_SECONDS % (60 * len(steps)):
        return table
    when = stamps(table[time_column], where, time_column)
    if (when != when.astype("datetime64[D]")).any():
        return table
    offsets = (np.arange(len(steps)) * (DAY_SECONDS // len(steps))).astype("timedelta64[s]")
    values = np.stack([numbers(table[name], where, name) for name in steps], axis=1)
    long = table.drop_columns([time_column, *steps]).take(pa.array(np.repeat(np.arange(len(when)), len(steps))))
    long = long.append_column(time_column, pa.array((when[:, None] + offsets).reshape(-1)))
    unit = named_unit(families[0].rstrip("_ "))
    return long.append_column(f"value ({unit})" if unit else "value", pa.array(values.reshape(-1), from_pandas=True))


def _read_by_time(table: pa.Table, where: Location, step_seconds: int, period: Period | None, name: str) -> SeriesSet:
    ids = [other for other in table.column_names if other != name]
    _refuse_others(ids, where)
    units = sorted({bracketed_unit(other) for other in ids})
    if len(units) > 1:
        raise DataError(
            f"{where}: its columns name several units ({', '.join(unit or 'none' for unit in units)}); a table has one:"
            " bring all to one unit, or leave out what is no series of a household"
        )
    when = stamps(table[name], where, name)
    rows = inside(when, period, where)
    table, seconds = table.take(pa.array(rows)), when[rows].astype(np.int64)
    order = np.argsort(seconds, kind="stable")
    gaps = np.diff(seconds[order])
    former, later = order[:-1][gaps == 0], order[1:][gaps == 0]
    if len(later) and of_clock(seconds[later]) and not np.isin(former, later).any():
        logger.warning(CLOCK_TWICE, where, seconds[later[0]].astype("M8[s]"))
    elif len(later):
        stamp = seconds[later[0]].astype("M8[s]")
        apart = f"name the column that tells them apart 'id' (there are: {one_line(', '.join(ids), 80)})"
        raise DataError(
            f"{where}: duplicate time stamp {stamp} in {name!r} ({int((gaps == 0).sum())} in all);"
            f" {twice_advice((gaps == 0).mean(), apart)}"
        )
    step = step_seconds or frequent(gaps)
    begin = seconds.min() if period is None else period[0].astype("M8[s]").astype(np.int64)
    offset = seconds - begin
    if not step or (offset % step).any():
        raise DataError(f"{where}: the stamps in {name!r} are not on a regular grid ({step} s); {_irregular(step)}")
    length = int(offset.max() // step) + 1 if period is None else steps_of(period, step)
    if period is None and length > MOST_ABSENT * len(seconds) >= MOST_ABSENT * FEWEST_ROWS:
        at = order[int(np.argmax(gaps))]
        raise DataError(
            f"{where}: {len(seconds)} stamps in {name!r} are spread over {length} steps of {step} s; the longest gap"
            f" begins at {seconds[at].astype('M8[s]')}: leave out what is lonely, or take a span: --set data.period"
        )
    values = np.full((len(ids), 1, length), np.nan, dtype=np.float32)
    for row, column in enumerate(ids):
        told = numbers(table[column], where, column)
        values[row, 0, offset // step] = told
        # the mean of the two, or the one that is not missing
        pair = told[former], told[later]
        values[row, 0, offset[later] // step] = 0.5 * (np.fmin(*pair) + np.fmax(*pair))
    _refuse_rows_and_weeks(values[:, 0], ids, step, where)
    names = np.array(ids, dtype=object)
    starts = np.full(len(ids), begin).astype("datetime64[s]")
    # Without brackets the last word of a name is a unit if it is in all of them.
    worded = {named_unit(other) for other in ids}
    return series_set(where, names, names, starts, values, step, unit=worded.pop() if len(worded) == 1 else "")


def _refuse_rows_and_weeks(values_NL: np.ndarray, ids: list[str], step: int, where: Location) -> None:
    """Refuse series that number the rows, or that are the same in every week, such as a tariff."""
    week, length, found = 7 * DAY_SECONDS // step, values_NL.shape[1], {}
    for name, values in zip(ids, values_NL, strict=True):
        rising = np.sort(values)
        if length >= FEWEST_ROWS and rising[0] == np.rint(rising[0]) and (np.diff(rising) == 1).all():
            found[name] = "numbers the rows"
        elif (
            week and length >= WEEKS_ALIKE * week and (values[week:] == values[:-week]).all() and rising[0] < rising[-1]
        ):
            found[name] = "is the same in every week"
    # Where most columns are so, they are what the table is about.
    if found and 2 * len(found) < len(ids):
        name, what = next(iter(found.items()))
        raise DataError(
            f"{where}: column {name!r} {what}: leave out what is no series of a household, or it would be taken for one"
        )


def _irregular(step: int) -> str:
    """Return advice on stamps that are not on a regular grid of ``step`` seconds."""
    months = 28 <= step / DAY_SECONDS <= 366
    return "months and years are not of one length: take days or weeks" if months else "correct them or fill gaps"


def _refuse_others(names: list[str], where: Location) -> None:
    """Refuse columns that are no household, such as a total: each would be protected like one."""
    plain = {plain_name(name): name for name in names}
    beside = {short: match[1] for short in plain if (match := _BESIDE.fullmatch(short))}
    found = [name for short, name in plain.items() if short in NO_HOME or beside.get(short) in plain]
    wordy = [name for short, name in plain.items() if NO_HOME_WORDS & {*re.findall("[a-z]+", short)}]
    found += [name for name in wordy if name not in found and 2 * len(wordy) < len(names)]
    if found:
        raise DataError(
            f"{where} has a column for each series, and {one_line(', '.join(map(repr, found)), 120)} among them: leave"
            " out what is no series of a household, or each would be taken for one"
        )


def _read_by_row(table: pa.Table, where: Location, id_column: str | None) -> SeriesSet | None:
    """Return the set of a table with one row per series, or None if its columns are not consecutive steps."""
    names = table.column_names
    guessed = id_column is None and is_text(table.schema.field(0).type)
    id_column = names[0] if guessed else id_column
    steps, families = _numbered([name for name in names if name != id_column])
    starts, step = np.full(table.num_rows, "NaT", dtype="datetime64[s]"), 0
    if not steps:
        steps = [name for name in names if re.match(r"\d{4}-\d\d-\d\d", name)]
        if len(steps) < 2:
            return None
        moments = stamps(pa.chunked_array([steps]), where, "header").astype(np.int64)
        step = int(moments[1] - moments[0])
        if step <= 0 or np.any(np.diff(moments) != step):
            raise DataError(f"{where}: the time stamps in the header are not on a regular grid; correct the header")
        starts = np.full(table.num_rows, moments[0]).astype("datetime64[s]")
    elif len(families) > 1:
        raise DataError(
            f"{where} has {len(families)} columns for each step ({one_line(', '.join(families), 120)}); a table has one"
            " channel: keep one of them, or save all as .npy of shape (series, channels, steps)"
        )
    if id_column is None:
        raise DataError(f"{where} has no id column; name one of its columns 'id', or save the numbers as .npy")
    ids = labels(table[id_column], where, id_column)
    if guessed and all(_MOMENT.match(name) for name in ids[:10]):
        strays = (f"leave out {name!r} in row {row}, or " for row, name in enumerate(ids, 1) if not _MOMENT.match(name))
        raise DataError(
            f"{where}: {id_column!r} holds dates, such as {ids[0]!r}, in the place of ids;"
            f" {next(strays, '')}write them as 2013-01-01 00:30 for a column for each series, or name the column of"
            " ids 'id'"
        )
    values = np.stack([numbers(table[name], where, name) for name in steps], axis=1)[:, None, :]
    others = [name for name in names if name not in (*steps, id_column)]
    entity = next((name for name in others if plain_name(name) == "entity"), None)
    entities = labels(table[entity], where, entity) if entity else ids
    start = next((name for name in others if plain_name(name) == "start"), None)
    if not step and start:
        starts = stamps(table[start], where, start)
    kept = [name for name in others if name not in (entity, start)]
    return series_set(where, ids, entities, starts, values, step, table.select(kept) if kept else None)
