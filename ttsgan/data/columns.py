"""Columns of a table: recognised names, types, conversion to arrays, and assembly into a set of series."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ttsgan.data.series_set import SeriesSet, refuse_duplicates, refuse_infinite
from ttsgan.data.storage import Location
from ttsgan.data.store import labels
from ttsgan.errors import DataError

METER_NAMES = (
    *("id", "series_id", "meter", "meter_id", "meterid", "meter_no", "meter_number", "lclid", "dataid"),
    *("mpan", "mprn", "nmi", "device_id", "sensor_id"),
)
HOME_NAMES = (
    *("household", "household_id", "house_id", "home_id", "customer", "customer_id", "building_id", "bldg_id"),
    *("site_id", "user_id", "client_id"),
)
ID_NAMES = (*METER_NAMES, *HOME_NAMES)
TIME_NAMES = (
    *("timestamp", "time", "datetime", "date_time", "date_&_time", "date", "tstp", "utc", "time_utc", "utc_timestamp"),
    "stamp",
)
CLOCK_NAMES = ("time", "hour", "hour_of_day", "time_of_day")
VALUE_NAMES = (
    *("value", "values", "reading", "consumption", "usage", "load", "energy", "power", "demand"),
    *("kwh", "wh", "kw", "w", "kwh/h", "kwh/hh"),
)
_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


def plain_name(name: str) -> str:
    """Return a column name in lower case, its words joined by ``_``, without a bracket and all that follows."""
    return re.sub(r"[\s-]+", "_", re.split(r"[(\[]", name.lower())[0].strip())


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_stamp(kind: pa.DataType) -> bool:
    """Tell whether a column holds time stamps or dates."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a column holds numbers, or only nulls."""
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


def codes(column: pa.ChunkedArray, where: Location, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distinct labels (m,) of a column, and for each row (n,) the position of its label in them."""
    if column.null_count:
        labels(column, where, name)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    at, known = encoded.indices.to_numpy(), encoded.dictionary
    # Unused categories, such as those of a filtered table, are no labels.
    used = np.flatnonzero(np.bincount(at, minlength=len(known)))
    names = labels(pa.chunked_array([known.take(pa.array(used))]), where, name)
    ids, rank_of_used = np.unique(names.astype(str), return_inverse=True)
    rank = np.zeros(len(known), dtype=np.int64)
    rank[used] = rank_of_used
    return ids.astype(object), rank[at]


def numbers(column: pa.ChunkedArray, where: Location, name: str) -> np.ndarray:
    """Return a column of numbers (n,) as float32, nulls as NaN; `DataError` names the first text that is no number."""
    if is_text(column.type):
        column = column.cast(pa.string())
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            row = first_failure(column, pa.float64())
            text = column[row].as_py()
            comma = " with a decimal point" if _COMMA.fullmatch(text) else ""
            raise DataError(
                f"{where}: column {name!r} holds the text {text!r} in row {row + 1}; allowed: numbers{comma}, empty"
                " where missing"
            ) from None
    if not is_number(column.type):
        raise DataError(f"{where}: column {name!r} is {column.type}; allowed: numbers, empty where missing")
    with np.errstate(over="ignore"):
        return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)


def stamps(column: pa.ChunkedArray, where: object, name: str) -> np.ndarray:
    """Return a column of time stamps (n,) as datetime64[s], in UTC if zoned; `DataError` on a null or anything else."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0]) + 1
        raise DataError(f"{where}: column {name!r} has no time stamp in row {row}; every row needs one")
    row = 0
    if is_text(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
            try:
                column = column.cast(kind)
                break
            except pa.ArrowInvalid:
                row = max(row, first_failure(column, kind))
    if not is_stamp(column.type):
        raise DataError(
            f"{where}: column {name!r} holds {column[row].as_py()!r} in row {row + 1}; allowed: ISO 8601 time stamps"
            " such as 2013-01-01 00:30:00"
        )
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit))
    return column.to_numpy().astype("datetime64[s]")


def first_failure(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Return the position of the first value that cannot be cast to ``kind``; the column must have one."""
    good, bad = 0, len(column)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            column.slice(good, middle - good).cast(kind)
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good


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
    """Check ids and values, and return them as a set of series."""
    refuse_duplicates(ids, where)
    refuse_infinite(values, ids, where)
    return SeriesSet(ids, entities, starts.astype("datetime64[s]"), values, unit, step_seconds, attributes)
