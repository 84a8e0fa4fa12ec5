"""The training series in the scaled space, and batches and noise that depend on seed and progress only.

Every worker can read all series and takes its slice of each global batch. So the training data are a function of the
seed and the series seen, whatever the number of workers.

Axis letters: M training series, B series of a batch, C channels, L points, N tokens, P values of a token, F calendar
features, H household numbers, S distinct starts.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttsgan.config import RunConfig
from ttsgan.data import calendar
from ttsgan.data.prepare import day_points
from ttsgan.data.scaling import SeriesScaler
from ttsgan.models.networks import SeriesShape
from ttsgan.models.patching import patchify
from ttsgan.seeds import seed_of
from ttsgan.training.runtime import Runtime

SCALE_ROWS = 512
"""Series scaled at a time, to bound the memory of double-precision intermediates."""


def series_shape(scaler: SeriesScaler, config: RunConfig) -> SeriesShape:
    """Return the sizes that the networks need, for series that ``scaler`` was fitted on."""
    channels, length = scaler.state["shape"].tolist()
    patch_size = day_points(scaler.step_seconds, config.patch)
    return SeriesShape(
        channels=channels,
        length=length,
        patch_size=patch_size,
        week=max(1, round(7 * calendar.DAY_SECONDS / (patch_size * scaler.step_seconds))),
        num_features=calendar.NUM_FEATURES,
        num_numbers=scaler.num_numbers,
    )


@dataclass
class TrainSet:
    """Training series, scaled and cut into tokens.

    Attributes
    ----------
    scores, residual, regular : Tensor (M, N, P), float32
    observed : Tensor (M, N, P), bool
    numbers : Tensor (M, H), float32
        Household numbers in their own units.
    calendar : Tensor (S, N, F)
        Calendar features for each distinct start.
    start_index : Tensor (M,), int64
        Row of ``calendar``.
    starts : ndarray (M,), datetime64[s]
    entities : ndarray (M,), str
    level : ndarray (M,), float64
        Mean absolute value, physical units.
    kinds : ndarray (M,), int64
        `SeriesScaler.kinds` of each series.
    validation : Tensor (M,), bool
        Series of the entities kept for validation.
    ahead : callable
        Prefetches the rows (B,) that are needed next, of the named tensors; does nothing for a set in memory.
    """

    shape: SeriesShape
    scores: Tensor
    residual: Tensor
    regular: Tensor
    observed: Tensor
    numbers: Tensor
    calendar: Tensor
    start_index: Tensor
    starts: NDArray
    entities: NDArray
    level: NDArray
    kinds: NDArray
    validation: Tensor
    ahead: Callable[[Tensor, tuple[str, ...]], None] = lambda rows, names: None

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device) -> "TrainSet":
        """Return the set with its tensors on ``device``; on a GPU all of them are in its memory."""
        if device == self.scores.device:
            return self
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type is Tensor}
        return replace(self, **moved, ahead=TrainSet.ahead)

    def calendar_of(self, rows: Tensor) -> Tensor:
        """Return the calendar features (B, N, F) of these series."""
        return self.calendar[self.start_index[rows]]


def build_train_set(
    values: NDArray[np.float32],
    starts: NDArray,
    entities: NDArray,
    scaler: SeriesScaler,
    config: RunConfig,
) -> TrainSet:
    """Scale training series (M, C, L) and cut them into tokens, in memory; `memory_map` does it in files."""
    shape = series_shape(scaler, config)
    held = {
        name: torch.empty(len(values), *size, dtype=torch.bool if name == "observed" else None)
        for name, size in row_sizes(shape).items()
    }
    for first in range(0, len(values), SCALE_ROWS):
        rows = slice(first, first + SCALE_ROWS)
        for name, part in scaled_rows(values[rows], starts[rows], scaler, shape.patch_size).items():
            held[name][rows] = part
    return train_set_of(held, shape, starts, entities, scaler, config)


def row_sizes(shape: SeriesShape) -> dict[str, tuple[int, ...]]:
    """Return the shape of one series in each of the tensors that `scaled_rows` returns."""
    year = (shape.num_tokens, shape.points)
    return {"scores": year, "residual": year, "regular": year, "observed": year, "numbers": (shape.num_numbers,)}


def scaled_rows(
    values: NDArray[np.float32], starts: NDArray, scaler: SeriesScaler, patch_size: int
) -> dict[str, Tensor]:
    """Return the `TrainSet` tensors of these series (B, C, L), at most `SCALE_ROWS` of them, by name."""
    scaled = scaler.transform(values, starts)
    names = "scores", "residual", "regular", "observed"
    tokens = {name: patchify(torch.from_numpy(getattr(scaled, name)), patch_size) for name in names}
    return {**tokens, "numbers": torch.from_numpy(scaled.numbers)}


def train_set_of(
    held: dict[str, Tensor],
    shape: SeriesShape,
    starts: NDArray,
    entities: NDArray,
    scaler: SeriesScaler,
    config: RunConfig,
) -> TrainSet:
    """Return the training set of the scaled series ``held``; `validation_share` of the entities is for validation."""
    distinct, start_index = np.unique(starts, return_inverse=True)
    features = calendar.features_of(distinct, shape.num_tokens, shape.patch_size * scaler.step_seconds)
    names = np.unique(entities)
    count = max(1, round(config.training.validation_share * len(names)))
    apart = np.random.default_rng(config.seed).permutation(len(names))[:count]
    return TrainSet(
        shape=shape,
        **held,
        calendar=torch.from_numpy(features),
        start_index=torch.from_numpy(start_index),
        starts=starts,
        entities=entities,
        level=scaler.level(held["numbers"].numpy()),
        kinds=scaler.kinds(held["numbers"].numpy()),
        validation=torch.from_numpy(np.isin(entities, names[apart])),
    )


BLOCK_ROWS = 128
"""Rows of the global batch whose random numbers are drawn together, by each worker that has any of these rows."""


class StepRandom:
    """Random numbers of one optimizer step: a function of seed, stage and series seen.

    They are drawn for whole blocks of the global batch and cut to this worker's rows. So they do not depend on the
    number of workers that share the batch, and cost a worker little more than its own rows.

    Parameters
    ----------
    seed, series_seen : int
    stage : str
    batch_size : int
        Series of the global batch.
    runtime : Runtime
        Its rank and world size determine this worker's share of the batch.
    """

    def __init__(self, seed: int, stage: str, series_seen: int, batch_size: int, runtime: Runtime) -> None:
        number = seed_of(seed, stage, series_seen)
        self.generator = torch.Generator().manual_seed(number)
        share = batch_size // runtime.world_size
        first, last = runtime.rank * share, (runtime.rank + 1) * share
        begun = first // BLOCK_ROWS * BLOCK_ROWS
        self.blocks = [(self.generator, batch_size)]
        if batch_size > BLOCK_ROWS:
            self.blocks = [
                (torch.Generator().manual_seed(seed_of(number, "block", at)), min(BLOCK_ROWS, batch_size - at))
                for at in range(begun, last, BLOCK_ROWS)
            ]
            first, last = first - begun, last - begun
        self.rows = slice(first, last)
        self.device = runtime.device
        # Dropout uses torch's default generator; it must differ between ranks, but not in a resumed run. It is seeded
        # directly: torch.manual_seed takes 3 ms, and queues every call for GPUs that are not there.
        of_dropout = seed_of(number, "dropout", runtime.rank)
        torch.default_generator.manual_seed(of_dropout)
        if runtime.device.type == "cuda":
            torch.cuda.manual_seed(of_dropout)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers (B, *shape) for this worker's rows."""
        return self._mine(lambda generator, rows: torch.randn(rows, *shape, generator=generator))

    def uniform(self) -> Tensor:
        """Return uniform numbers (B,) between 0 and 1 for this worker's rows."""
        return self._mine(lambda generator, rows: torch.rand(rows, generator=generator))

    def integers(self, high: int) -> Tensor:
        """Return uniform integers (B,) from 0 to ``high`` - 1 for this worker's rows."""
        return self._mine(lambda generator, rows: torch.randint(high, (rows,), generator=generator))

    def _mine(self, draw: Callable[[torch.Generator, int], Tensor]) -> Tensor:
        """Return this worker's rows of the numbers drawn for its blocks."""
        return torch.cat([draw(generator, rows) for generator, rows in self.blocks])[self.rows].to(self.device)

    def crop(self, total: int, length: int) -> Tensor:
        """Return ``length`` consecutive indices below ``total`` (B, length) for this worker's rows, at most all.

        The random start may fall up to half a crop outside the possible range and is clamped to it: otherwise the first
        and the last indices would rarely be in a crop.
        """
        length = min(length, total)
        first = (self.integers(total + 1) - length // 2).clamp(0, total - length)
        return first[:, None] + torch.arange(length, device=self.device)

    def some(self, total: int, most: int) -> Tensor | None:
        """Return ``most`` distinct indices below ``total``, ascending, the same for all rows; None means all."""
        if most >= total:
            return None
        return torch.randperm(total, generator=self.generator)[:most].sort().values.to(self.device)


def batch_rows(candidates: Tensor, seed: int, stage: str, series_seen: int, batch_size: int) -> Tensor:
    """Return the rows of the global batch (B,) at ``series_seen``: shuffled passes over ``candidates``."""
    count = len(candidates)
    last = series_seen + batch_size
    rows = [
        _order(count, seed, stage, epoch)[max(series_seen - epoch * count, 0) : last - epoch * count]
        for epoch in range(series_seen // count, (last - 1) // count + 1)
    ]
    return candidates[torch.cat(rows)]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, stage: str, epoch: int) -> Tensor:
    """Return the random order of one epoch over the candidates; cached: do not modify it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, stage, "order", epoch)))
