"""The training half and the held-out half of a run folder's store, read as far as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ttsgan.data.canaries import is_canary
from ttsgan.data.split import read_splits, where_in
from ttsgan.data.storage import Location
from ttsgan.data.store import SeriesSet, concatenate, files_of, labels, open_parquet, read_store

READ_SERIES = 512
"""Series that are gone through at a time."""


@dataclass(frozen=True)
class Half:
    """One half: its labels in memory, its values where they are.

    Attributes
    ----------
    files : list of Location
        All parts of the store.
    rows : list of ndarray, int64
        For each part, which of its rows belong to this half.
    entities : ndarray of shape (n,), object
        Text, in the order of the parts.
    starts : ndarray of shape (n,), datetime64[s]
    nothing : SeriesSet
        No series, but step, unit, channels, length and note of all.
    """

    files: list[Location]
    rows: list[np.ndarray]
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

    def blocks(self) -> Iterator[SeriesSet]:
        """Yield all series of the half, `READ_SERIES` at a time."""
        for first in range(0, len(self), READ_SERIES):
            yield self.read(np.arange(first, min(first + READ_SERIES, len(self))))


def _labels_of(series: SeriesSet) -> SeriesSet:
    """Return a set without its values."""
    return replace(series, values=series.values[..., :0])


def open_half(where: Location, holdout: bool) -> Half:
    """Return the training half, planted series among it, or the held-out half of a run folder."""
    ids, _, held = read_splits(where / "splits.parquet")
    wanted = set(ids[held == holdout].tolist())
    files, rows, entities, starts = files_of(where / "store"), [], [], []
    for file in files:
        table = open_parquet(file).read(columns=["id", "entity", "start"])
        rows.append(np.flatnonzero(where_in(labels(table["id"], file, "id"), wanted)))
        entities.append(labels(table["entity"], file, "entity")[rows[-1]])
        starts.append(table["start"].to_numpy().astype("datetime64[s]")[rows[-1]])
    nothing = read_store(files[0]).subset(np.empty(0, np.int64))
    return Half(files, rows, np.concatenate(entities), np.concatenate(starts), nothing)


def read_real(where: Location, holdout: bool) -> SeriesSet:
    """Return the series of a half without planted ones."""
    half = open_half(where, holdout)
    return half.read(np.flatnonzero(~is_canary(half.entities)))
