"""Canaries: implausible series planted in training, so that an audit can measure what the networks memorise.

A fair coin decides which canaries are trained on. How well they can be distinguished from the others gives a lower
bound on the epsilon of any claim of differential privacy. A model trained with canaries is for measuring only and is
never released.

Axis letters: B series, C channels, D days, S steps of a day.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ttsgan.data.calendar import DAY_SECONDS
from ttsgan.data.series_set import SeriesSet

PREFIX = "canary-"


def make_canaries(like: SeriesSet, count: int, seed: int) -> tuple[SeriesSet, NDArray[np.bool_]]:
    """Make series that no household has, each with a rhythm and a level of its own.

    Parameters
    ----------
    like : SeriesSet
        Real series, which give length, step, unit, channels, starts and range.
    count : int
        Canaries, >= 1.
    seed : int

    Returns
    -------
    series : SeriesSet
        Ids and entities ``canary-00000`` onwards. The level is two to eight times the 99 % quantile of the absolute
        real readings, switched on and off by a random pattern of days and another of steps within the day.
    included : ndarray of shape (count,), bool
        Whether to train on each canary, by a fair coin.
    """
    rng = np.random.default_rng(seed)
    channels, length = like.values.shape[1:]
    steps = max(1, round(DAY_SECONDS / like.step_seconds))
    days = -(-length // steps)
    high = np.nanquantile(np.abs(like.values), 0.99, axis=(0, 2))
    level = rng.uniform(2, 8, (count, channels, 1)) * np.maximum(high, 1e-6)[:, None]
    by_day = (rng.random((count, 1, days)) < rng.uniform(0.2, 0.8, (count, 1, 1))).repeat(steps, axis=2)
    within = (rng.random((count, 1, steps)) < 0.5).astype(float)
    pattern = np.logical_xor(by_day, np.tile(within, (1, 1, days)) > 0)[:, :, :length]
    values = level * (0.05 + 0.95 * pattern)
    ids = np.array([f"{PREFIX}{index:05d}" for index in range(count)], dtype=object)
    made = dataclasses.replace(
        like, ids=ids, entities=ids.copy(), starts=np.resize(like.starts, count), values=values.astype(np.float32),
        attributes=None,
    )  # fmt: skip
    return made, rng.random(count) < 0.5


def is_canary(entities: NDArray) -> NDArray[np.bool_]:
    """Tell which entities (n,) are canaries."""
    return np.char.startswith(entities.astype(str), PREFIX)
