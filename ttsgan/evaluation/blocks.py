"""A set of series read block by block, and how work is spread: in this process, or by whoever asks.

The judges never need a large synthetic set in one array. They hand a function, what all calls share and the items (the
blocks, and other parts of the work) to a `Spread`; `in_turn` calls it here, a cluster driver can call it on many
machines. Results come back in the order of the items and are merged in that order, so that they depend neither on the
number of workers nor on who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ttsgan.errors import DataError
from ttsgan.evaluation.judged import Judged, joined

BLOCK_SERIES = 4096
"""Series of a block: large enough for fast matrix products, small enough that a worker's block is tens of MB."""

Loader = Callable[[], Judged]


class Spread(Protocol):
    """Calls ``function(shared, item)`` for every item and yields the results in the order of the items."""

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Call the function for every item."""
        ...


def in_turn(function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
    """Call the function for one item after the other in this process."""
    for item in items:
        yield function(shared, item)


def do_part(field: Any, part: Callable[[Any], Any]) -> Any:
    """Return ``part(field)``: for a `Spread` whose items are different parts of work on one field."""
    return part(field)


@dataclass(frozen=True)
class Blocks:
    """A set of series in blocks.

    Parameters
    ----------
    loaders : tuple of callable
        Each returns one block as `Judged`; all of the same channels, length, step and unit. Picklable where the
        `Spread` sends them to other processes, and cheap to send: a path rather than values.
    """

    loaders: tuple[Loader, ...]

    def __post_init__(self) -> None:
        if not self.loaders:
            raise DataError("the synthetic set has no blocks; at least one series is needed")

    @classmethod
    def of(cls, judged: Judged, size: int = BLOCK_SERIES) -> Blocks:
        """Cut a set that is in memory."""
        return cls(tuple(partial(judged.take, slice(i, i + size)) for i in range(0, len(judged), size)))


def gather(blocks: Blocks, sizes: Sequence[int], index: np.ndarray) -> Judged:
    """Read chosen series of a set.

    Parameters
    ----------
    blocks : Blocks
    sizes : sequence of int
        Series in each block.
    index : ndarray of shape (m,), int
        Positions in the whole set, ascending, m >= 1.
    """
    ends = np.cumsum(sizes)
    parts = []
    for loader, begin, end in zip(blocks.loaders, ends - sizes, ends, strict=True):
        inside = index[(index >= begin) & (index < end)] - begin
        if len(inside):
            parts.append(loader().take(inside))
    return joined(*parts)
