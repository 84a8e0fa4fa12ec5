"""The series of a run in memory.

Axis letters: n series, C channels, L time steps. Missing values are NaN.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ttsgan.errors import DataError


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
                    " (parts of one table, such as months, are joined where their folder is given)"
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


def refuse_untold_entities(parts: Mapping[str, SeriesSet], where: object) -> None:
    """Raise `DataError` if one part of ``where`` has no entities and another part has some."""
    without = [name for name, part in parts.items() if not part.tells_entities]
    if without and any((part.entities != part.ids).any() for part in parts.values()):
        raise DataError(
            f"{without[0]} has no `entity` column, and other files of {where} have one: each of its series would be"
            " protected by itself, and not whom they belong to; write the column into all files"
        )


def refuse_duplicates(ids: np.ndarray, where: object, advice: str = "") -> None:
    """Raise `DataError` if an id occurs more than once; ``advice`` ends the message."""
    unique, counts = np.unique(ids.astype(str), return_counts=True)
    twice = unique[counts > 1].tolist()
    if twice:
        raise DataError(
            f"{where}: duplicate ids: {twice[0]!r} occurs more than once ({len(twice)} such"
            f" id(s)); each series needs its own id{advice}"
        )


def refuse_infinite(values: np.ndarray, ids: np.ndarray, where: object) -> None:
    """Raise `DataError` if values of shape (n, ...) contain an infinity; NaN is allowed."""
    wrong = np.isinf(values).reshape(len(values), -1)
    if wrong.any():
        row, at = np.argwhere(wrong)[0]
        raise DataError(
            f"{where}: `values` of {ids[row]!r} is {values[row].flat[at]} at position {at + 1}; allowed: finite float32"
            " numbers, NaN where missing"
        )
