"""Planted series: implausible, distinct, and included by a fair coin."""

import numpy as np

from ttsgan.data.canaries import is_canary, make_canaries
from ttsgan.data.series_set import SeriesSet


def homes(num=20, length=336):
    ids = np.array([f"h{i}" for i in range(num)], dtype=object)
    values = np.random.default_rng(0).gamma(1.0, 0.4, (num, 2, length)).astype(np.float32)
    values[0, 0, :50] = np.nan
    starts = np.full(num, np.datetime64("2013-01-01", "s"))
    return SeriesSet(ids=ids, entities=ids, starts=starts, values=values, unit="kWh/h", step_seconds=3600)


def test_canaries_are_beyond_every_home_and_unlike_each_other():
    canaries, included = make_canaries(homes(), 200, seed=1)
    assert canaries.values.shape == (200, 2, 336)
    assert np.isfinite(canaries.values).all()
    assert (canaries.values.mean((1, 2)) > np.nanmean(homes().values, (1, 2)).max()).all()
    assert len(np.unique(canaries.values, axis=0)) == 200
    assert is_canary(canaries.entities).all()
    assert not is_canary(homes().entities).any()
    assert 70 < included.sum() < 130


def test_same_seed_same_canaries():
    (first, coin), (second, other) = (make_canaries(homes(), 30, seed=4) for _ in range(2))
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(coin, other)
