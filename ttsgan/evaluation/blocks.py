"""Sets of series read block by block, and the interface of a parallel map over them.

The judges never need a large set in one array: a `survey` reads every series once, and `gather` collects only the
series that are compared. The judges give a `ParallelMap` a function, an argument shared by all calls, and the items
(blocks, and other parts of the work). `in_turn` makes the calls in this process; a cluster driver can make them on many
machines. Results are returned and merged in the order of the items, so they depend neither on the number of workers nor
on which finishes first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from ttsgan.errors import DataError
from ttsgan.evaluation.judged import Judged, joined

BLOCK_SERIES = 4096
"""Series per block: large enough for fast matrix products, small enough that a worker's block is tens of MB."""

Loader = Callable[[], Judged]


class ParallelMap(Protocol):
    """Calls ``function(shared, item)`` for every item and yields the results in the order of the items."""

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Call the function for every item."""
        ...


def in_turn(function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
    """Call the function for the items one after the other in this process."""
    for item in items:
        yield function(shared, item)


def do_part(field: Any, part: Callable[[Any], Any]) -> Any:
    """Return ``part(field)``, for a `ParallelMap` whose items are different parts of the work on one shared field."""
    return part(field)


@dataclass(frozen=True)
class Blocks:
    """A set of series in blocks.

    Parameters
    ----------
    loaders : tuple of callable
        Each returns one block as `Judged`; all of the same channels, length, step and unit. Picklable where the
        `ParallelMap` sends them to other processes, and cheap to send: a path rather than values.
    """

    loaders: tuple[Loader, ...]

    def __post_init__(self) -> None:
        if not self.loaders:
            raise DataError("the synthetic set has no blocks; at least one series is needed")

    @classmethod
    def of(cls, judged: Judged, size: int = BLOCK_SERIES) -> "Blocks":
        """Cut a set in memory into blocks of `size` series."""
        return cls(tuple(partial(judged.take, slice(i, i + size)) for i in range(0, len(judged), size)))


@dataclass(frozen=True)
class Survey:
    """Summary of a set from one pass over every series; small in memory.

    Attributes
    ----------
    entities, starts : ndarray of shape (n,)
        As in `Judged`.
    empty, constant : ndarray of shape (n,), bool
        As returned by `Judged.usable`.
    missing : ndarray of shape (n,), int
        Number of missing readings, over all channels.
    digests : ndarray of shape (n,), object
        As returned by `Judged.fingerprints`.
    sizes : tuple of int
        Series in each block.
    like : Judged
        One of the series.
    """

    entities: np.ndarray
    starts: np.ndarray
    empty: np.ndarray
    constant: np.ndarray
    missing: np.ndarray
    digests: np.ndarray
    sizes: tuple[int, ...]
    like: Judged

    @property
    def usable(self) -> np.ndarray:
        """Which series have readings that change, shape (n,), bool."""
        return ~(self.empty | self.constant)

    @property
    def num_entities(self) -> int:
        """Entities in the set."""
        return len(np.unique(self.entities))


def _look(_: Any, loader: Loader) -> Survey:
    block = loader()
    digests = np.array(block.fingerprints(), object)
    missing = np.isnan(block.values).sum(axis=(1, 2))
    one = block.take(slice(0, 1))
    one = replace(one, values=one.values.copy())  # a view would keep the block in memory
    return Survey(block.entities, block.starts, *block.usable(), missing, digests, (len(block),), one)


def survey(series: Judged | Blocks, parallel_map: ParallelMap = in_turn) -> Survey:
    """Survey every series of a set, block by block; a set in memory is surveyed in this process."""
    blocks, parallel_map = (Blocks.of(series), in_turn) if isinstance(series, Judged) else (series, parallel_map)
    parts = list(parallel_map(_look, None, blocks.loaders))
    names = ("entities", "starts", "empty", "constant", "missing", "digests")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Survey(**columns, sizes=tuple(size for part in parts for size in part.sizes), like=parts[0].like)


def gather(series: Judged | Blocks, sizes: Sequence[int], index: np.ndarray) -> Judged:
    """Return chosen series of a set.

    Parameters
    ----------
    series : Judged or Blocks
    sizes : sequence of int
        Series in each block.
    index : ndarray of shape (m,), int
        Positions in the whole set, ascending, m >= 1.
    """
    if isinstance(series, Judged):
        return series if len(index) == len(series) else series.take(index)
    ends = np.cumsum(sizes)
    parts = []
    for loader, begin, end in zip(series.loaders, ends - sizes, ends, strict=True):
        inside = index[(index >= begin) & (index < end)] - begin
        if len(inside):
            parts.append(loader().take(inside))
    return joined(*parts)
