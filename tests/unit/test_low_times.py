"""Nights of roofs: found in training series, and kept by new ones."""

import numpy as np
import pytest
from scaled import START, STEP, population

from ttsgan.config import HouseholdConfig
from ttsgan.data.low_times import ALWAYS, NEVER, cells_of, find, low_first
from ttsgan.data.marginals import ABOVE, BOTH, WHOLE
from ttsgan.data.scaling import SeriesScaler

DAYS, COUNT = 84, 60
ABOVE_1, BOTH_1 = np.array([ABOVE]), np.array([BOTH])


def roofs(count=COUNT, seed=0):
    """Series (n, 1, 6 * 84): nothing in the first and the last slot of a day, in one more on some days, sun at noon."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(4.0, 1.0, (count, DAYS, 6)) * rng.lognormal(0, 0.3, (count, 1, 1))
    values[..., [0, 5]] = 0
    values[..., 1] *= rng.random((count, DAYS)) < 0.5
    return values.reshape(count, 1, -1).astype(np.float32), np.full(count, START)


def owners(count):
    return np.arange(count).astype(str)


def test_cells_are_months_and_slots():
    cells = cells_of(np.datetime64("2013-01-31T20:00:00"), 4, STEP)
    assert cells.tolist() == [5, 6, 7, 8]
    assert cells_of(np.datetime64("2013-12-31T23:00:00"), 2, 3600).tolist() == [11 * 24 + 23, 0]


def test_what_all_and_none_do_is_found():
    values, starts = roofs()
    found = find(values, ABOVE_1, starts, owners(COUNT), STEP).reshape(12, 6)
    wanted = np.array([ALWAYS, 0, NEVER, NEVER, NEVER, ALWAYS])
    assert (found[:3] == wanted).all()
    assert not found[3:].any(), "months that no series has"


def test_a_channel_below_zero_is_low_there():
    values, starts = roofs()
    load = 1 - values  # feeds in where a roof has sun
    found = find(load, BOTH_1, starts, owners(COUNT), STEP).reshape(12, 6)[:3]
    assert (found[:, [0, 5]] == NEVER).all()
    assert not (found[:, 2:5] == NEVER).any()
    assert not find(load, np.array([WHOLE]), starts, owners(COUNT), STEP).any()


@pytest.mark.parametrize("case", ["few series", "few entities", "one that is otherwise", "absences", "seldom zero"])
def test_nothing_is_found(case):
    values, starts = roofs(40 if case == "few series" else COUNT)
    who, rng = owners(len(values)), np.random.default_rng(1)
    if case == "few entities":
        who = np.repeat(["a", "b"], COUNT // 2)
    if case == "one that is otherwise":
        values[0] = np.roll(values[0], 3, axis=-1)
    if case == "absences":
        values = rng.gamma(4.0, 1.0, values.shape).astype(np.float32)
        for series in values:
            begin = rng.integers(values.shape[2] - 100)
            series[0, begin : begin + 100] = 0
    if case == "seldom zero":
        values = np.where(rng.random(values.shape) < 0.04, 0, values + 1).astype(np.float32)
    assert not find(values, ABOVE_1, starts, who, STEP).any()


def test_low_values_come_where_they_may():
    scores = np.array([[[3.0, -1.0, 0.0, -2.0, 1.0, 2.0]]])
    values = np.array([[[0.0, 0.0, 1.0, 2.0, 3.0, 4.0]]])
    when = np.array([[ALWAYS, 0, 0, NEVER, NEVER, NEVER]])
    moved = low_first(scores, values, ABOVE_1, when)
    assert moved.argsort().tolist() == [[[1, 0, 3, 2, 4, 5]]], "the first two are low, and all else keeps its order"
    assert low_first(moved, values, ABOVE_1, when).tolist() == moved.tolist()


def test_more_low_values_than_room():
    scores = np.array([[[0.0, -1.0, 1.0, -2.0]]])
    values = np.array([[[0.0, 0.0, 0.0, 1.0]]])
    moved = low_first(scores, values, ABOVE_1, np.array([[0, 0, NEVER, NEVER]]))
    assert moved.argsort().tolist() == [[[3, 1, 0, 2]]], "the third is where the score is lowest"


def test_a_series_that_is_seldom_low_is_left_alone():
    scores = np.arange(40.0)[None, None]
    values = np.maximum(np.arange(40.0) - 1, 0)[None, None]
    values[..., 1] = 0.5
    when = np.where(np.arange(40) < 2, NEVER, 0)[None]
    assert low_first(scores, values, ABOVE_1, when).tolist() == scores.tolist()


@pytest.mark.parametrize("kind", ["a roof", "a home with a roof"])
def test_new_series_keep_the_nights(kind):
    """Habits that were drawn too small, and days that know nothing of nights."""
    values, starts = roofs()
    if kind == "a home with a roof":
        homes = population(count=COUNT, length=values.shape[2])[0]
        values = np.concatenate([homes, 0.2 * homes + 2 - values])
        starts = np.full(len(values), START)
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit(values, starts)
    scaler = SeriesScaler.from_bytes(scaler.to_bytes(), HouseholdConfig(), STEP)
    scaled, rng = scaler.transform(values, starts), np.random.default_rng(2)
    night = np.isin(np.arange(values.shape[2]) % 6, [0, 5])
    residual = rng.normal(size=scaled.residual.shape)
    scaled.numbers[:, scaler.layout["habit"]] *= 0.3
    scaler.state["habit_mean"] *= 0.3
    drawn = scaler.inverse(scaler.compose_scores(residual, scaled.numbers, starts), scaled.numbers)
    if kind == "a roof":
        assert (drawn[..., night] == 0).mean() > 0.999
        assert (drawn[..., ~night] == 0).mean() == pytest.approx((values[..., ~night] == 0).mean(), abs=0.01)
        assert (drawn[..., np.isin(np.arange(values.shape[2]) % 6, [2, 3, 4])] > 0).all()
    else:
        assert (drawn[COUNT:] < 0).mean() == pytest.approx((values[COUNT:] < 0).mean(), abs=0.01)
        assert (drawn[..., night] >= 0).all()
    del scaler.state["low_times"]
    free = scaler.inverse(scaler.compose_scores(residual, scaled.numbers, starts), scaled.numbers)
    assert ((free < 0) if kind != "a roof" else (free > 0))[..., night].mean() > 0.01, "this is not so by itself"


def test_a_population_without_nights_has_no_such_state():
    values, starts = population("zeros", count=COUNT)
    assert "low_times" not in SeriesScaler(HouseholdConfig(), STEP).fit(values, starts).state
