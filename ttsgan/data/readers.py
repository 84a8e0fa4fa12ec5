"""Readers of series from files: Parquet in the layout of `ttsgan.data.store`, CSV or Parquet tables, .npy arrays.

The layouts of tables are those of `ttsgan.data.layouts`. Missing values are NaN.
"""

import csv
import io
import logging
import re
from collections import Counter
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ttsgan.data.columns import ID_NAMES, TIME_NAMES, VALUE_NAMES, is_stamp, plain_name, series_set
from ttsgan.data.grid import Period
from ttsgan.data.layouts import series_of
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import open_parquet, read_store, without_views
from ttsgan.data.units import named_unit
from ttsgan.errors import DataError

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".csv.gz", ".tsv", ".tsv.gz")
TEXT = (".txt", ".txt.gz")
"""Read as CSV if named by the user, and in a folder without other tables."""
SUFFIXES = (*PARQUET, *CSV, *TEXT, ".npy")
_NULLS = ["", "NULL", "Null", "null", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "-NaN", "None", "none"]
BESIDE = 4
"""Largest number of columns of a one-meter file beside stamps and values; with more, each column is a series, and the
one named like a value is a total."""
_DAY_FIRST = tuple(f"%d.%m.%{year}{clock}" for year in "yY" for clock in (" %H:%M", " %H:%M:%S", ""))
"""Dates with full stops have the day first in all countries; two-digit years are tried first."""
_ROW_NUMBERS = re.compile(r"|Unnamed: 0|__index_level_\d+__")
"""Names of row-number columns (index columns) written by pandas."""
_THOUSANDS, _BELOW_THOUSAND = r"[-+]?[1-9]\d{0,2}(?:[%s]\d{3})+", r"[1-9]\d{0,2}"
_MANY = 20
"""Smallest number of lines from which the meaning of a mark in numbers, decimal or thousands, is inferred."""
_YEARS = (2190, 2196, 8760, 8784, 17_520, 17_568, 35_040, 35_136)
"""Numbers of 4-hour, hourly, half-hourly and quarter-hourly steps in a year, common or leap."""
_FEW = 3
"""Smallest count of numbers with a mark that shows it to be a thousands mark, if it separates thousands in all of them
and numbers below a thousand have no mark."""
_STAMP = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4} ")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,]*\s*")
_DATED = re.compile(r"([-_ .]?(19|20)\d\d([-_]?\d\d){0,2}|[-_ .](w|week)[-_ ]?\d\d)$", re.IGNORECASE)
"""A date, year, quarter or week at the end of a file's name."""

logger = logging.getLogger(__name__)


def read_series(
    where: Location, step_seconds: int = 0, entity: str = "entity", period: Period | None = None
) -> SeriesSet:
    """Read one file, or the files of a folder, as a set of series.

    In a folder, the Parquet or the CSV files are read; both kinds are an error. A warning names other files. Tables are
    concatenated by rows, so that a file may hold some of the households or some of the months. If a table has time
    stamps and a column named like a value, such as ``kWh``, but no ids, each file is one meter, whose id is the name of
    the file.

    Parameters
    ----------
    where : Location
        A file with one of `SUFFIXES`, or a folder.
    step_seconds : int
        Step of long and wide-by-time tables, in seconds; 0: the most frequent spacing of their stamps.
    entity : str
        Column of a long table that names the entity to protect; the same in all rows of an id.
    period : tuple of datetime64, optional
        Span to read from long and wide-by-time tables: the first moment, and the first moment after it.

    Returns
    -------
    SeriesSet
        What the source does not give stays unknown: unit "" (a value column may name it), step 0, start NaT.

    Raises
    ------
    DataError
        An absent or empty file, another suffix, columns that are not recognised or differ from those of the first file,
        text or infinities among the values, duplicate ids or stamps, stamps off the grid, unequal lengths.
    """
    if not where.exists():
        raise DataError(f"{where} does not exist; check the path")
    files, left = files_of_source(where)
    if left:
        logger.warning("%s: %d of its files read; not read: %s", where, len(files), one_line(", ".join(left), 160))
    for file in files:
        if file.size() == 0:
            raise DataError(f"{file} is empty (0 bytes); a file of series is needed")
    if _ends(files[0], (".npy",)):
        return _read_npy(where)
    if _ends(files[0], PARQUET) and _in_contract(files[0]):
        return read_store(where)
    return series_of(_joined(files, where, entity), where, step_seconds, entity, period)


def _ends(where: Location, suffixes: tuple[str, ...]) -> bool:
    return where.name.lower().endswith(suffixes)


def files_of_source(where: Location) -> tuple[list[Location], list[str]]:
    """Return the files to read, of a folder or ``where`` itself, and the names of the files that are left out.

    Raises
    ------
    DataError
        A folder has no such file or has tables of two kinds, or a file has an unknown suffix.
    """
    if where.is_dir():
        held = [file for file in where.list() if not file.name.startswith("_")]
        kinds = [[file for file in held if _ends(file, suffixes)] for suffixes in (PARQUET, CSV, TEXT)]
        files = next((found for found in kinds if found), [])
        inner = [file for file in held if file not in files and file.is_dir()]
        if not files:
            deeper = f" (folders in it, such as {inner[0].name!r}, are not read)" if inner else ""
            raise DataError(
                f"{where} is a folder without a .parquet file, or any .csv file{deeper}; name a file or another folder"
            )
        if kinds[0] and kinds[1]:
            raise DataError(
                f"{where} has tables of two kinds, such as {kinds[0][0].name!r} and {kinds[1][0].name!r}: name them one"
                " by one, or put each kind in a folder of its own"
            )
        return files, [file.name for file in held if file not in files]
    if not _ends(where, SUFFIXES):
        raise DataError(f"{where} has an unknown suffix; allowed: {', '.join(SUFFIXES)}, or a folder of such files")
    return [where], []


def _in_contract(where: Location) -> bool:
    """Return whether a Parquet file has the layout of the contract: one row per series, with its values in a list."""
    kinds = {field.name: field.type for field in open_parquet(where).schema_arrow}
    nested = any(pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) for kind in kinds.values())
    stamped = any(plain_name(name) in TIME_NAMES or is_stamp(kind) for name, kind in kinds.items() if name != "start")
    return nested or ("values" in map(str.lower, kinds) and not stamped)


def _joined(files: list[Location], where: Location, entity: str) -> pa.Table:
    """Return the tables of files with the same columns, concatenated by rows."""
    tables = [_read_parquet(file) if _ends(file, PARQUET) else _read_csv(file, entity) for file in files]
    tables = [_without_row_numbers(table) for table in tables]
    if _is_one_meter(tables[0].column_names, entity):
        _refuse_parts_of_meters([_stem(file) for file in files], where)
        tables = [
            table.add_column(0, "id", pa.array(np.full(len(table), _stem(file)), pa.string()))
            for file, table in zip(files, tables, strict=True)
        ]
    names = tables[0].column_names
    for file, table in zip(files, tables, strict=True):
        if other := set(names).symmetric_difference(table.column_names):
            raise DataError(
                f"{file}: its columns are not those of {files[0]} ({one_line(', '.join(sorted(other)), 120)} in one"
                " alone); tables of a folder are put one below the other: name files of other columns by themselves"
            )
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{where}: the columns of its files are of several kinds: {one_line(error)}") from error
    if table.num_rows == 0:
        raise DataError(f"{where} is empty: it has a header and no rows; one row or more is needed")
    return table


def _without_row_numbers(table: pa.Table) -> pa.Table:
    """Return the table without row numbers written by pandas, which would be read as a series."""
    for name in filter(_ROW_NUMBERS.fullmatch, table.column_names):
        column = table[name]
        whole = pa.types.is_integer(column.type) and not column.null_count and table.num_columns > 1
        if whole and (np.diff(column.to_numpy()) > 0).all():
            table = table.drop_columns([name])
    return table


def _is_one_meter(names: list[str], entity: str) -> bool:
    """Tell whether columns, by their names, are time stamps and one column of values, without ids, and few others."""
    plain = [plain_name(name) for name in names]
    values = [name for name, short in zip(names, plain, strict=True) if short in VALUE_NAMES or named_unit(name)]
    named = len(values) == 1 and bool({*TIME_NAMES} & {*plain})
    return named and not {*ID_NAMES, "entity", plain_name(entity)} & {*plain} and len(names) <= 2 + BESIDE


def _refuse_parts_of_meters(stems: list[str], where: Location) -> None:
    """Refuse one-meter files whose names differ only in a date: they seem to be parts of the same meter's time."""
    if not all(_DATED.search(stem) for stem in stems):  # of numbers of meters some look like years
        return
    bare = [_DATED.sub("", stem) for stem in stems]
    same = [stem for stem, name in zip(stems, bare, strict=True) if name and bare.count(name) > 1]
    if same:
        raise DataError(
            f"{where}: {same[0]!r} and {same[1]!r} seem to be times of one meter, and would be taken for two; put all"
            " of a meter into one file, or give the tables a column 'id'"
        )


def _stem(file: Location) -> str:
    """Return the name of a file without its suffix."""
    return file.name[: -len(next(suffix for suffix in sorted(SUFFIXES, key=len)[::-1] if _ends(file, (suffix,))))]


def _read_parquet(where: Location) -> pa.Table:
    try:
        return without_views(open_parquet(where).read())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} cannot be read: {one_line(error)}; it was cut short") from error


def _read_npy(where: Location) -> SeriesSet:
    try:
        values = np.load(io.BytesIO(where.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{where} cannot be read as .npy: {one_line(error)}") from error
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3) or values.size == 0:
        raise DataError(
            f"{where} is an array of shape {values.shape}, {values.dtype}; allowed: numbers of shape (series, steps) or"
            " (series, channels, steps), none of them 0"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32).reshape(len(values), -1, values.shape[-1])
    if values.shape[2] == 1:
        raise DataError(f"{where} has series of 1 step, shape {values.shape}; its axes are (series, channels, steps)")
    if len(values) in _YEARS and values.shape[2] not in _YEARS:
        logger.warning("%s: taken for %d series of %d steps; if it is %d steps of %d series, transpose it",
                       where, len(values), values.shape[2], len(values), values.shape[2])  # fmt: skip
    ids = np.array([f"{_stem(where)}-{row:06d}" for row in range(len(values))], dtype=object)
    return series_set(where, ids, ids, np.full(len(ids), "NaT", dtype="datetime64[s]"), values)


def _read_csv(where: Location, entity: str) -> pa.Table:
    """Return a CSV file (comma, semicolon, tab or bar; perhaps gzipped) with ids as text and other types inferred.

    Commas that do not separate columns may be decimal commas.
    """
    try:
        with where.filesystem.open_input_stream(where.path, compression="detect") as stream:
            head = b""
            while b"\n" not in head and (more := stream.read(1 << 20)):
                head += more
        header = head.split(b"\n", 1)[0].decode("utf-8-sig").strip("\r")
        delimiter = max(",;\t|", key=header.count)
        parted = re.escape(delimiter)
        points, commas = (len(re.findall(rf"{parted}\"?-?\d+{mark}\d+\"?(?=[{parted}\r\n])".encode(), head))
                          for mark in ("[.]", ","))  # fmt: skip
        names = next(csv.reader([header], delimiter=delimiter), [])
        _refuse_no_header(names, where)
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise DataError(f"{where}: the header has duplicate ids or columns: {twice[0]!r}; each needs its own name")
        decimal = "," if delimiter != "," and commas > points else "."
        _refuse_thousands(head, delimiter, decimal, where)
        as_text = (*ID_NAMES, "entity", plain_name(entity))
        text = {name: pa.string() for name in names if plain_name(name) in as_text}
        with where.filesystem.open_input_stream(where.path, compression="detect") as stream:
            return pacsv.read_csv(
                stream,
                read_options=pacsv.ReadOptions(block_size=max(1 << 23, 4 * len(header))),
                parse_options=pacsv.ParseOptions(delimiter=delimiter),
                convert_options=pacsv.ConvertOptions(
                    column_types=text,
                    null_values=_NULLS,
                    timestamp_parsers=[pacsv.ISO8601, *_DAY_FIRST],
                    decimal_point=decimal,
                    strings_can_be_null=True,
                    auto_dict_encode=True,
                    auto_dict_max_cardinality=1 << 20,
                ),
            )
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(
            f"{where} cannot be read as CSV: {one_line(error)}; allowed: UTF-8 with one header line"
        ) from error


def _refuse_no_header(names: list[str], where: Location) -> None:
    """Refuse a first line that is no header: its time stamp or decimal numbers would become column names."""
    stamps = [bool(_STAMP.match(name)) for name in names]
    numbers = [float(name) for name in names[1:] if _DECIMAL.fullmatch(name)]
    of_values = 2 * len(numbers) > len(names) and numbers != sorted(numbers)
    if len(names) > 1 and (of_values or (stamps[0] and not stamps[1])):
        raise DataError(f"{where} has no header line: it begins with {one_line(', '.join(names), 60)}; write one")


def _refuse_thousands(head: bytes, delimiter: str, decimal: str, where: Location) -> None:
    """Refuse a column in which the assumed decimal mark separates thousands: 1.560 beside 231."""
    lines = head.decode("utf-8-sig", errors="replace").splitlines()[: 50 * _MANY]
    if len(lines) < _MANY:
        return
    try:
        # The last line may be cut short.
        names, *rows = csv.reader(lines[:-1], delimiter=delimiter)
    except csv.Error:
        # The reader of the whole file reports the error.
        return
    parted, small = re.compile(_THOUSANDS % decimal), re.compile(_BELOW_THOUSAND)
    columns = dict(zip(names, zip_longest(*rows, fillvalue=""), strict=False))
    numeric = [name for name, cells in columns.items() if all(_NUMBER.fullmatch(c) for c in cells if c.strip())]
    # Many in one column are enough; a few, if no number of any column has another mark.
    for least, names in (*((_MANY, [name]) for name in columns), (_FEW, numeric)):
        marked = {name: [cell for cell in columns[name] if decimal in cell] for name in names}
        marked = {name: cells for name, cells in marked.items() if cells}
        cells = [cell for of_column in marked.values() for cell in of_column]
        plain = any(small.fullmatch(cell) for name in marked for cell in columns[name])
        if len(cells) >= least and plain and all(map(parted.fullmatch, cells)):
            raise DataError(
                f"{where}: column {next(iter(marked))!r} seems to part thousands by {decimal!r}, as in {cells[0]!r};"
                " write numbers without such marks"
            )
