"""The two halves of a run folder's store, and its synthetic series, read as far as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ttsgan.data.canaries import is_canary
from ttsgan.data.split import read_splits, where_in
from ttsgan.data.storage import Location
from ttsgan.data.store import (
    ID_COLUMNS,
    SeriesSet,
    concatenate,
    files_of,
    fingerprint,
    labels,
    open_parquet,
    read_store,
)

READ_SERIES = 512
"""Series that are gone through at a time."""


@dataclass(frozen=True)
class Stored:
    """Series of a store, such as one half: their labels in memory, their values where they are.

    Attributes
    ----------
    files : list of Location
        All parts of the store.
    rows : list of ndarray, int64
        For each part, which of its rows belong to these series.
    ids, entities : ndarray of shape (n,), object
        Text, in the order of the parts.
    starts : ndarray of shape (n,), datetime64[s]
    nothing : SeriesSet
        No series, but step, unit, channels, length and note of all.
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
        """Return the series in these rows of the half, in rising order; all without."""
        count = len(self) if rows is None else len(rows)
        # All at once and first: pieces that are kept between parts that are let go would keep their memory taken.
        values = np.empty((count, *self.nothing.values.shape[1:]), np.float32)
        parts, names, first, filled = [_labels_of(self.nothing)], [str(self.files[0])], 0, 0
        for file, within in zip(self.files, self.rows, strict=True):
            if rows is not None:
                first, last = first + len(within), first
                within = within[rows[(rows >= last) & (rows < first)] - last]
            if len(within):
                part = read_store(file)
                values[filled : filled + len(within)] = part.values[within]
                filled += len(within)
                parts.append(_labels_of(part).subset(within))
                names.append(str(file))
        return replace(concatenate(parts, names), values=values)

    def fingerprint(self) -> str:
        """Return the fingerprint of the series, as `SeriesSet.fingerprint` does."""
        return fingerprint(
            self.nothing, self.ids, self.entities, self.starts, (block.values for block in self.blocks())
        )

    def parts(self) -> list[tuple[Location, np.ndarray]]:
        """Return the parts of the store that hold any of these series, each with its rows of them."""
        return [(file, rows) for file, rows in zip(self.files, self.rows, strict=True) if len(rows)]

    def blocks(self) -> Iterator[SeriesSet]:
        """Yield all series of the half, `READ_SERIES` at a time."""
        for first in range(0, len(self), READ_SERIES):
            yield self.read(np.arange(first, min(first + READ_SERIES, len(self))))


def _labels_of(series: SeriesSet) -> SeriesSet:
    """Return a set without its values."""
    return replace(series, values=series.values[..., :0])


def open_half(where: Location, holdout: bool, planted: bool = True) -> Stored:
    """Return the training half, with or without the series planted in it, or the held-out half of a run folder."""
    ids, entities, held = read_splits(where / "splits.parquet")
    mine = (held == holdout) & (planted | ~is_canary(entities))
    return open_series(where / "store", set(ids[mine].tolist()))


def open_series(folder: Location, wanted: set[str] | None = None) -> Stored:
    """Return the series of a folder of parts, or of them those whose ids are ``wanted``."""
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
