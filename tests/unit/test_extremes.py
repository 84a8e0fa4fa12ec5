"""The ends of laws belong to several entities, where there are enough of them."""

import numpy as np
import pytest
import torch
from scaled import population

from ttsgan.config import HouseholdConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.extremes import BEHIND, EACH, bounds
from ttsgan.models.household import HouseholdModel


@pytest.mark.parametrize(("count", "behind"), [(3, 1), (EACH, 1), (2 * EACH, 2), (50 * EACH, BEHIND)])
def test_so_many_entities_reach_the_ends(count, behind):
    values = np.random.default_rng(0).permutation(count).astype(float)[:, None]
    low, high = bounds(values, np.arange(count))
    assert (low[0], high[0]) == (behind - 1, count - behind)


def test_a_building_of_many_meters_is_one_of_them():
    values = np.arange(4.0 * EACH)
    owners = np.where(values >= 2 * EACH, -1, values)  # the upper half is one entity's
    low, high = bounds(np.stack([values, -values], axis=1), owners)
    assert low.tolist() == [1, -(2 * EACH - 1)]
    assert high.tolist() == [2 * EACH - 1, -1]


def test_what_is_missing_is_left_out():
    values = np.arange(2.0 * EACH)
    values[EACH // 2 :: 2] = np.nan
    low, high = bounds(values[:, None], np.arange(len(values)))
    assert (low[0], high[0]) == (0, 2 * EACH - 1), "fewer than twice EACH are known: the extremes themselves"


def test_one_large_home_does_not_set_the_end_of_the_law():
    numbers = torch.randn(5 * EACH, 2, generator=torch.Generator().manual_seed(0))
    drawn = []
    for largest in (4.0, 40.0):
        numbers[17, 0] = largest
        law = HouseholdModel(HouseholdConfig(), 2, 1)
        law.fit(numbers, torch.zeros(1, len(numbers), 1), torch.arange(len(numbers)), seed=0)
        drawn.append(law.sample(torch.zeros(len(numbers), 1), torch.Generator().manual_seed(1)))
    assert drawn[1][:, 0].max() < 5
    assert drawn[1][:, 0].max() == pytest.approx(float(drawn[0][:, 0].max()), abs=0.05)


def test_limits_of_the_scaler_are_of_several():
    values, starts = population(count=2 * EACH, length=84)
    values[5] *= 1 + 200 * (np.arange(84) == 40)  # one absurd peak
    limits = [
        SeriesScaler(HouseholdConfig(), 14_400).fit(of, starts[: len(of)]).state["peak_high"]
        for of in (values, values[6:])
    ]
    assert limits[0] == pytest.approx(limits[1], abs=0.5), "with it, and without it where one sets the limit"
