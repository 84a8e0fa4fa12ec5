"""Long tables: one row per value, with an id and a time stamp.

Axis letters: n series, L time steps; R rows. Missing values are NaN.
"""

import logging
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ttsgan.data.columns import (
    ID_NAMES,
    VALUE_NAMES,
    codes,
    is_number,
    is_text,
    numbers,
    plain_name,
    series_set,
    stamps,
)
from ttsgan.data.grid import CLOCK_TWICE, Period, frequent, inside, of_clock, span_of_all, steps_of, twice_advice
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import labels
from ttsgan.data.units import named_unit
from ttsgan.errors import DataError

OWN_STEP = 0.8
"""A series has a step of its own if more than this share of its gaps has one other length."""
UNIT_NAMES = ("unit", "units", "uom")
_LIKE_A_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s*", re.IGNORECASE)

logger = logging.getLogger(__name__)


def read_long(
    table: pa.Table,
    where: Location,
    step_seconds: int,
    id_column: str,
    time_column: str,
    entity_column: str,
    period: Period | None,
) -> SeriesSet:
    """Return the series of a long table.

    Rows without a value may repeat a stamp or lie off the grid. Of identical rows, one is kept. The two values of a
    stamp that a local clock repeats are averaged.

    Parameters
    ----------
    table : pyarrow.Table
    where : Location
        Source of the table, for messages.
    step_seconds : int
        0: the most frequent spacing of stamps within an id.
    id_column, time_column, entity_column : str
        Names of columns; the last one may be absent.
    period : tuple of datetime64, optional
        Span to read.

    Raises
    ------
    DataError
        The value column is ambiguous or absent; an id has duplicate stamps, stamps off the grid, or a step other than
        that of the other ids; series have unequal lengths without a period; an entity changes within an id.
    """
    others = [name for name in table.column_names if name not in (id_column, time_column)]
    value = _value_column(table, where, others, entity_column)
    _refuse_units(table, where, others)
    values_R = numbers(table[value], where, value)
    when = stamps(table[time_column], where, time_column)
    ids, owner_R = codes(table[id_column], where, id_column)
    rows = inside(when, period, where)
    seconds_R = when.astype(np.int64)
    rows, values_R, step = _in_order(rows, owner_R, seconds_R, values_R, ids, where, time_column, step_seconds)
    rows = _on_grid(rows, owner_R, seconds_R, values_R, step)
    owner, seconds, values_R = owner_R[rows], seconds_R[rows], values_R[rows]
    first_row = np.flatnonzero(np.diff(owner, prepend=-1))
    last_row = np.append(first_row[1:], len(rows)) - 1
    begin = seconds[first_row] if period is None else np.full(len(ids), period[0].astype("M8[s]").astype(int))
    offset = seconds - begin[owner]
    if (offset % step).any():
        at = int(np.argmax(offset % step != 0))
        raise DataError(
            f"{where}: {time_column!r} is {seconds[at].astype('M8[s]')} for {ids[owner[at]]!r}, which is off the grid"
            f" of {step} s; correct the stamps"
        )
    if period is None:
        lengths = (seconds[last_row] - begin) // step + 1
        if (lengths != lengths[0]).any():
            short, long = int(np.argmin(lengths)), int(np.argmax(lengths))
            span = span_of_all(begin, seconds[last_row] + step)
            raise DataError(
                f"{where}: unequal lengths: {lengths[short]} steps for {ids[short]!r}, {lengths[long]} for"
                f" {ids[long]!r}, between {when.min()} and {when.max()}; cut all to one span, such as --set"
                f" data.period={span}"
            )
    length = int(lengths[0]) if period is None else steps_of(period, step)
    values = np.full((len(ids), 1, length), np.nan, dtype=np.float32)
    values[owner, 0, offset // step] = values_R
    attributes = _attributes(table, where, [name for name in others if name != value], ids, owner_R, entity_column)
    entity = next((name for name in attributes if plain_name(name) == "entity"), None)
    entities = labels(pa.chunked_array([attributes.pop(entity)]), where, entity) if entity else ids
    extra = pa.table(attributes) if attributes else None
    unit = named_unit(value) or _told_unit(attributes)
    return series_set(where, ids, entities, begin, values, step, extra, unit)


def _value_column(table: pa.Table, where: Location, names: list[str], entity: str) -> str:
    """Return the column of values: by its name, else by a unit in its name, else the only one that holds numbers."""
    by_name = [name for name in names if plain_name(name) in VALUE_NAMES]
    by_unit = [name for name in names if named_unit(name)]
    labelling = (*ID_NAMES, "entity", plain_name(entity))
    by_kind = [name for name in names if plain_name(name) not in labelling and _like_numbers(table[name])]
    found = by_name or by_unit or by_kind
    if len(found) != 1:
        raise DataError(
            f"{where}: the value column is not clear ({one_line(', '.join(found) or 'none', 120)} found); keep one of"
            f" them, or name it {VALUE_NAMES[0]!r}; several quantities of one id are channels of a .npy array (series,"
            " channels, steps)"
        )
    return found[0]


def _like_numbers(column: pa.ChunkedArray) -> bool:
    """Tell whether a column holds numbers, or text of which more than half looks like numbers."""
    if not is_text(column.type):
        return is_number(column.type)
    texts = pc.unique(column.slice(0, 10_000).cast(pa.string())).drop_null().to_pylist()
    return 2 * sum(bool(_LIKE_A_NUMBER.fullmatch(text)) for text in texts) > len(texts)


def _in_order(
    rows: np.ndarray, owner_R: np.ndarray, seconds_R: np.ndarray, values_R: np.ndarray, ids: np.ndarray,
    where: Location, time_column: str, step_seconds: int,
) -> tuple[np.ndarray, np.ndarray, int]:  # fmt: skip
    """Return the rows sorted by id and time, each stamp once, the values of all rows, and the step in seconds."""
    empty = np.isnan(values_R)
    rows = rows[np.lexsort((empty[rows], seconds_R[rows], owner_R[rows]))]
    again = (np.diff(owner_R[rows]) == 0) & (np.diff(seconds_R[rows]) == 0)
    later, former = rows[1:], rows[:-1]
    same = again & (empty[later] | (values_R[later] == values_R[former]))
    twice = again & ~same
    if twice.any() and of_clock(seconds_R[later[twice]]) and not (twice[1:] & again[:-1]).any():
        logger.warning(CLOCK_TWICE, where, seconds_R[later[twice][0]].astype("M8[s]"))
        values_R = values_R.copy()
        values_R[former[twice]] = 0.5 * (values_R[former[twice]] + values_R[later[twice]])
    elif twice.any():
        at, count = later[int(np.argmax(twice))], int(twice.sum())
        apart = "make one id of the id and what tells them apart, and name the home by --entity COLUMN"
        advice = twice_advice(count / len(rows), apart)
        raise DataError(
            f"{where}: duplicate time stamp {seconds_R[at].astype('M8[s]')} in {time_column!r} for"
            f" {ids[owner_R[at]]!r} ({count} in all); {advice}"
        )
    if same.any():
        logger.warning("%s: %d rows that say again what another says are left out", where, int(same.sum()))
    rows = np.append(rows[:1], later[~again])
    # rows without a value do not count for the step
    told = rows[~empty[rows]] if not empty[rows].all() else rows
    within = owner_R[told][1:] == owner_R[told][:-1]
    gaps = np.diff(seconds_R[told])[within]
    step = step_seconds or frequent(gaps)
    if not step:
        raise DataError(
            f"{where}: every id has one row, so that the step is not known; several values per id are needed"
        )
    _refuse_other_steps(gaps, owner_R[told][1:][within], step, ids, where)
    return rows, values_R, step


def _on_grid(
    rows: np.ndarray, owner_R: np.ndarray, seconds_R: np.ndarray, values_R: np.ndarray, step: int
) -> np.ndarray:
    """Return the rows, except those without a value that lie off the grid of the values of their id."""
    owner, seconds, empty = owner_R[rows], seconds_R[rows], np.isnan(values_R[rows])
    if not empty.any():
        return rows
    first = np.zeros(owner.max() + 1, np.int64)
    first[owner[::-1]] = seconds[::-1]
    told = np.flatnonzero(~empty)[::-1]
    first[owner[told]] = seconds[told]
    return rows[~empty | ((seconds - first[owner]) % step == 0)]


def _refuse_other_steps(gaps: np.ndarray, owner: np.ndarray, step: int, ids: np.ndarray, where: Location) -> None:
    """Refuse series whose step differs from that of the others: half of their values would be treated as missing."""
    count = np.bincount(owner, minlength=len(ids))
    other = gaps != step
    seldom = np.bincount(owner[other], minlength=len(ids)) > OWN_STEP * count
    rows = np.flatnonzero(other & seldom[owner])
    pairs, same = np.unique(np.stack([owner[rows], gaps[rows]]), axis=1, return_counts=True)
    own = np.flatnonzero((same > OWN_STEP * count[pairs[0]]) & (same > 1))
    if len(own):
        one, size = pairs[:, own[0]]
        raise DataError(
            f"{where}: {ids[one]!r} has a value every {size} s, where the step is {step} s ({len(own)} of {len(ids)}"
            " such); bring all to one step, or read them apart"
        )


def _attributes(
    table: pa.Table, where: Location, names: list[str], ids: np.ndarray, owner_R: np.ndarray, entity: str
) -> dict[str, pa.Array]:
    """Return the columns that are constant within each id, with one row per id."""
    picked = pa.array(np.unique(owner_R, return_index=True)[1])
    attributes, changing = {}, []
    for name in names:
        column = table[name].combine_chunks()
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        per_id = column.take(picked)
        same = pc.fill_null(pc.equal(column, per_id.take(pa.array(owner_R))), False).to_numpy(zero_copy_only=False)
        if same.all():
            attributes[name] = per_id
        elif plain_name(name) == plain_name(entity):
            wrong = ids[owner_R[int(np.argmin(same))]]
            raise DataError(
                f"{where}: column {name!r} is empty or changes within the id {wrong!r} (1 of"
                f" {len(np.unique(owner_R[~same]))} such); name the one entity that is to be protected in every row"
            )
        elif column.null_count < len(column):
            changing.append(name)
    if changing:
        told = one_line(", ".join(map(repr, changing)), 160)
        logger.warning("%s: not read, for they change within an id: %s", where, told)
    return attributes


def _refuse_units(table: pa.Table, where: Location, names: list[str]) -> None:
    """Refuse a table whose column of units holds more than one unit."""
    for name in names:
        if plain_name(name) in UNIT_NAMES and is_text(table.schema.field(name).type):
            units = sorted(filter(None, pc.unique(table[name].cast(pa.string())).to_pylist()))
            if len(units) > 1:
                raise DataError(
                    f"{where}: column {name!r} holds {len(units)} units ({one_line(', '.join(units), 80)}); bring all"
                    " values to one"
                )


def _told_unit(attributes: dict[str, pa.Array]) -> str:
    """Return the unit from a column of units that holds one unit for all series; "" if there is none."""
    for name, column in attributes.items():
        if plain_name(name) in UNIT_NAMES and is_text(column.type) and len(found := pc.unique(column)) == 1:
            return found[0].as_py() or ""
    return ""
