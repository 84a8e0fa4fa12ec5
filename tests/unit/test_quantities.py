"""The simulated quantities of the benchmarks: what makes each of them unlike the load of households."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from quantities import CHARGERS, HOURS, QUANTITIES


@pytest.fixture(scope="module", params=QUANTITIES)
def made(request):
    return request.param, QUANTITIES[request.param](40, np.random.default_rng(3))


def test_a_seed_makes_the_same_households(made):
    name, values = made
    assert values.shape == (40, HOURS)
    assert (np.nanmin(values) == 0) == (name != "net")
    np.testing.assert_array_equal(values, QUANTITIES[name](40, np.random.default_rng(3)))
    assert not np.array_equal(values, QUANTITIES[name](40, np.random.default_rng(4)))


def test_roofs_rest_in_the_same_nights_and_see_one_sky():
    values = QUANTITIES["solar"](40, np.random.default_rng(3))
    assert (values.reshape(40, -1, 24)[..., [0, 1, 2, 22, 23]] == 0).all()
    daily = values.reshape(40, -1, 24).sum(2)
    assert daily[:, 151:181].mean() > 3 * daily[:, :31].mean()
    assert np.corrcoef(daily[:, 151:181])[0, 1:].min() > 0.7


def test_homes_are_heated_in_winter():
    daily = QUANTITIES["heat"](40, np.random.default_rng(3)).reshape(40, -1, 24).sum(2)
    assert daily[:, :31].mean() > 3 * daily[:, 181:212].mean()


def test_cars_charge_with_the_power_of_a_charger():
    values = QUANTITIES["charging"](40, np.random.default_rng(3))
    assert (values == 0).mean() > 0.85
    assert set(values.max(1)) <= set(CHARGERS)


def test_some_homes_feed_in_by_day():
    values = QUANTITIES["net"](40, np.random.default_rng(3))
    below = (values < 0).reshape(40, -1, 24)
    assert 4 <= below.any(axis=(1, 2)).sum() <= 16
    assert not below[..., [0, 1, 2, 22, 23]].any()
