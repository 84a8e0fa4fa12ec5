"""Train on synthetic, test on real: bars computed by hand, and populations whose answer is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ttsgan.errors import DataError
from ttsgan.evaluation import utility
from ttsgan.evaluation.judged import Judged

STEPS = 6
KEYS = {
    "family", "name", "distance", "floor", "ratio", "low", "high", "unit", "in_headline", "sees", "blind_to",
    "naive", "beats_naive", "ratio_noise",
}  # fmt: skip


def judged(values, prefix="s", step_seconds=86_400 // STEPS, entities=None):
    values = np.asarray(values, np.float32)
    names = np.array([f"{prefix}{i}" for i in range(len(values))]) if entities is None else entities
    starts = np.full(len(values), np.datetime64("2013-01-01", "s"))
    return Judged(values=values, entities=names, starts=starts, step_seconds=step_seconds, unit="kWh")


def homes(num, seed, prefix, days=50, channels=1):
    """Draw homes: own level and daily shape, a weekend, and a load that drifts from day to day."""
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-1, 0.5, (num, channels, 1, 1)))
    shape = 0.4 * rng.normal(size=(num, channels, 1, STEPS)) + np.sin(np.arange(STEPS))
    drift = np.zeros((num, channels, days, 1))
    for day in range(1, days):
        drift[:, :, day] = 0.9 * drift[:, :, day - 1] + 0.15 * rng.normal(size=(num, channels, 1))
    weekend = np.where((np.arange(days) + 1) % 7 >= 5, 0.3, 0)[:, None]
    noise = 0.2 * rng.normal(size=(num, channels, days, STEPS))
    return judged((level * np.exp(shape + drift + weekend + noise)).reshape(num, channels, -1), prefix)


def compare(train, holdout, synthetic, seed=0, max_series=1000):
    return {e["name"]: e for e in utility.utility_entries(train, holdout, synthetic, seed=seed, max_series=max_series)}


def three_weeks(whole):
    """Cut to what leaves the day ahead only, which is quick."""
    return replace(whole, values=whole.values[:, :, : 20 * STEPS])


@pytest.fixture(scope="module")
def real():
    return homes(48, 1, "t"), homes(48, 2, "h")


@pytest.fixture(scope="module")
def third(real):
    return compare(*real, homes(48, 3, "s"))


@pytest.fixture
def one_draw(monkeypatch):
    """Make one draw do where the differences are large."""
    monkeypatch.setattr(utility, "NUM_DRAWS", 1)


def two_weeks_and_a_day(num, prefix):
    """Days of 1, then of 3, then one of 1, in two slots, times a level that must not matter."""
    day = np.repeat([1.0] * 7 + [3.0] * 7 + [1.0], 2)
    return judged((2.0 ** np.arange(num))[:, None, None] * day, prefix, 43_200)


def test_bar_by_hand_without_and_with_a_gap(one_draw):
    train, holdout = two_weeks_and_a_day(16, "t"), two_weeks_and_a_day(16, "h")
    entries = compare(train, holdout, train)
    assert list(entries) == ["day ahead, ridge", "day ahead, MLP"]
    for entry in entries.values():
        assert entry["naive"] == pytest.approx(2 / (29 / 15))
    values = holdout.values.copy()
    values[:, 0, 20] = np.nan
    own = (29 + 26 + 26 / 14) / 30
    for entry in compare(train, replace(holdout, values=values), train).values():
        assert entry["naive"] == pytest.approx(2 / own)


def test_entries_are_complete_plain_and_inside_their_interval(third):
    assert list(third) == [
        "day ahead, ridge", "day ahead, MLP", "week ahead, ridge", "week ahead, MLP", "peak day, logistic",
    ]  # fmt: skip
    for entry in third.values():
        assert set(entry) == KEYS
        assert json.loads(json.dumps(entry)) == entry
        assert entry["family"] == "utility"
        assert entry["in_headline"] is False
        assert entry["low"] <= entry["ratio"] <= entry["high"]
        assert entry["ratio"] == pytest.approx(entry["distance"] / entry["floor"])
        assert entry["beats_naive"] is True
        assert 0 < entry["ratio_noise"] < 0.15


def test_another_draw_of_the_same_law_costs_nothing(third):
    for entry in third.values():
        assert 0.97 < entry["ratio"] < 1.05, entry["name"]


def test_collapse_and_shuffled_slots_cost_much(real, one_draw):
    train = real[0].values
    collapsed = compare(*real, judged(np.repeat(train.mean(axis=(0, 2), keepdims=True), 48, 0).repeat(300, 2)))
    shuffled = compare(*real, judged(np.random.default_rng(0).permuted(train, axis=2)))
    for broken in (collapsed, shuffled):
        assert broken["day ahead, ridge"]["low"] > 1.1
        assert broken["day ahead, MLP"]["low"] > 1.1
        assert broken["peak day, logistic"]["low"] > 1.2
    assert collapsed["peak day, logistic"]["distance"] == pytest.approx(0.5)
    dead = compare(*(three_weeks(part) for part in (*real, judged(0 * train))))
    assert all(math.isfinite(entry["ratio"]) for entry in dead.values())


def test_gaps_on_every_side_are_endured(real, third):
    rng = np.random.default_rng(0)

    def pierced(whole):
        values = np.where(rng.random(whole.values.shape) < 0.03, np.nan, whole.values)
        values[0], values[1, :, 60:200] = np.nan, np.nan
        return replace(whole, values=values)

    entries = compare(*(pierced(part) for part in (*real, homes(48, 3, "s"))))
    for name, entry in entries.items():
        assert 0.95 < entry["ratio"] < 1.07, name
        assert entry["naive"] == pytest.approx(third[name]["naive"], rel=0.08)


def test_errors_of_channels_are_averaged(real):
    train, holdout, synthetic = (three_weeks(part) for part in (*real, homes(48, 3, "s")))
    shuffled = replace(synthetic, values=np.random.default_rng(0).permuted(synthetic.values, axis=2))

    def stacked(first, second):
        return replace(first, values=np.concatenate([first.values, 1000 * second.values], axis=1))

    both = compare(stacked(train, train), stacked(holdout, holdout), stacked(synthetic, shuffled))
    good, bad = (compare(train, holdout, part)["day ahead, ridge"] for part in (synthetic, shuffled))
    entry = both["day ahead, ridge"]
    assert entry["naive"] == pytest.approx(good["naive"], rel=1e-4)
    assert entry["distance"] == pytest.approx((good["distance"] + bad["distance"]) / 2, rel=0.02)


def test_series_of_one_entity_count_as_one(real, third, one_draw):
    train, holdout = real
    doubled = replace(
        holdout,
        values=np.concatenate([holdout.values, holdout.values[:1].repeat(20, 0)]),
        entities=np.concatenate([holdout.entities, holdout.entities[:1].repeat(20)]),
        starts=holdout.starts[:1].repeat(68),
    )
    for name, entry in compare(train, doubled, homes(48, 3, "s")).items():
        assert entry["naive"] == pytest.approx(third[name]["naive"], rel=1e-4)


def test_what_the_data_do_not_allow_is_left_out(real):
    train, holdout = real
    cut = [replace(part, values=part.values[:, :, : 14 * STEPS]) for part in (train, holdout, train)]
    assert compare(*cut) == {}
    daily = [replace(part, step_seconds=86_400) for part in (train, holdout, train)]
    assert compare(*daily) == {}
    assert compare(train, holdout.take(np.arange(7)), train) == {}
    assert compare(train, holdout, replace(train, values=np.full_like(train.values, np.nan))) == {}
    assert compare(train.take(np.arange(8)), holdout, replace(train, entities=np.repeat(["a", "b"], 24))) == {}
    with pytest.raises(DataError, match="synthetic: step_seconds"):
        compare(train, holdout, replace(train, step_seconds=7200))


def test_same_seed_same_answer_and_few_series_suffice(real):
    sets = [three_weeks(part) for part in (*real, homes(48, 3, "s"))]
    first, second, other = (compare(*sets, seed, max_series=12) for seed in (0, 0, 1))
    assert first == second
    assert first["day ahead, MLP"]["distance"] != other["day ahead, MLP"]["distance"]
