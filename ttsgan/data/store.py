"""The series of a run in Parquet: one row per series, with ``values`` as one tensor.

Axis letters: n series, C channels, L time steps. Missing values are NaN.

``values`` is written as Arrow's ``arrow.fixed_shape_tensor`` of shape [L] (one channel) or [C, L]; lists of one length
are read too. The schema metadata holds ``unit``, ``step_seconds``, ``channels`` and, if there is one, a ``note``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ttsgan.data.series_set import SeriesSet, concatenate, refuse_duplicates, refuse_infinite, refuse_untold_entities
from ttsgan.data.storage import Location, one_line
from ttsgan.errors import DataError

CONTRACT = ("id", "synthetic_id", "entity", "start", "values")
"""Columns of the contract, the agreed Parquet layout of series."""
ID_COLUMNS = ("id", "synthetic_id")
"""Names of the column that identifies a series: for real series, and for synthetic ones."""


def series_metadata(unit: str, step_seconds: int, channels: int, note: str = "") -> dict[str, str]:
    """Return the schema metadata of the contract."""
    metadata = {"unit": unit, "step_seconds": str(step_seconds), "channels": str(channels)}
    return metadata | ({"note": note} if note else {})


def table_of(columns: Mapping[str, Any], values: np.ndarray, metadata: Mapping[str, str]) -> pa.Table:
    """Return one Arrow table of series: the columns, then ``values`` as a float32 tensor of shape [L] or [C, L].

    Parameters
    ----------
    columns : mapping of name to array of n values
        ``id`` or ``synthetic_id``, ``start`` (datetime64) and whatever else belongs to a series.
    values : ndarray of shape (n, C, L), float32
    metadata : mapping of str to str
        From `series_metadata`.
    """
    _, channels, length = values.shape
    arrays = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray) and column.dtype.kind == "M":
            column = pa.array(column.astype("datetime64[us]"))
        elif isinstance(column, np.ndarray) and column.dtype.kind in "OU":
            column = pa.array(column.tolist(), pa.string())
        arrays[name] = column if isinstance(column, pa.ChunkedArray) else pa.array(column)
    types = [(name, array.type) for name, array in arrays.items()]
    tensor = pa.fixed_shape_tensor(pa.float32(), [length] if channels == 1 else [channels, length])
    schema = pa.schema([*types, ("values", tensor)], metadata=dict(metadata))
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, channels * length)
    tensor = pa.ExtensionArray.from_storage(schema.field("values").type, storage)
    return pa.Table.from_arrays([*arrays.values(), tensor], schema=schema)


def write_part(where: Location, columns: Mapping[str, Any], values: np.ndarray, metadata: Mapping[str, str]) -> None:
    """Write one Parquet file of series, completely or not at all; the arguments are those of `table_of`."""
    table = table_of(columns, values, metadata)
    sink = pa.BufferOutputStream()
    # zstd is as fast as no compression here and saves a tenth to a quarter; dictionary encoding pays only for labels.
    labels = [name for name in table.column_names if name != "values"]
    pq.write_table(table, sink, compression="zstd", use_dictionary=labels, row_group_size=max(len(values), 1))
    where.write_bytes(sink.getvalue())


def write_store(series: SeriesSet, where: Location, rows_per_part: int = 512) -> None:
    """Write the set as a folder of ``part-00000.parquet``, ...; an existing store there is replaced as a whole."""
    metadata = series_metadata(series.unit, series.step_seconds, series.channels, series.note)
    with where.replace_dir() as folder:
        for part, at in enumerate(range(0, len(series), rows_per_part)):
            rows = slice(at, at + rows_per_part)
            columns = {"id": series.ids[rows], "entity": series.entities[rows], "start": series.starts[rows]}
            if series.attributes is not None:
                piece = series.attributes.slice(at, rows_per_part)
                columns |= {name: piece[name] for name in piece.column_names if name not in columns}
            write_part(folder / f"part-{part:05d}.parquet", columns, series.values[rows], metadata)


def files_of(where: Location) -> list[Location]:
    """Return the parts of a folder in order, or the one file that ``where`` is.

    Raises
    ------
    DataError
        A folder without parts.
    """
    files = where.list(".parquet") if where.is_dir() else [where]
    if not files:
        raise DataError(f"{where} is a folder without a .parquet file; name a file, or a folder of parts")
    return files


def read_store(where: Location) -> SeriesSet:
    """Read a Parquet file, or a folder of such files, in the layout of the contract, and check it.

    What the files lack stays unknown (unit "", step 0, start NaT) until `ttsgan.data.prepare.fill_unknown`.

    Raises
    ------
    DataError
        No file, an empty file or one of another format, no ``values``, unequal lengths, text, infinities, duplicate or
        missing ids, or files that do not agree. The message names file and series.
    """
    parts = {str(file): part for file in files_of(where) if len(part := _read_file(file))}
    if not parts:
        raise DataError(f"{where} is empty: it has zero rows; one row for each series is needed")
    refuse_untold_entities(parts, where)
    series = concatenate(list(parts.values()), list(parts))
    refuse_duplicates(series.ids, where)
    return series


def open_parquet(where: Location) -> pq.ParquetFile:
    """Open a Parquet file; `DataError` if it is absent, empty or not Parquet."""
    if where.size() == 0:
        raise DataError(f"{where} is empty (0 bytes); a Parquet file with one row for each series is needed")
    try:
        return pq.ParquetFile(where.open_input(), pre_buffer=not where.is_local)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{where} cannot be read as Parquet: {one_line(error)}; it was cut short or is another format"
        ) from error


def without_views(table: pa.Table) -> pa.Table:
    """Return the table with ``string_view`` columns as strings, because Arrow cannot yet take rows of such columns."""
    for at, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
    return table


def labels(column: pa.ChunkedArray, where: object, name: str) -> np.ndarray:
    """Return a column of text or integers as text (n,) object; `DataError` on a null or another type."""
    if not len(column):
        return np.empty(0, dtype=object)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{where}: column {name!r} is {kind}; allowed: text or whole numbers")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0]) + 1
        raise DataError(f"{where}: column {name!r} is null in row {row}; every row needs a value there")
    return np.array(column.cast(kind).cast(pa.string()).to_pylist(), dtype=object)


def _refuse_lengths(where: object, one: str, length: int, other: str, length_there: int) -> None:
    raise DataError(
        f"{where}: `values` have unequal lengths: {length} in {one!r}, {length_there} in {other!r}; cut all series to"
        " one length, or fill up with NaN"
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _block(chunk: pa.Array, ids: np.ndarray, where: object) -> np.ndarray:
    """Return rows of tensors or of (nested) lists as float32 of shape (n, L) or (n, C, L)."""
    tensor = chunk.type if isinstance(chunk.type, pa.FixedShapeTensorType) else None
    if tensor is not None:
        if tensor.permutation is not None and list(tensor.permutation) != sorted(tensor.permutation):
            raise DataError(f"{where}: `values` has permuted axes; allowed: tensors stored as [L] or [C, L]")
        chunk = chunk.storage
    shape = [len(chunk)]
    while _is_list(chunk.type):
        per_row = len(chunk) // shape[0]
        sizes = pc.fill_null(pc.list_value_length(chunk), -1).to_numpy(zero_copy_only=False)
        if chunk.null_count:
            row = int(np.argmin(sizes)) // per_row
            raise DataError(f"{where}: `values` of {ids[row]!r} is null; allowed: numbers, NaN where missing")
        if (sizes != sizes[0]).any():
            at = int(np.argmax(sizes != sizes[0]))
            _refuse_lengths(where, ids[0], sizes[0], ids[at // per_row], sizes[at])
        if sizes[0] == 0:
            raise DataError(f"{where}: `values` of {ids[0]!r} is an empty list; at least one number is needed")
        shape.append(int(sizes[0]))
        chunk = chunk.flatten()
    if len(shape) == 1 or not (pa.types.is_floating(chunk.type) or pa.types.is_integer(chunk.type)):
        found = f"{chunk.type}, such as {chunk[0].as_py()!r} in {ids[0]!r}"
        raise DataError(f"{where}: `values` holds {found}; allowed: one tensor or list of numbers in each row")
    with np.errstate(over="ignore"):
        flat = chunk.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    block = flat.reshape(shape if tensor is None else (shape[0], *tensor.shape))
    refuse_infinite(block, ids, where)
    return block


def _count(metadata: Mapping[str, str], name: str, where: object) -> int:
    """Return an integer from the schema metadata, 0 if it is absent; `DataError` for other text."""
    text = metadata.get(name, "0")
    if not text.isdecimal():
        raise DataError(f"{where}: the schema metadata {name} is {text!r}; allowed: a whole number above 0")
    return int(text)


def _read_file(where: Location) -> SeriesSet:
    """Read one Parquet file in the layout of the contract, row group by row group; missing properties stay unknown."""
    file = open_parquet(where)
    names = file.schema_arrow.names
    # Names match in any case; an all-lower-case name, as in the contract, wins.
    own = {name.lower(): name for name in sorted(names, key=str.islower) if name.lower() in CONTRACT}
    # Other programs may write metadata that is not text.
    told = (file.schema_arrow.metadata or {}).items()
    metadata = {key.decode(errors="replace"): text.decode(errors="backslashreplace") for key, text in told}
    id_column = next((own[name] for name in ID_COLUMNS if name in own), None)
    if "values" not in own or id_column is None:
        missing = "values" if "values" not in own else "id"
        raise DataError(
            f"{where} has no `{missing}` column; its columns: {one_line(', '.join(names), 160)}; needed: id (text) and"
            " values (one tensor or list of numbers in each row)"
        )
    try:
        rest = without_views(file.read(columns=[name for name in names if name != own["values"]]))
        ids = labels(rest[id_column], where, id_column)
        entities = labels(rest[own["entity"]], where, own["entity"]) if "entity" in own else ids
        starts = np.full(len(ids), "NaT", dtype="datetime64[s]")
        if "start" in own:
            column = rest[own["start"]]
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                raise DataError(f"{where}: column 'start' is {column.type}; allowed: time stamps, or no column")
            starts = column.cast(pa.timestamp("us"), safe=False).to_numpy().astype("datetime64[s]")
        blocks = []
        for group in range(file.num_row_groups):
            for chunk in file.read_row_group(group, columns=[own["values"]])[own["values"]].chunks:
                at = sum(map(len, blocks))
                if len(chunk):
                    blocks.append(_block(chunk, ids[at : at + len(chunk)], where))
                    if blocks[-1].shape[1:] != blocks[0].shape[1:]:
                        _refuse_lengths(where, ids[0], blocks[0].shape[-1], ids[at], blocks[-1].shape[-1])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} cannot be read: {one_line(error)}") from error
    values = np.concatenate(blocks) if blocks else np.empty((0, 1, 0), np.float32)
    channels = _count(metadata, "channels", where) or (1 if values.ndim == 2 else values.shape[1])
    if values.ndim > 3 or (values.ndim == 3 and values.shape[1] != channels) or values[:1].size % channels:
        raise DataError(f"{where}: `values` has shape {values.shape[1:]} but the metadata say {channels} channels")
    known = {id_column, *(own.get(name) for name in ("entity", "start", "values"))}
    others = [name for name in names if name not in known]
    return SeriesSet(
        ids=ids,
        entities=entities,
        starts=starts,
        values=values.reshape(len(ids), channels, -1 if len(ids) else 0),
        unit=metadata.get("unit", ""),
        step_seconds=_count(metadata, "step_seconds", where),
        attributes=rest.select(others).replace_schema_metadata(None) if others else None,
        note=metadata.get("note", ""),
    )
