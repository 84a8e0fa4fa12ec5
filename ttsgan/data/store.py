"""The series of a run in memory (`SeriesSet`) and in Parquet: one row per series, with ``values`` as one tensor.

Axis letters: n series, C channels, L time steps. Missing values are NaN.

``values`` is written as Arrow's ``arrow.fixed_shape_tensor`` of shape [L] (one channel) or [C, L]; lists of one length
are read too. The schema metadata holds ``unit``, ``step_seconds``, ``channels`` and, if there is one, a ``note``.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ttsgan.data.storage import Location, one_line
from ttsgan.errors import DataError

CONTRACT = ("id", "synthetic_id", "entity", "start", "values")
"""Columns of the contract, the agreed Parquet layout of series."""
ID_COLUMNS = ("id", "synthetic_id")
"""Names of the column that identifies a series: for real series, and for synthetic ones."""


@dataclass(frozen=True)
class SeriesSet:
    """A set of series of one length, step and unit.

    Attributes
    ----------
    ids, entities : ndarray of shape (n,), object
        Text; ids are unique, an entity may own several series. Both are the same array if the source has no entities.
    starts : ndarray of shape (n,), datetime64[s]
        Time stamp of the first value; NaT if the source has none.
    values : ndarray of shape (n, C, L), float32, in ``unit``
        NaN where missing.
    unit : str
        Empty if the source has none.
    step_seconds : int
        Seconds from one value to the next; 0 if the source has none.
    attributes : pyarrow.Table or None
        The other columns of the source, n rows.
    note : str
        What every user of the data must know, such as ``simulated``.
    """

    ids: np.ndarray
    entities: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    unit: str
    step_seconds: int
    attributes: pa.Table | None = None
    note: str = ""

    def __post_init__(self) -> None:
        assert self.values.ndim == 3, self.values.shape
        assert self.values.dtype == np.float32, self.values.dtype
        assert self.starts.dtype == np.dtype("datetime64[s]"), self.starts.dtype
        assert len(self.ids) == len(self.entities) == len(self.starts) == len(self.values)
        assert self.attributes is None or self.attributes.num_rows == len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.values.shape[1]

    @property
    def length(self) -> int:
        """Number of time steps L."""
        return self.values.shape[2]

    @property
    def tells_entities(self) -> bool:
        """Whether the source has entities; otherwise each series is its own entity."""
        return self.entities is not self.ids

    def subset(self, index: np.ndarray) -> "SeriesSet":
        """Return the series selected by a mask (n,) bool or by positions (m,) int, in that order."""
        index = np.asarray(index)
        rows = np.flatnonzero(index) if index.dtype == bool else index
        ids = self.ids[rows]
        return dataclasses.replace(
            self,
            ids=ids,
            entities=self.entities[rows] if self.tells_entities else ids,
            starts=self.starts[rows],
            values=self.values[rows],
            attributes=None if self.attributes is None else self.attributes.take(pa.array(rows)),
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of ids, entities, starts, values, unit and step; attributes do not count.

        The same data in the same order of series give the same hash, whatever file they came from.
        """
        blocks = (self.values[at : at + 256] for at in range(0, len(self), 256))
        return fingerprint(self, self.ids, self.entities, self.starts, blocks)


def fingerprint(
    like: SeriesSet, ids: np.ndarray, entities: np.ndarray, starts: np.ndarray, blocks: Iterable[np.ndarray]
) -> str:
    """Return the `SeriesSet.fingerprint` of a set like ``like`` but with these labels (n,) and blocks (., C, L)."""
    labels = [list(map(str, ids)), list(map(str, entities)), starts.astype(str).tolist()]
    head = [like.unit, like.step_seconds, (len(ids), *like.values.shape[1:]), labels]
    digest = hashlib.sha256(json.dumps(head).encode())
    for block in blocks:
        # NaN has many bit patterns; all of them mean missing, so one replaces them all.
        digest.update(np.where(np.isnan(block), np.float32(np.nan), block).astype("<f4").tobytes())
    return digest.hexdigest()


def series_metadata(unit: str, step_seconds: int, channels: int, note: str = "") -> dict[str, str]:
    """Return the schema metadata of the contract."""
    metadata = {"unit": unit, "step_seconds": str(step_seconds), "channels": str(channels)}
    return metadata | ({"note": note} if note else {})


def series_schema(
    length: int, channels: int, unit: str, step_seconds: int, extra_columns: Sequence[tuple[str, pa.DataType]]
) -> pa.Schema:
    """Return the Parquet schema: the extra columns, then ``values`` as a float32 tensor of shape [L] or [C, L]."""
    tensor = pa.fixed_shape_tensor(pa.float32(), [length] if channels == 1 else [channels, length])
    metadata = series_metadata(unit, step_seconds, channels)
    return pa.schema([*extra_columns, ("values", tensor)], metadata=metadata)


def table_of(columns: Mapping[str, Any], values: np.ndarray, metadata: Mapping[str, str]) -> pa.Table:
    """Return one Arrow table of series.

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
    schema = series_schema(length, channels, metadata["unit"], int(metadata["step_seconds"]), types)
    schema = schema.with_metadata(dict(metadata))
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


def refuse_untold_entities(parts: Mapping[str, SeriesSet], where: object) -> None:
    """Raise `DataError` if one part of ``where`` has no entities and another part has some."""
    without = [name for name, part in parts.items() if not part.tells_entities]
    if without and any((part.entities != part.ids).any() for part in parts.values()):
        raise DataError(
            f"{without[0]} has no `entity` column, and other files of {where} have one: each of its series would be"
            " protected by itself, and not whom they belong to; write the column into all files"
        )


def concatenate(parts: Sequence[SeriesSet], names: Sequence[str]) -> SeriesSet:
    """Join sets of one length, step, unit and number of channels; attributes that all of them have are kept.

    Raises
    ------
    DataError
        Two parts differ; the message names both by ``names``.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part, name in zip(parts[1:], names[1:], strict=True):
        for what in ("length", "step_seconds", "unit", "channels"):
            ours, theirs = getattr(first, what), getattr(part, what)
            if ours != theirs:
                raise DataError(
                    f"{name}: {what} is {theirs!r}, but {ours!r} in {names[0]}; all sources need the same {what}"
                )
    tables = [part.attributes for part in parts]
    attributes = None
    if all(table is not None for table in tables):
        shared = [
            field.name
            for field in tables[0].schema
            if all(field.name in table.column_names and table.field(field.name).type == field.type for table in tables)
        ]
        attributes = pa.concat_tables([table.select(shared) for table in tables]) if shared else None
    ids = np.concatenate([part.ids for part in parts])
    told = any(part.tells_entities for part in parts)
    return dataclasses.replace(
        first,
        ids=ids,
        entities=np.concatenate([part.entities for part in parts]) if told else ids,
        starts=np.concatenate([part.starts for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        attributes=attributes,
        # A note on some series does not hold for all: a mixture of simulated and real series is not simulated.
        note=first.note if all(part.note == first.note for part in parts) else "",
    )


def refuse_duplicates(ids: np.ndarray, where: object) -> None:
    """Raise `DataError` if an id occurs more than once."""
    unique, counts = np.unique(ids.astype(str), return_counts=True)
    twice = unique[counts > 1].tolist()
    if twice:
        raise DataError(
            f"{where}: duplicate ids: {twice[0]!r} occurs more than once ({len(twice)} such"
            " id(s)); each series needs its own id"
        )


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


def refuse_infinite(values: np.ndarray, ids: np.ndarray, where: object) -> None:
    """Raise `DataError` if values of shape (n, ...) contain an infinity; NaN is allowed."""
    wrong = np.isinf(values).reshape(len(values), -1)
    if wrong.any():
        row, at = np.argwhere(wrong)[0]
        raise DataError(
            f"{where}: `values` of {ids[row]!r} is {values[row].flat[at]} at position {at + 1}; allowed: finite float32"
            " numbers, NaN where missing"
        )


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
