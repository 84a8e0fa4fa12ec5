"""The training set in memory-mapped files that the workers of a machine share, so that it may be larger than memory.

The workers of a machine share the scaling: each reads blocks of series, scales them and writes them in place. Then all
map the files, and the files are unlinked: the disk space is freed once no worker maps them, however training ends. (A
worker that is killed while it scales leaves its folder behind, readable by its owner only.) A step reads the rows of
its batch; free memory caches rows that were read.

Axis letters: M training series, B series of a block, C channels, L time steps.
"""

import dataclasses
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.data.storage import one_line
from ttsgan.errors import DataError
from ttsgan.training.dataset import SCALE_ROWS, TrainSet, row_sizes, scaled_rows, series_shape, train_set_of
from ttsgan.training.runtime import NotKept, Runtime

Read = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns the series (B, C, L), in physical units, of the given rows; the rows ascend."""


def map_train_set(
    read: Read,
    starts: NDArray,
    entities: NDArray,
    scaler: SeriesScaler,
    config: RunConfig,
    runtime: Runtime,
) -> TrainSet:
    """Scale training series and cut them into tokens, in this machine's temporary folder. Collective.

    The result is bit for bit that of `dataset.build_train_set`.

    Parameters
    ----------
    read : Read
    starts : ndarray (M,), datetime64[s]
    entities : ndarray (M,), str
    scaler : SeriesScaler
    config : RunConfig
    runtime : Runtime

    Raises
    ------
    NotKept
        If a worker could not write its part, such as on a full disk; all workers raise it.
    DataError
        If a worker could not read its series; all workers raise it.
    """
    shape = series_shape(scaler, config)
    types = {name: np.dtype(bool if name == "observed" else np.float32) for name in row_sizes(shape)}
    with runtime.machine() as machine:
        files = {name: machine.folder / name for name in types}

        def write(first: int) -> None:
            rows = np.arange(first, min(first + SCALE_ROWS, len(starts)))
            parts = scaled_rows(read(rows), starts[rows], scaler, shape.patch_size)
            for name, part in parts.items():
                _write_rows(files[name], first, part.numpy().astype(types[name], copy=False))

        _in_turns(range(machine.worker * SCALE_ROWS, len(starts), machine.workers * SCALE_ROWS), write, runtime)
        maps = {name: _mapped(file) for name, file in files.items()}
    held = {
        name: torch.from_numpy(np.frombuffer(maps[name], types[name]).reshape(len(starts), *size))
        for name, size in row_sizes(shape).items()
    }
    data = train_set_of(held, shape, starts, entities, scaler, config)
    return dataclasses.replace(data, ahead=_Ahead(maps, len(starts)))


class _Ahead:
    """Prefetches rows of named maps without waiting; reading page by page on access takes far longer."""

    def __init__(self, maps: dict[str, mmap.mmap], count: int) -> None:
        self.maps, self.count = maps, count

    def __call__(self, rows: Tensor, names: tuple[str, ...]) -> None:
        for mapped in (self.maps[name] for name in names):
            size = len(mapped) // self.count
            for row in rows.tolist():
                page = row * size // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, page, (row + 1) * size - page)


def _mapped(file: Path) -> mmap.mmap:
    # Copy-on-write, although nothing writes: torch warns of read-only memory.
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)


def _write_rows(file: Path, first: int, rows: NDArray) -> None:
    """Write rows at their place in a file that other workers write to as well."""
    content = np.ascontiguousarray(rows)
    with open(file, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o600)) as opened:
        opened.seek(first * content[0].nbytes)
        opened.write(content.data)


def _in_turns(mine: range, write: Callable[[int], None], runtime: Runtime) -> None:
    """Call ``write`` for each of this worker's items; exchange failures with the other workers. Collective.

    Workers synchronise after each item, so that a slow worker is not mistaken for a lost one.
    """
    waiting, failure = iter(mine), None
    while True:
        first = next(waiting, None)
        try:
            if first is not None:
                write(first)
        except (OSError, DataError) as error:
            failure = error
        unread = isinstance(failure, DataError)
        said = torch.tensor([first is None, failure is not None, unread], dtype=torch.float32, device=runtime.device)
        runtime.mean([said])
        finished, failed, any_unread = said.tolist()
        if any_unread:
            raise failure if unread else DataError("another worker could not read its training series")
        if failed:
            why = "another worker failed" if failure is None else failure.strerror or one_line(failure)
            raise NotKept(
                f"{why}: cannot write the scaled training series into the folder for temporary files; make room there, "
                "or name another one in TMPDIR, and run the same command again"
            )
        if finished == 1:
            return
