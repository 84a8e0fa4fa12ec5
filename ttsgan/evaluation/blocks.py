"""A set of series read block by block, and how work is spread over the blocks: in this process, or by whoever asks.

The judges never need a large synthetic set in one array. They hand a function, what all calls share and the blocks to
a `BlockMap`; `in_turn` calls it here, a cluster driver can call it on many machines. Results come back in the order of
the blocks and are merged in that order, so that they depend neither on the number of workers nor on who was first.
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


class BlockMap(Protocol):
    """Calls ``function(shared, loader)`` for every loader and yields the results in the order of the loaders."""

    def __call__(self, function: Callable[[Any, Loader], Any], shared: Any, loaders: Sequence[Loader]) -> Iterator[Any]:
        """Call the function for every block."""
        ...


def in_turn(function: Callable[[Any, Loader], Any], shared: Any, loaders: Sequence[Loader]) -> Iterator[Any]:
    """Call the function for one block after the other in this process."""
    for loader in loaders:
        yield function(shared, loader)


@dataclass(frozen=True)
class Blocks:
    """A set of series in blocks.

    Parameters
    ----------
    loaders : tuple of callable
        Each returns one block as `Judged`; all of the same channels, length, step and unit. Picklable where the
        `BlockMap` sends them to other processes, and cheap to send: a path rather than values.
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
