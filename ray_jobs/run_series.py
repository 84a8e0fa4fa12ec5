"""Lazy access to the two halves of a run folder's store and to its synthetic series."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ttsgan.data.canaries import is_canary
from ttsgan.data.series_set import SeriesSet, concatenate, fingerprint
from ttsgan.data.split import read_splits, where_in
from ttsgan.data.storage import Location
from ttsgan.data.store import ID_COLUMNS, files_of, labels, open_parquet, read_store
from ttsgan.errors import DataError

READ_SERIES = 512
"""Series in memory at a time when all are read in turn."""


@dataclass(frozen=True)
class Stored:
    """Series of a store, such as one half: their labels are in memory, their values stay in the files.

    Attributes
    ----------
    files : list of Location
        All parts of the store.
    rows : list of ndarray, int64
        For each part, the indices of its rows that belong to these series.
    ids, entities : ndarray of shape (n,), object
        Text, in the order of the parts.
    starts : ndarray of shape (n,), datetime64[s]
    nothing : SeriesSet
        An empty set with the common step, unit, channels, length and note.
    """

    files: list[Location]
    rows: list[np.ndarray]
    ids: np.ndarray
    entities: np.ndarray
    starts: np.ndarray
    nothing: SeriesSet

    def __len__(self) -> int:
        return len(self.entities)

    def read(self, rows: np.ndarray | None = None) -> SeriesSet:
        """Read the series at the indices ``rows``, which must ascend; by default all."""
        count = len(self) if rows is None else len(rows)
        # Allocate all values first: pieces kept between parts that are freed would keep the parts' memory occupied.
        values = np.empty((count, *self.nothing.values.shape[1:]), np.float32)
        parts, names, first, filled = [_labels_of(self.nothing)], [str(self.files[0])], 0, 0
        for file, within in zip(self.files, self.rows, strict=True):
            if rows is not None:
                first, last = first + len(within), first
                within = within[rows[(rows >= last) & (rows < first)] - last]
            if len(within):
                part = read_rows(file, within)
                values[filled : filled + len(within)] = part.values
                filled += len(within)
                parts.append(_labels_of(part))
                names.append(str(file))
        return replace(concatenate(parts, names), values=values)

    def fingerprint(self) -> str:
        """Return the fingerprint of the series, the same as `SeriesSet.fingerprint`."""
        return fingerprint(
            self.nothing, self.ids, self.entities, self.starts, (block.values for block in self.blocks())
        )

    def parts(self) -> list[tuple[Location, np.ndarray]]:
        """Return each part of the store that holds any of these series, with the indices of their rows in it."""
        return [(file, rows) for file, rows in zip(self.files, self.rows, strict=True) if len(rows)]

    def blocks(self) -> Iterator[SeriesSet]:
        """Yield all series in order, `READ_SERIES` at a time."""
        for first in range(0, len(self), READ_SERIES):
            yield self.read(np.arange(first, min(first + READ_SERIES, len(self))))


def _labels_of(series: SeriesSet) -> SeriesSet:
    """Return a set with labels but without values, nor a view that would keep them in memory."""
    return replace(series, values=np.empty((*series.values.shape[:-1], 0), np.float32))


def read_rows(file: Location, rows: np.ndarray) -> SeriesSet:
    """Read rows (n,), ascending, of a part; `DataError` if it has become shorter since the store was opened."""
    part = read_store(file)
    if len(rows) and rows[-1] >= len(part):
        raise DataError(f"{file}: {len(part)} series are there, fewer than there were; write the store again")
    return part.subset(rows)


def open_half(where: Location, holdout: bool, planted: bool = True) -> Stored:
    """Open the held-out or the training half of a run folder, the latter with or without the planted canaries."""
    ids, entities, held = read_splits(where / "splits.parquet")
    mine = (held == holdout) & (planted | ~is_canary(entities))
    return open_series(where / "store", set(ids[mine].tolist()))


def open_series(folder: Location, wanted: set[str] | None = None) -> Stored:
    """Open the series of a folder of parts, or only those whose ids are in ``wanted``."""
    files, rows, columns = files_of(folder), [], []
    for file in files:
        with open_parquet(file) as opened:
            names = [name for name in (*ID_COLUMNS, "entity") if name in opened.schema_arrow.names]
            table = opened.read(columns=[*names, "start"])
        ids, entities = (labels(table[name], file, name) for name in (names[0], names[-1]))
        mine = np.arange(len(ids)) if wanted is None else np.flatnonzero(where_in(ids, wanted))
        rows.append(mine)
        columns.append((ids[mine], entities[mine], table["start"].to_numpy().astype("datetime64[s]")[mine]))
    nothing = read_store(files[0]).subset(np.empty(0, np.int64))
    return Stored(files, rows, *map(np.concatenate, zip(*columns, strict=True)), nothing)
