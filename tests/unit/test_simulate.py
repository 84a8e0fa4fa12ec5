"""The simulated population: reproducible, independent between homes, and shaped like household load."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from ttsgan.data.series_set import SeriesSet
from ttsgan.data.simulate import ARCHETYPES, BLOCK, FUSE_KW, simulate
from ttsgan.errors import ConfigError

WEEKEND_2013 = (np.arange(365) + 1) % 7 >= 5


@pytest.fixture(scope="module")
def hourly() -> SeriesSet:
    return simulate(3 * BLOCK, 8760, seed=1)


@pytest.fixture(scope="module")
def lived_in(hourly: SeriesSet) -> np.ndarray:
    """Hourly values (n, 8760) of the homes that are not nearly empty."""
    return hourly.values[kinds(hourly) != "near_empty", 0]


def kinds(population: SeriesSet) -> np.ndarray:
    """The archetype of each household."""
    return np.array(population.attributes["archetype"].to_pylist())


def digest(population: SeriesSet) -> str:
    return hashlib.sha256(population.values.tobytes() + kinds(population).tobytes()).hexdigest()


def autocorrelation(series: np.ndarray, lag: int) -> float:
    """Mean over series (n, T) of the lagged correlation, over pairs that were observed."""
    centred = series - np.nanmean(series, axis=1, keepdims=True)
    products = np.nanmean(centred[:, :-lag] * centred[:, lag:], axis=1)
    return float(np.mean(products / np.nanmean(centred**2, axis=1)))


def test_same_arguments_give_the_same_bytes_and_the_seed_matters():
    first = simulate(40, 2190, seed=7)
    assert digest(first) == digest(simulate(40, 2190, seed=7))
    assert digest(first) != digest(simulate(40, 2190, seed=8))


def test_a_household_does_not_depend_on_how_many_are_asked_for():
    many = simulate(600, 2190, seed=3)
    for count in (1, BLOCK, BLOCK + 1, 300):
        few = simulate(count, 2190, seed=3)
        np.testing.assert_array_equal(few.values, many.values[:count])
        np.testing.assert_array_equal(kinds(few), kinds(many)[:count])
        np.testing.assert_array_equal(few.ids, many.ids[:count])


def test_four_hour_steps_are_means_of_the_observed_hours(hourly):
    coarse = simulate(3 * BLOCK, 2190, seed=1)
    parts = hourly.values[:, 0].reshape(-1, 2190, 4).astype(np.float64)
    seen = np.isfinite(parts)
    count = seen.sum(axis=2)
    expected = np.where(seen, parts, 0).sum(axis=2) / np.maximum(count, 1)
    assert ((count > 0) & (count < 4)).any()
    assert (count == 0).any()
    np.testing.assert_array_equal(np.isnan(coarse.values[:, 0]), count == 0)
    np.testing.assert_allclose(coarse.values[:, 0][count > 0], expected[count > 0], rtol=1e-6)
    np.testing.assert_array_equal(kinds(coarse), kinds(hourly))
    assert (coarse.step_seconds, hourly.step_seconds) == (14_400, 3600)


def test_shapes_types_and_ranges(hourly):
    n = 3 * BLOCK
    assert hourly.values.shape == (n, 1, 8760)
    assert hourly.values.dtype == np.float32
    assert hourly.starts.dtype == np.dtype("datetime64[s]")
    assert (hourly.starts == np.datetime64("2013-01-01")).all()
    assert (hourly.ids[0], hourly.ids[-1], len(set(hourly.ids))) == ("sim-000001", f"sim-{n:06d}", n)
    assert hourly.unit == "kWh/h"
    observed = hourly.values[np.isfinite(hourly.values)]
    assert observed.min() >= 0
    assert observed.max() <= FUSE_KW + 1e-4
    np.testing.assert_allclose(observed, np.rint(observed.astype(np.float64) * 1000) / 1000, atol=2e-6)


def test_shares_of_the_archetypes_add_up_and_all_occur(hourly):
    assert sum(kind.share for kind in ARCHETYPES.values()) == pytest.approx(1)
    names, counts = np.unique(kinds(hourly), return_counts=True)
    assert set(names) == set(ARCHETYPES)
    for name, count in zip(names, counts, strict=True):
        share = ARCHETYPES[name].share
        deviation = np.sqrt(len(hourly.ids) * share * (1 - share))
        assert abs(count - len(hourly.ids) * share) < 4 * deviation


def test_each_archetype_has_a_day_of_its_own(hourly):
    shapes = {}
    for name in ARCHETYPES:
        day = np.nanmean(hourly.values[kinds(hourly) == name, 0].reshape(-1, 365, 24), axis=(0, 1))
        shapes[name] = day / day.mean()
    names = list(shapes)
    distances = {(a, b): np.sqrt(np.mean((shapes[a] - shapes[b]) ** 2)) for i, a in enumerate(names) for b in names[:i]}
    assert min(distances.values()) > 0.1, min(distances, key=distances.get)
    night, noon, evening = slice(0, 5), slice(10, 15), slice(18, 22)
    car, couple, pensioner = shapes["electric_vehicle"], shapes["working_couple"], shapes["retired"]
    assert car[night].mean() > 2 * couple[night].mean()
    assert couple[evening].mean() > 2 * couple[noon].mean()
    assert pensioner[noon].mean() > 1.3 * couple[noon].mean()


def test_weather_is_shared_and_drives_electric_heating(hourly):
    values = hourly.values[:, 0]
    filled = np.where(np.isnan(values), np.nanmean(values, axis=1, keepdims=True), values)
    days = filled.reshape(-1, 365, 24).mean(axis=2)

    def anomalies(homes: np.ndarray) -> np.ndarray:
        """Mean day totals less a month's running mean, Mondays to Fridays of the heating season."""
        mean = (homes / homes.mean(axis=1, keepdims=True)).mean(axis=0)
        smooth = np.convolve(np.pad(mean, 14, mode="reflect"), np.ones(29) / 29, mode="valid")
        season = np.r_[0:100, 300:350]
        return (mean - smooth)[season[~WEEKEND_2013[season]]]

    heated = days[kinds(hourly) == "electric_heating"]
    assert np.corrcoef(anomalies(heated[::2]), anomalies(heated[1::2]))[0, 1] > 0.7
    winter, summer = np.r_[0:60, 335:365], np.r_[152:244]
    ratio = {}
    for name in ("electric_heating", "working_couple"):
        homes = days[kinds(hourly) == name]
        ratio[name] = homes[:, winter].mean() / homes[:, summer].mean()
    assert ratio["electric_heating"] > 2
    assert 1.1 < ratio["working_couple"] < 2


def test_missing_hours(hourly):
    missing = np.isnan(hourly.values[:, 0]).sum(axis=1)
    assert 0.74 < (missing > 0).mean() < 0.88
    assert np.median(missing[missing > 0]) <= 5
    assert 24 < missing.max() < 120
    assert 0.02 < (missing >= 10).mean() < 0.15


def test_nearly_empty_meters_are_few_and_differ():
    population = simulate(1200, 2190, seed=2)
    values = population.values[:, 0]
    empty = values[kinds(population) == "near_empty"]
    assert 0.002 < len(empty) / len(values) < 0.016
    typical = np.nanmedian(empty, axis=1, keepdims=True)
    assert (typical < 0.012).all()
    assert (np.nanmean(np.abs(empty - typical) < 0.015, axis=1) > 0.95).all()
    filled = np.where(np.isnan(empty), 0, empty)
    for i, one in enumerate(filled):
        for other in filled[:i]:
            assert np.corrcoef(one, other)[0, 1] < 0.5


def test_no_home_is_a_near_copy_of_another(hourly):
    values = np.nan_to_num(hourly.values[:, 0])
    centred = values - values.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    alike = centred @ centred.T
    np.fill_diagonal(alike, 0)
    assert alike.max() < 0.97


def test_two_halves_of_the_population_are_exchangeable(lived_in):
    level = np.log(np.nanmean(lived_in, axis=1))
    peak = np.log(np.nanmax(lived_in, axis=1))
    for number in (level, peak):
        first, second = number[: len(number) // 2], number[len(number) // 2 :]
        error = np.sqrt(first.var() / len(first) + second.var() / len(second))
        assert abs(first.mean() - second.mean()) < 3.5 * error


def test_levels_and_marginals_look_like_household_load(lived_in):
    observed = lived_in[np.isfinite(lived_in)]
    assert 0.38 < observed.mean() < 0.52
    assert 0.2 < np.median(observed) < 0.3
    mean = np.nanmean(lived_in, axis=1)
    assert 0.5 < np.log(mean).std() < 0.8
    assert mean.max() > 4 * np.median(mean)
    assert 0.2 < mean.var() / np.nanvar(lived_in) < 0.36
    assert 0.08 < np.median(mean / np.nanmax(lived_in, axis=1)) < 0.15


@pytest.mark.parametrize(("lag", "expected"), [(1, 0.55), (24, 0.4), (168, 0.4)])
def test_autocorrelation_of_hours(lived_in, lag, expected):
    assert autocorrelation(lived_in, lag) == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize(("start", "saturday"), [("2013-01-01T00:00:00", 4), ("2024-07-01", 5)])
def test_weekends_follow_the_calendar_of_the_start(start, saturday):
    population = simulate(BLOCK, 8760, seed=4, start=start)
    homes = population.values[np.isin(kinds(population), ["working_couple", "family"]), 0].reshape(-1, 365, 24)
    noon = np.nanmean(homes[:, :, 10:14], axis=(0, 2))
    by_day = np.array([noon[d::7].mean() for d in range(7)])
    weekend = {saturday, (saturday + 1) % 7}
    assert set(np.argsort(by_day)[-2:]) == weekend
    assert by_day[list(weekend)].mean() > 1.3 * np.delete(by_day, list(weekend)).mean()


def test_empty_weeks_and_lasting_changes_occur(lived_in):
    weeks = np.nanmean(lived_in[:, : 364 * 24].reshape(len(lived_in), 52, 168), axis=2)
    usual = np.median(weeks, axis=1, keepdims=True)
    assert 0.2 < (weeks < 0.45 * usual).any(axis=1).mean() < 0.5  # London 2013: 0.31
    quarters = weeks.reshape(len(weeks), 4, 13).mean(axis=2)
    change = np.log(quarters[:, 3] / quarters[:, 0])
    assert 0.18 < change.std() < 0.4  # London 2013: 0.26
    assert (change > np.log(1.5)).mean() > 0.01  # London 2013: 0.025
    assert (change < -np.log(1.5)).mean() > 0.03  # London 2013: 0.10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 17_520}, r"length is 17520; use 8760 \(hourly\) or 2190"),
        ({"households": 0}, "households is 0; ask for at least 1"),
        ({"seed": -1}, "seed is -1; use 0 or more"),
        ({"start": "yesterday"}, "start is 'yesterday'; give a midnight"),
        ({"start": "2013-01-01T06:00:00"}, "start is '2013-01-01T06:00:00'; give a midnight"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        simulate(**{"households": 2, **arguments})


def test_close_to_real_homes(lived_in):
    path = Path(os.environ.get("TTSGAN_DATA", Path(__file__).parents[3] / "shared/data")) / "lcl_london_2013.parquet"
    if not path.exists():
        pytest.skip(f"no real data: {path.name} is not there (set TTSGAN_DATA)")
    import pyarrow.parquet as pq

    real = np.stack(pq.read_table(path, columns=["values"])["values"].to_numpy())
    real = real[np.nanmean(real == 0, axis=1) < 0.9]
    for lag in (1, 24, 168):
        assert autocorrelation(lived_in, lag) == pytest.approx(autocorrelation(real, lag), abs=0.12)
    levels = [np.log(np.quantile(x[np.isfinite(x)], (0.25, 0.5, 0.75, 0.95))) for x in (lived_in, real)]
    np.testing.assert_allclose(*levels, atol=0.25)
    year = [np.nanmean(x.reshape(-1, 365, 24), axis=(0, 2)) for x in (lived_in, real)]
    months = [np.array([part.mean() for part in np.array_split(y / y.mean(), 12)]) for y in year]
    assert np.corrcoef(*months)[0, 1] > 0.9
