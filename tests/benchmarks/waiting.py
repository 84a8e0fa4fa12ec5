"""How long a step waits for its series in the worst case: they are in files of which nothing is cached in memory.

Axis letters: M series.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from train_steps import take_steps

from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.models.networks import Networks
from ttsgan.training import phases
from ttsgan.training.dataset import TrainSet
from ttsgan.training.loop import Trainer
from ttsgan.training.memory_map import map_train_set
from ttsgan.training.runtime import LocalRuntime, Machine


class Files(LocalRuntime):
    """Keeps the deleted files of a training set open, so that they can be evicted from memory."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: list[int] = []

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """Open the folder; before it is deleted, open its files."""
        with super().machine() as machine:
            yield machine
            self.descriptors = [os.open(file, os.O_RDONLY) for file in machine.folder.iterdir()]

    def put_out(self, data: TrainSet) -> None:
        """Evict the files from memory."""
        for mapped in data.ahead.maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)
        for descriptor in self.descriptors:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if in_memory(data.scores) > 0:
            raise RuntimeError("this machine keeps files in memory that it was told to put out")


def in_files(
    values: np.ndarray, starts: np.ndarray, names: np.ndarray, scaler: SeriesScaler, config: RunConfig
) -> tuple[TrainSet, Files]:
    """Return a training set of series (M, C, L) mapped from files, and the `Files` that hold them open."""
    files = Files()
    return map_train_set(lambda rows: values[rows], starts, names, scaler, config, files), files


def share_of_waiting(trainer: Trainer, files: Files, steps: int, kind: str, ahead: bool) -> float:
    """Return the share of wall-clock time that steps of a kind spend waiting for their batches.

    After each batch the files are evicted from memory; with ``ahead``, series that training has asked to read ahead are
    then requested again, otherwise such requests are ignored. The time of the eviction is not counted.
    """
    data, fetch, days_loss = trainer.data, trainer._adversarial_batch, phases.days_loss
    wanted: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    phase_of_now, waited, putting_out = "days", 0.0, 0.0

    def hear(rows: Tensor, names: tuple[str, ...]) -> None:
        wanted[phase_of_now] = rows, names
        if ahead:
            data.ahead(rows, names)

    def timed(take: Callable[[], Any]) -> Any:
        nonlocal waited, putting_out
        began = time.perf_counter()
        made = take()
        fetched = time.perf_counter()
        files.put_out(data)
        if ahead:
            for rows, names in wanted.values():
                data.ahead(rows, names)
        waited, putting_out = waited + fetched - began, putting_out + time.perf_counter() - fetched
        return made

    def batch(phase: str) -> Any:
        nonlocal phase_of_now
        phase_of_now = phase
        return timed(lambda: fetch(phase))

    def loss(networks: Networks, given: TrainSet, rows: Tensor, *others: Any) -> Any:
        names = "residual", "regular", "observed", "numbers", "start_index"
        own = timed(lambda: replace(given, **{name: getattr(given, name)[rows] for name in names}))
        return days_loss(networks, own, torch.arange(len(rows)), *others)

    trainer._adversarial_batch, phases.days_loss, trainer.data = batch, loss, replace(data, ahead=hear)
    try:
        take_steps(trainer, kind, 1)  # warms up, and requests the series of the next step
        began, waited, putting_out = time.perf_counter(), 0.0, 0.0
        take_steps(trainer, kind, steps)
        return waited / (time.perf_counter() - began - putting_out)
    finally:
        del trainer._adversarial_batch
        phases.days_loss, trainer.data = days_loss, data


def in_memory(tensor: Tensor) -> float:
    """Return the share of a mapped tensor's pages that are in memory."""
    pages = -(-tensor.nbytes // mmap.PAGESIZE)
    there = (ctypes.c_ubyte * pages)()
    first = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(tensor.nbytes), there)
    return sum(byte & 1 for byte in there) / pages
