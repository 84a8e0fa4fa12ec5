"""Ranks and quantile functions against numpy's sort."""

import numpy as np
import pytest
from scipy.special import ndtri

from ttsgan.data import quantiles


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_scores_of_five_values():
    made = quantiles.normal_scores(np.array([[30.0, 10.0, 50.0, 20.0, 40.0]]), 3)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[0], ndtri(np.array([0.5, 0.1, 0.9, 0.3, 0.7])), rtol=1e-6)


def test_gaps_stay_and_do_not_count():
    values = np.array([[np.nan, 2.0, 1.0, np.nan], [np.nan] * 4])
    made = quantiles.normal_scores(values, 3)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(values))
    np.testing.assert_allclose(made[0, 1:3], [ndtri(0.75), ndtri(0.25)], rtol=1e-6)


def test_ties_are_ordered_at_random_within_their_stretch():
    values = np.tile(np.repeat([0.0, 1.0, 2.0], [600, 300, 100]), (200, 1))
    values[:, -1] += np.arange(200)  # equal series would have their ties ordered alike
    made = quantiles.normal_scores(values, 3)
    np.testing.assert_allclose(
        np.sort(made, axis=1), np.tile(ndtri((np.arange(1000) + 0.5) / 1000), (200, 1)), atol=1e-5
    )
    assert made[:, :600].max() < made[:, 600:900].min() < made[:, 600:900].max() < made[:, 900:].min()
    # Each place within the stretch of zeros holds a mean rank, none a preferred one.
    ranks = made[:, :600].argsort(1).argsort(1).mean(0)
    assert abs(np.corrcoef(ranks, np.arange(600))[0, 1]) < 0.15
    assert not np.array_equal(made[0], made[1])


def test_one_score_is_the_mean_of_where_it_holds():
    scores = np.array([[-1.0, 2.0, 0.5, 4.0], [1.0, 2.0, 3.0, 4.0]])
    where = np.array([[True, False, True, True], [False] * 4])
    made = quantiles.with_one_score(scores, where)
    np.testing.assert_allclose(made, [[3.5 / 3, 2, 3.5 / 3, 3.5 / 3], [1, 2, 3, 4]])


def test_order_of_ties_does_not_depend_on_company():
    values = np.repeat(np.arange(5.0), 20)[None] * np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(quantiles.normal_scores(values, 3)[1:2], quantiles.normal_scores(values[1:2], 3))


def test_same_seed_same_ties():
    values = np.zeros((2, 50))
    first, second = (quantiles.normal_scores(values, 3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("length", [2, 3, 252, 8760])
def test_grid_reaches_the_outer_values(length):
    grid = quantiles.score_grid(length)
    assert grid.shape == (quantiles.GRID_POINTS,)
    assert (np.diff(grid) > 0).all()
    np.testing.assert_allclose(grid, -grid[::-1], atol=1e-12)
    assert grid[-1] == pytest.approx(ndtri((length - 0.5) / length))


def test_quantile_function_keeps_extremes_and_is_monotone(rng):
    values = rng.lognormal(size=(20, 500))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 0] = 1.0
    law = quantiles.quantile_function(values, quantiles.score_grid(500))
    np.testing.assert_allclose(law[:, 0], np.nanmin(values, axis=1))
    np.testing.assert_allclose(law[:, -1], np.nanmax(values, axis=1))
    assert (np.diff(law, axis=1) >= 0).all()
    # Between the grid's points it is the interpolated order statistic.
    ordered = np.sort(values[4][~np.isnan(values[4])])
    at = ndtri((np.arange(len(ordered)) + 0.5) / len(ordered))
    np.testing.assert_allclose(law[4], np.interp(quantiles.score_grid(500), at, ordered))


def test_one_value_is_a_constant_law():
    law = quantiles.quantile_function(np.array([[np.nan, 4.0]]), quantiles.score_grid(2))
    np.testing.assert_array_equal(law, np.full((1, quantiles.GRID_POINTS), 4.0))


def test_placed_values_have_the_law_exactly_in_the_order_of_the_scores(rng):
    grid = quantiles.score_grid(300)
    laws = np.sort(rng.gamma(1.0, size=(6, quantiles.GRID_POINTS)), axis=1)
    scores = rng.standard_t(2, size=(6, 300))
    made = quantiles.place(scores, quantiles.sorted_values(grid, laws, 300, np.zeros(6, int)))
    wanted = np.stack([np.interp(ndtri((np.arange(300) + 0.5) / 300), grid, law) for law in laws])
    np.testing.assert_array_equal(np.sort(made, axis=1), wanted)
    np.testing.assert_array_equal(np.take_along_axis(made, scores.argsort(1), axis=1), wanted)


@pytest.mark.parametrize("monotone", [np.exp, np.tanh, lambda x: 5 * x - 3])
def test_only_the_order_of_the_scores_matters(rng, monotone):
    grid, law = quantiles.score_grid(100), np.sort(rng.normal(size=(1, quantiles.GRID_POINTS)))
    scores, ordered = rng.normal(size=(1, 100)), quantiles.sorted_values(grid, law, 100, [0])
    np.testing.assert_array_equal(quantiles.place(scores, ordered), quantiles.place(monotone(scores), ordered))


def test_round_trip_of_a_smooth_law(rng):
    """65 points keep log-normal series of 2190 points: half of the values to 0.5 %, all but the outer 1 % to 10 %."""
    values = rng.lognormal(sigma=0.8, size=(3, 2190))
    grid = quantiles.score_grid(2190)
    ordered = quantiles.sorted_values(grid, quantiles.quantile_function(values, grid), 2190, [0] * 3)
    back = quantiles.place(quantiles.normal_scores(values, 3), ordered)
    inner = (values > np.quantile(values, 0.005)) & (values < np.quantile(values, 0.995))
    error = np.abs(back / values - 1)
    assert np.median(error) < 0.005
    assert error[inner].max() < 0.1
    np.testing.assert_allclose(back.max(1), values.max(1), rtol=1e-6)


def test_zeros_come_before_the_law_of_the_rest(rng):
    """Of 50 values 0, 20 or all are zero; the others are what the law says of so many."""
    grid = quantiles.score_grid(50)
    laws = np.sort(rng.gamma(1.0, size=(3, quantiles.GRID_POINTS)), axis=1)
    made = quantiles.sorted_values(grid, laws, 50, np.array([0, 20, 50]))
    assert (made == 0).sum(1).tolist() == [0, 20, 50]
    np.testing.assert_array_equal(made[1, 20:], np.interp(ndtri((np.arange(30) + 0.5) / 30), grid, laws[1]))


def test_which_series_can_be_used():
    nan = np.nan
    values = np.array(
        [
            [[1.0, 2.0], [0.0, 0.0]],
            [[nan, 0.0], [1.0, 2.0]],
            [[1.0, 2.0], [3.0, 3.0]],
            [[1.0, 2.0], [nan, nan]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[1.0, 2.0], [2.0, 1.0]],
        ]
    )
    assert quantiles.informative(values).tolist() == [True, True, False, False, False, True]
    assert quantiles.informative(values[:, :1]).tolist() == [True, False, True, True, False, True]


def test_varies():
    nan = np.nan
    values = np.array([[[1.0, 2.0], [3.0, 3.0]], [[nan, 1.0], [nan, nan]], [[-1.0, -1.5], [0.0, -0.0]]])
    np.testing.assert_array_equal(quantiles.varies(values), [[True, False], [False, False], [True, False]])
