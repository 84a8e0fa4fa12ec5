"""Work of the judges on many machines: one Ray task for each part; blocks of a large set are read where it runs.

Axis letters: n series, C channels, L time steps.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError
from threadpoolctl import threadpool_limits

from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import ID_COLUMNS, labels, open_parquet
from ttsgan.errors import DataError, TtsganError
from ttsgan.evaluation.blocks import Loader
from ttsgan.evaluation.judged import Judged

MAX_RETRIES = 8
"""Times a part is worked on again when the worker or its machine is lost."""
IN_FLIGHT_PER_CPU = 2
BATCH_ROWS = 256
"""Series of a row group that are decoded at a time."""

Piece = tuple[Location, int, int]
"""Rows begin to end of a Parquet file."""


class RaySpread:
    """A `ttsgan.evaluation.blocks.Spread` over the CPUs of the Ray that this process has started or joined.

    A task has one CPU and one thread. At most two tasks per CPU are under way or finished and not yet taken, so that a
    slow consumer holds few results.
    """

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Yield ``function(shared, item)`` of every item, in the order of the items.

        Parameters
        ----------
        function : callable
            Picklable; runs in the workers, where arrays of ``shared`` are read-only.
        shared : object
            Sent once to each machine, however many items there are.
        items : sequence
            Picklable, and small: each goes with its task.

        Raises
        ------
        TtsganError
            What the function raises; other errors come as Ray's ``RayTaskError``. Neither is tried again; a task whose
            worker dies is, up to `MAX_RETRIES` times.
        """
        sent, waiting, begun = ray.put(shared), deque(), 0
        try:
            while begun < len(items) or waiting:
                # Asked each time: an autoscaler brings machines because tasks wait for them.
                room = IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while begun < len(items) and len(waiting) < room:
                    waiting.append(_work.remote(function, sent, items[begun]))
                    begun += 1
                yield _result(waiting.popleft())
        finally:
            for task in waiting:
                ray.cancel(task)


@ray.remote(num_cpus=1, max_retries=MAX_RETRIES)
def _work(function: Callable[[Any, Any], Any], shared: Any, item: Any) -> Any:
    with threadpool_limits(1):
        return function(shared, item)


def _result(task: ray.ObjectRef) -> Any:
    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, TtsganError):
            raise error.cause from None
        raise


def parquet_loaders(folder: Location, rows_per_block: int) -> tuple[Loader, ...]:
    """Cut a store of Parquet parts in blocks, by what the ends of the files say; no series is read.

    Parameters
    ----------
    folder : Location
        Written by `ttsgan.data.store`: parts with ``id`` or ``synthetic_id``, ``start`` and ``values``. Every machine
        must reach it.
    rows_per_block : int
        Series of each block but the last, >= 1. A block may span parts, and a part blocks.

    Returns
    -------
    tuple of callable
        Each reads its block as `Judged`; all together are the parts one after the other, in the order of their names.

    Raises
    ------
    DataError
        No part, no series, a part that is not such a store's, or parts of unequal shape, step or unit.
    """
    pieces: list[Piece] = []
    first: dict[str, Any] = {}
    for part in folder.list(".parquet"):
        with open_parquet(part) as file:
            found, rows = _describe(file.schema_arrow, part), file.metadata.num_rows
        first = first or found
        for what, value in found.items():
            if value != first[what]:
                raise DataError(
                    f"{part}: {what} is {value!r}, but {first[what]!r} in the parts before; write the store again"
                )
        pieces += [(part, 0, rows)] if rows else []
    if not pieces:
        raise DataError(f"{folder} holds no series; a folder of Parquet parts, one row for each series, is needed")
    return tuple(partial(read_block, block) for block in _cut(pieces, rows_per_block))


def _cut(pieces: Sequence[Piece], rows_per_block: int) -> list[tuple[Piece, ...]]:
    """Regroup pieces in blocks of equal numbers of rows, in their order."""
    blocks: list[tuple[Piece, ...]] = []
    block: list[Piece] = []
    free = rows_per_block
    for part, begin, end in pieces:
        while begin < end:
            taken = min(free, end - begin)
            block.append((part, begin, begin + taken))
            begin, free = begin + taken, free - taken
            if not free:
                blocks.append(tuple(block))
                block, free = [], rows_per_block
    return [*blocks, tuple(block)] if block else blocks


def _describe(schema: pa.Schema, part: Location) -> dict[str, Any]:
    """Return shape (C, L), step and unit of a part; `DataError` when it does not tell, or lacks a column."""
    if not any(name in schema.names for name in ID_COLUMNS):
        raise DataError(f"{part} has no column `id` or `synthetic_id`; write the store again")
    for name in ("start", "values"):
        if name not in schema.names:
            raise DataError(f"{part} has no column `{name}`; write the store again")
    kind = schema.field("values").type
    if not isinstance(kind, pa.FixedShapeTensorType) or kind.value_type != pa.float32():
        raise DataError(f"{part}: `values` is {kind}; a tensor of float32 in each row is needed: write the store again")
    metadata = {key.decode(): text.decode() for key, text in (schema.metadata or {}).items()}
    step = metadata.get("step_seconds", "")
    if not step.isdecimal() or int(step) == 0:
        raise DataError(f"{part}: the schema metadata step_seconds is {step!r}; allowed: a whole number above 0")
    shape = tuple(kind.shape) if len(kind.shape) == 2 else (1, *kind.shape)
    return {"(channels, length)": shape, "step_seconds": int(step), "unit": metadata.get("unit", "")}


def read_block(pieces: Sequence[Piece]) -> Judged:
    """Read rows of Parquet parts, and no row group that has none of them.

    Parameters
    ----------
    pieces : sequence of (Location, int, int)
        Part, first row, and the row after the last; from `parquet_loaders`.

    Returns
    -------
    Judged
        Series without an ``entity`` are their own.

    Raises
    ------
    DataError
        A part that is gone or damaged, or that holds fewer rows than it did.
    """
    columns: dict[str, list[np.ndarray]] = {"entities": [], "starts": []}
    values, at, found = np.empty(0, np.float32), 0, {}
    for part, begin, end in pieces:
        with open_parquet(part) as file:
            found = _describe(file.schema_arrow, part)
            if not values.size:
                values = np.empty((sum(b - a for _, a, b in pieces), *found["(channels, length)"]), np.float32)
            for batch in _batches(file, part, begin, end):
                name = next(name for name in ("entity", *ID_COLUMNS) if name in batch.schema.names)
                columns["entities"].append(labels(pa.chunked_array([batch[name]]), part, name))
                stamps = batch["start"].cast(pa.timestamp("s"), safe=False)
                columns["starts"].append(stamps.to_numpy(zero_copy_only=False).astype("datetime64[s]"))
                flat = batch["values"].storage.flatten().to_numpy(zero_copy_only=False)
                values[at : at + len(batch)] = flat.reshape(len(batch), *values.shape[1:])
                at += len(batch)
    if at < len(values):
        names = ", ".join(str(part) for part, *_ in pieces)
        raise DataError(f"{names}: {at} series are there instead of {len(values)}; the store was changed, start again")
    return Judged(
        values=values,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
        step_seconds=found["step_seconds"],
        unit=found["unit"],
    )


def _batches(file: pq.ParquetFile, part: Location, begin: int, end: int) -> Iterator[pa.RecordBatch]:
    """Yield rows begin to end, few at a time."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    groups = [group for group, last in enumerate(ends) if last > begin and last - sizes[group] < end]
    wanted = [name for name in (*ID_COLUMNS, "entity", "start", "values") if name in file.schema_arrow.names]
    at = int(ends[groups[0]] - sizes[groups[0]]) if groups else 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted, use_threads=False):
            first, last = max(begin - at, 0), min(end - at, len(batch))
            at += len(batch)
            if first < last:
                yield batch.slice(first, last - first)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{part} cannot be read: {one_line(error)}; write the store again") from error
