"""Small tables of a run in Parquet: latents, groups, members, conditions. Two-dimensional columns become tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ttsgan.data.storage import Location, one_line
from ttsgan.errors import DataError


def write_table(where: Location, columns: Mapping[str, NDArray]) -> None:
    """Write columns of n rows as one Parquet file, completely or not at all.

    Parameters
    ----------
    where : Location
    columns : mapping of name to ndarray (n,) or (n, d)
        Numbers, booleans or text; (n, d) becomes an ``arrow.fixed_shape_tensor`` of shape [d].
    """
    arrays = {}
    for name, column in columns.items():
        if column.ndim == 2:
            arrays[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(column))
        elif column.dtype.kind in "OU":
            arrays[name] = pa.array([str(item) for item in column], pa.string())
        else:
            arrays[name] = pa.array(column)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    where.write_bytes(sink.getvalue())


def read_table(parts: Sequence[Location], names: Sequence[str]) -> dict[str, NDArray]:
    """Return the columns ``names`` of files that `write_table` wrote, concatenated in the order of ``parts``.

    Raises
    ------
    DataError
        A file is absent, damaged or lacks a column.
    """
    tables = []
    for part in parts:
        try:
            file = pq.ParquetFile(pa.BufferReader(part.read_bytes()))
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise DataError(f"{part} has no column {missing[0]!r}; run the stage that writes it again")
            tables.append(file.read(columns=list(names)))
        except pa.ArrowException as error:
            raise DataError(f"{part} cannot be read: {one_line(error)}; run the stage that writes it again") from error
    if not tables:
        raise DataError(f"there is no table with {', '.join(names)}; run the stage that writes it")
    whole = pa.concat_tables(tables)
    out = {}
    for name in names:
        column = whole[name].combine_chunks()
        if isinstance(column, pa.FixedShapeTensorArray):
            out[name] = column.to_numpy_ndarray()
        else:
            out[name] = (
                np.array(column.to_pylist(), object)
                if pa.types.is_string(column.type)
                else column.to_numpy(zero_copy_only=False)
            )
    return out
