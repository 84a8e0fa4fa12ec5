"""The forms in which tables hold series, recognised by the names of their columns.

Axis letters: n series, C channels, L time steps. Missing values are NaN.

Long table   one row per value: an id, a time stamp and a value; further columns that do not change within an id
             become attributes. The step is the most frequent spacing; stamps that are absent become NaN.
Wide by time one row per time stamp, which stands in the first column; each further column is a series, its name the id.
Wide by row  one row per series: an id and one column per value, named by numbers in order (``0``, ``h17``) or by time
             stamps; ``entity``, ``start`` and other columns are read too.

Column names are recognised whatever their case, with spaces for ``_``, and up to a bracket: `ID_NAMES`, `TIME_NAMES`,
`VALUE_NAMES`. Of several that may be the id the one that is first in `ID_NAMES` is. The name of a value column may tell
the unit: ``kWh``, ``energy_kwh``, ``Flow (m3/h)``.
"""

import logging
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import SeriesSet, labels, refuse_duplicates, refuse_infinite
from ttsgan.data.units import named_unit
from ttsgan.errors import DataError

METER_NAMES = ("id", "series_id", "meter", "meter_id", "meterid", "lclid")
HOME_NAMES = ("household", "household_id", "house_id", "customer_id", "building_id", "site_id")
ID_NAMES = (*METER_NAMES, *HOME_NAMES)
TIME_NAMES = ("timestamp", "time", "datetime", "date_time", "date", "tstp", "utc", "time_utc", "utc_timestamp", "stamp")
VALUE_NAMES = (
    *("value", "values", "reading", "consumption", "usage", "load", "energy", "power", "demand"),
    *("kwh", "wh", "kw", "w", "kwh/h", "kwh/hh"),
)
_STEP_NAME = re.compile(r"(\D*)(\d+)")
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}\b")

logger = logging.getLogger(__name__)


def plain_name(name: str) -> str:
    """Return a column name in lower case, its words joined by ``_``, without what follows a bracket."""
    return re.sub(r"[\s-]+", "_", re.split(r"[(\[]", name.lower())[0].strip())


def series_set(
    where: Location,
    ids: np.ndarray,
    entities: np.ndarray,
    starts: np.ndarray,
    values: np.ndarray,
    step_seconds: int = 0,
    attributes: pa.Table | None = None,
    unit: str = "",
) -> SeriesSet:
    """Check ids and values, and join them to a set."""
    refuse_duplicates(ids, where)
    refuse_infinite(values, ids, where)
    return SeriesSet(ids, entities, starts.astype("datetime64[s]"), values, unit, step_seconds, attributes)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)


Period = tuple[np.datetime64, np.datetime64]
"""First moment, and the first that is no longer in it."""


def series_of(
    table: pa.Table, where: Location, step_seconds: int, entity: str, period: Period | None = None
) -> SeriesSet:
    """Return the series of a table, whose form its columns tell.

    Parameters
    ----------
    table : pyarrow.Table
        One row or more.
    where : Location
        What it was read from, for messages.
    step_seconds, entity, period
        As of `ttsgan.data.readers.read_series`.

    Raises
    ------
    DataError
        Columns that are not recognised, or what they hold is not as it should be.
    """
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
        # What the contract calls the id is protected where nothing else is said.
        if plain[id_column] != "id":
            raise DataError(asked)
        logger.warning("%s (taken now)", asked)
    id_column = id_column or next((name for name in names if plain[name] == "entity"), None)
    time_column = next((name for name in names if plain[name] in TIME_NAMES and name != id_column), None)
    if id_column and time_column:
        return _read_long(table, where, step_seconds, id_column, time_column, entity, period)
    if len(names) > 1 and (names[0] == time_column or _is_time(table.schema.field(0).type)):
        return _read_by_time(table, where, step_seconds, period)
    series = _read_by_row(table, where, id_column)
    if series is None:
        raise DataError(
            f"{where} has no `values` column, and its columns are not recognised: {one_line(', '.join(names), 120)};"
            " allowed: id + values (lists), id + timestamp + value, timestamps + one column per series, or id +"
            " numbered columns"
        )
    return series


def _inside(when: np.ndarray, period: Period | None, where: Location) -> np.ndarray:
    """Return which rows (n,) have stamps in the period."""
    inside = np.ones(len(when), dtype=bool) if period is None else (when >= period[0]) & (when < period[1])
    if not inside.any():
        raise DataError(
            f"{where} has no time stamp within data.period ({period[0]} to {period[1]}): it holds {when.min()} to"
            f" {when.max()}"
        )
    return np.flatnonzero(inside)


def steps_of(period: Period, step: int) -> int:
    """Return how many steps a period has."""
    seconds = int((period[1] - period[0]).astype("m8[s]").astype(np.int64))
    if seconds % step:
        raise DataError(f"data.period, {period[0]} to {period[1]}, is no whole number of steps of {step} s")
    return seconds // step


def _read_long(
    table: pa.Table,
    where: Location,
    step_seconds: int,
    id_column: str,
    time_column: str,
    entity_column: str,
    period: Period | None,
) -> SeriesSet:
    others = [name for name in table.column_names if name not in (id_column, time_column)]
    found = [name for name in others if plain_name(name) in VALUE_NAMES]
    found = found or [name for name in others if _is_number(table.schema.field(name).type)]
    if len(found) != 1:
        raise DataError(
            f"{where}: the value column is not clear ({one_line(', '.join(found) or 'none', 120)} found); keep one of"
            f" them, or name it {VALUE_NAMES[0]!r}"
        )
    numbers = _numbers(table[found[0]], where, found[0])
    when = stamps(table[time_column], where, time_column)
    ids, owner = _codes(table[id_column], where, id_column)
    seconds = when.astype(np.int64)
    order = _inside(when, period, where)
    order = order[np.lexsort((seconds[order], owner[order]))]
    owner_sorted, sorted_seconds = owner[order], seconds[order]
    first_row = np.flatnonzero(np.diff(owner_sorted, prepend=-1))
    last_row = np.append(first_row[1:], len(order)) - 1
    gaps = np.diff(sorted_seconds)[owner_sorted[1:] == owner_sorted[:-1]]
    if (gaps == 0).any():
        at = int(np.argmax((np.diff(sorted_seconds) == 0) & (np.diff(owner_sorted) == 0)))
        stamp = sorted_seconds[at].astype("M8[s]")
        raise DataError(
            f"{where}: duplicate time stamp {stamp} for {ids[owner_sorted[at]]!r} ({int((gaps == 0).sum())} in all);"
            " keep one row for each id and stamp (local clock time repeats an hour in autumn: use UTC)"
        )
    step = step_seconds or _frequent(gaps)
    if not step:
        raise DataError(
            f"{where}: every id has one row, so that the step is not known; several values per id are needed"
        )
    begin = sorted_seconds[first_row] if period is None else np.full(len(ids), period[0].astype("M8[s]").astype(int))
    offset = sorted_seconds - begin[owner_sorted]
    if (offset % step).any():
        at = int(np.argmax(offset % step != 0))
        raise DataError(
            f"{where}: {time_column!r} is {sorted_seconds[at].astype('M8[s]')} for {ids[owner_sorted[at]]!r}, which is"
            f" off the grid of {step} s; correct the stamps, or set data.step_seconds"
        )
    if period is None:
        lengths = (sorted_seconds[last_row] - begin) // step + 1
        if (lengths != lengths[0]).any():
            short, long = int(np.argmin(lengths)), int(np.argmax(lengths))
            raise DataError(
                f"{where}: unequal lengths: {lengths[short]} steps for {ids[short]!r}, {lengths[long]} for"
                f" {ids[long]!r}, between {when.min()} and {when.max()}; cut all to one span, such as --set"
                " data.period=2013-01-01/2014-01-01"
            )
    length = int(lengths[0]) if period is None else steps_of(period, step)
    values = np.full((len(ids), 1, length), np.nan, dtype=np.float32)
    values[owner_sorted, 0, offset // step] = numbers[order]
    picked = pa.array(np.unique(owner, return_index=True)[1])
    attributes = {}
    for name in (name for name in others if name not in found):
        column = table[name].combine_chunks()
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        per_id = column.take(picked)
        same = pc.fill_null(pc.equal(column, per_id.take(pa.array(owner))), False).to_numpy(zero_copy_only=False)
        if same.all():
            attributes[name] = per_id
        elif plain_name(name) == plain_name(entity_column):
            wrong = ids[owner[int(np.argmin(same))]]
            raise DataError(
                f"{where}: column {name!r} is empty or changes within the id {wrong!r} (1 of"
                f" {len(np.unique(owner[~same]))} such); name the one entity that is to be protected in every row"
            )
        else:
            logger.info("%s: column %r changes within an id and is left out", where, name)
    entity = next((name for name in attributes if plain_name(name) == "entity"), None)
    entities = labels(pa.chunked_array([attributes.pop(entity)]), where, entity) if entity else ids
    extra = pa.table(attributes) if attributes else None
    unit = named_unit(found[0])
    return series_set(where, ids, entities, begin.astype("datetime64[s]"), values, step, extra, unit)


def _read_by_time(table: pa.Table, where: Location, step_seconds: int, period: Period | None) -> SeriesSet:
    name, *ids = table.column_names
    when = stamps(table[name], where, name)
    inside = _inside(when, period, where)
    table, seconds = table.take(pa.array(inside)), when[inside].astype(np.int64)
    order = np.argsort(seconds, kind="stable")
    gaps = np.diff(seconds[order])
    if (gaps == 0).any():
        stamp = seconds[order][int(np.argmax(gaps == 0))].astype("M8[s]")
        raise DataError(
            f"{where}: duplicate time stamp {stamp} in {name!r}; keep one row for each stamp (local clock time repeats"
            " an hour in autumn: use UTC)"
        )
    step = step_seconds or _frequent(gaps)
    begin = seconds.min() if period is None else period[0].astype("M8[s]").astype(np.int64)
    offset = seconds - begin
    if not step or (offset % step).any():
        raise DataError(
            f"{where}: the stamps in {name!r} are not on a regular grid ({step} s); correct them or fill gaps"
        )
    length = int(offset.max() // step) + 1 if period is None else steps_of(period, step)
    values = np.full((len(ids), 1, length), np.nan, dtype=np.float32)
    for row, column in enumerate(ids):
        values[row, 0, offset // step] = _numbers(table[column], where, column)
    names = np.array(ids, dtype=object)
    starts = np.full(len(ids), begin).astype("datetime64[s]")
    return series_set(where, names, names, starts, values, step)


def _read_by_row(table: pa.Table, where: Location, id_column: str | None) -> SeriesSet | None:
    """Return the set, or None when the columns do not look like steps in order."""
    names = table.column_names
    guessed = id_column is None and _is_text(table.schema.field(0).type)
    id_column = names[0] if guessed else id_column
    numbered: dict[str, list[str]] = {}
    for name in names:
        if (match := _STEP_NAME.fullmatch(name)) and name != id_column:
            numbered.setdefault(match[1], []).append(name)
    steps = max(numbered.values(), key=len, default=[])
    families = [prefix for prefix, family in numbered.items() if len(family) == len(steps)]
    starts, step = np.full(table.num_rows, "NaT", dtype="datetime64[s]"), 0
    if len(steps) < 2 or np.any(np.diff([int(_STEP_NAME.fullmatch(name)[2]) for name in steps]) != 1):
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
    if guessed and all(_DATE.match(name) for name in ids[:10]):
        raise DataError(
            f"{where}: {id_column!r} holds dates that are not ISO 8601, such as {ids[0]!r}, in the place of ids; write"
            " them as 2013-01-01 00:30 for a column for each series, or name the column of ids 'id'"
        )
    values = np.stack([_numbers(table[name], where, name) for name in steps], axis=1)[:, None, :]
    others = [name for name in names if name not in (*steps, id_column)]
    entity = next((name for name in others if plain_name(name) == "entity"), None)
    entities = labels(table[entity], where, entity) if entity else ids
    start = next((name for name in others if plain_name(name) == "start"), None)
    if not step and start:
        starts = stamps(table[start], where, start)
    kept = [name for name in others if name not in (entity, start)]
    return series_set(where, ids, entities, starts, values, step, table.select(kept) if kept else None)


def _codes(column: pa.ChunkedArray, where: Location, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct labels (m,) of a column in order, and for each row (n,) which of them it holds."""
    if column.null_count:
        labels(column, where, name)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    names = labels(pa.chunked_array([encoded.dictionary]), where, name)
    ids, rank = np.unique(names.astype(str), return_inverse=True)
    return ids.astype(object), rank[encoded.indices.to_numpy()]


def _frequent(gaps: np.ndarray) -> int:
    """Return the most frequent spacing in seconds, 0 when there is none."""
    sizes, counts = np.unique(gaps, return_counts=True)
    return int(sizes[np.argmax(counts)]) if len(sizes) else 0


def _numbers(column: pa.ChunkedArray, where: Location, name: str) -> np.ndarray:
    """Return a column of numbers (n,) as float32, nulls as NaN; `DataError` names the first text."""
    if _is_text(column.type):
        column = column.cast(pa.string())
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            row = first_failure(column, pa.float64())
            raise DataError(
                f"{where}: column {name!r} holds the text {column[row].as_py()!r} in row {row + 1}; allowed: numbers,"
                " empty where missing"
            ) from None
    if not _is_number(column.type):
        raise DataError(f"{where}: column {name!r} is {column.type}; allowed: numbers, empty where missing")
    with np.errstate(over="ignore"):
        return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)


def stamps(column: pa.ChunkedArray, where: object, name: str) -> np.ndarray:
    """Return a column of time stamps (n,) as datetime64[s], zones turned to UTC; `DataError` on a null or no time."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0]) + 1
        raise DataError(f"{where}: column {name!r} has no time stamp in row {row}; every row needs one")
    row = 0
    if _is_text(column.type):
        column = column.cast(pa.string())
        for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
            try:
                column = column.cast(kind)
                break
            except pa.ArrowInvalid:
                row = max(row, first_failure(column, kind))
    if not _is_time(column.type):
        raise DataError(
            f"{where}: column {name!r} holds {column[row].as_py()!r} in row {row + 1}; allowed: ISO 8601 time stamps"
            " such as 2013-01-01 00:30:00"
        )
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit))
    return column.to_numpy().astype("datetime64[s]")


def first_failure(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Return the position of the first value that cannot be cast to ``kind``, of a column that cannot."""
    good, bad = 0, len(column)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            column.slice(good, middle - good).cast(kind)
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good
