"""Laws of values: what is zero, above it and below it."""

import numpy as np
import pytest

from ttsgan.config import HouseholdConfig
from ttsgan.data import marginals, quantiles
from ttsgan.data.marginals import ABOVE, BOTH, WHOLE
from ttsgan.data.scaling import SeriesScaler

HOMES, LENGTH, STEP = 60, 504, 14_400


def meters(roofs: int, seed: int = 0):
    """Series (HOMES, 1, LENGTH) of use, 0 for a tenth of the time; the first few feed in what their roof makes."""
    rng = np.random.default_rng(seed)
    use = rng.lognormal(0, 0.4, (HOMES, 1, 1)) * rng.lognormal(0, 0.7, (HOMES, 1, LENGTH))
    use[rng.random(use.shape) < 0.1] = 0
    sun = np.maximum(np.sin(2 * np.pi * (np.arange(LENGTH) * STEP / 86_400 - 0.25)), 0)
    use[:roofs] -= 4 * sun * rng.random((roofs, 1, LENGTH))
    return use.astype(np.float32), np.full(HOMES, np.datetime64("2013-01-07", "s"))


@pytest.mark.parametrize(
    ("below", "expected"), [(0, ABOVE), (4, ABOVE), (5, BOTH), (55, BOTH), (56, WHOLE), (60, WHOLE)]
)
def test_signs(below, expected):
    """Fewer than five homes would be pointed at; of either kind."""
    values = np.ones((60, 1, 9))
    values[:below, 0, 3] = -1
    assert marginals.find_signs(values, np.arange(60)).tolist() == [expected]
    assert marginals.few_below(values.min(axis=2), np.arange(60)).tolist() == [below if expected == ABOVE else 0]


@pytest.mark.parametrize("middle", [0.0, 0.3, -0.3])
def test_zero_is_nothing_special_for_a_temperature(middle):
    """Half, a third or two thirds of the homes are below zero at some time: their lowest values pass it freely."""
    rng = np.random.default_rng(0)
    values = 10 + middle + rng.normal(size=(60, 1, 1)) - np.linspace(0, 10, LENGTH)
    assert marginals.find_signs(values, np.arange(60)).tolist() == [WHOLE]


def test_noise_about_zero_is_not_of_another_kind():
    """Twenty meters that now and then show a trace below zero leave the others their bound."""
    values = np.random.default_rng(0).lognormal(0, 1, (60, 1, LENGTH))
    values[:20, 0, 3] = -0.003
    assert marginals.find_signs(values, np.arange(60)).tolist() == [BOTH]


def test_signs_count_homes_not_meters():
    values = np.ones((60, 1, 9))
    values[:20, 0, 3] = -1
    owners = np.r_[np.zeros(20), np.arange(1, 41)]
    assert marginals.find_signs(values, owners).tolist() == [ABOVE]


def test_hand_computed_parts():
    values = np.array([[[-2.0, 0.0, 1.0, 3.0]], [[0.0, 0.0, 4.0, np.nan]]])
    signs = np.array([BOTH])
    found = marginals.measure(values, signs, quantiles.score_grid(4))
    np.testing.assert_allclose(np.exp(found.level), [[2, 2], [4, 1e-12]])
    np.testing.assert_allclose(np.exp(found.peak), [[3, 2], [4, 1e-12]])
    share = 1 / (1 + np.exp(-found.zero_share))
    np.testing.assert_allclose(share, [[2.5 / 5, 3.5 / 5], [(4 * 2 / 3 + 0.5) / 5, 4.5 / 5]])
    assert found.absent.tolist() == [[False, False], [False, True]]


def test_meters_that_also_count_down_come_back():
    """Sums, lowest and highest values of homes with a roof; zeros of homes without."""
    values, starts = meters(roofs=20)
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit(values, starts)
    scaled = scaler.transform(values, starts)
    back = scaler.inverse(scaled.scores, scaled.numbers)
    np.testing.assert_allclose(back.mean(2), values.mean(2), atol=0.01)
    np.testing.assert_allclose((back < 0).mean(2), (values < 0).mean(2), atol=1.5 / LENGTH)
    np.testing.assert_allclose((back == 0).mean(2), (values == 0).mean(2), atol=2.5 / LENGTH)
    np.testing.assert_allclose(back[:20].min(2), values[:20].min(2), rtol=0.3)
    np.testing.assert_allclose(scaler.level(scaled.numbers), np.abs(values).mean(axis=(1, 2)), rtol=0.01)
    assert back[20:].min() == 0


@pytest.mark.parametrize("roofs", [4, 20])
def test_a_roof_is_of_a_home(roofs):
    """Homes without one have the numbers they would have among homes without; nothing of few roofs is kept."""
    values, starts = meters(roofs)
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit(values, starts)
    alone = SeriesScaler(HouseholdConfig(), STEP).fit(values[roofs:], starts[roofs:])
    one, other = scaler.transform(values, starts), alone.transform(values[roofs:], starts[roofs:])
    np.testing.assert_array_equal(one.scores[roofs:], other.scores)
    for name in ("level", "zero_share", "peak"):
        np.testing.assert_array_equal(
            one.numbers[roofs:, scaler.layout[name]][:, 0], other.numbers[:, alone.layout[name]][:, 0]
        )
    back = scaler.inverse(one.scores, one.numbers)
    assert (back.min(axis=(1, 2)) < 0).sum() == (roofs if roofs >= marginals.MIN_HOMES else 0)
    assert np.isfinite(one.numbers).all()
    assert scaler.kinds(one.numbers).tolist() == [
        3 * (row < roofs and roofs > 4) + (row >= roofs and roofs > 4) for row in range(HOMES)
    ]


def test_what_a_home_has_not_says_nothing():
    """The level of what is fed in has one law, whoever feeds in; no two homes get the same."""
    values, starts = meters(roofs=20)
    scaler = SeriesScaler(HouseholdConfig(), STEP).fit(values, starts)
    level = scaler.transform(values, starts).numbers[:, scaler.layout["level"]][:, 1]
    assert len(np.unique(level)) == HOMES
    with_roof, without = level[:20], level[20:]
    assert abs(with_roof.mean() - without.mean()) < 4 * with_roof.std() / np.sqrt(40)
    assert 0.5 < without.std() / with_roof.std() < 2


def test_a_largest_value_that_homes_share_is_a_bound():
    """Such as 100 %: five homes reach it, or there is none; below zero likewise, where zero is nothing special."""
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(60, 30, (40, 1, 200)), -5, 100).astype(np.float32)
    starts = np.full(40, np.datetime64("2013-01-01T00:00:00"))
    lows, highs = marginals.find_caps(values, np.array([marginals.WHOLE]), np.arange(40))
    assert (lows.tolist(), highs.tolist()) == ([-5.0], [100.0])
    lows, highs = marginals.find_caps(values, np.array([marginals.ABOVE]), np.arange(40))
    assert (lows.tolist(), highs.tolist()) == ([-np.inf], [100.0])
    assert marginals.find_caps(values, np.array([marginals.WHOLE]), np.arange(40) // 10)[1].tolist() == [np.inf]
    scaler = SeriesScaler(HouseholdConfig(), 3600).fit(values, starts)
    numbers = scaler.transform(values, starts).numbers
    other = numbers + rng.normal(size=numbers.shape) * numbers.std(axis=0)
    made = scaler.inverse(rng.normal(size=values.shape), other)
    assert made.max() == 100
    assert made.min() == -5
