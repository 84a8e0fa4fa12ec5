"""Every quantity of a series and every distance between sets, against values worked out on paper or by another library.

Steps of 4 hours (six to a day) unless said; 2013-01-01 was a Tuesday, 2013-01-07 a Monday.
"""

import numpy as np
import pytest
from scipy.signal import periodogram
from scipy.stats import wasserstein_distance

from ttsgan.evaluation.distances import METRICS, Pool
from ttsgan.evaluation.features import PROBABILITIES, _power, autocorrelation, extract, histogram_edges
from ttsgan.evaluation.judged import Judged

STEPS = 6
MONDAY = "2013-01-07"


def as_set(values, start=MONDAY, step_seconds=14_400):
    """Make a set of values (n, L) or (n, C, L)."""
    values = np.asarray(values, np.float32)
    values = values[:, None] if values.ndim == 2 else values
    return Judged(
        values=values,
        entities=np.arange(len(values)).astype(str),
        starts=np.full(len(values), np.datetime64(start, "s")),
        step_seconds=step_seconds,
        unit="kWh",
    )


def described(series, **options):
    """Return the feature families of one series (L,) or (C, L), each a plain array (k,)."""
    judged = as_set(np.asarray(series)[None], **options)
    columns = extract(judged, histogram_edges(judged.filled()), 1e-9).columns
    return {name: column[0] for name, column in columns.items()}


def pooled(train, holdout, synthetic, **options):
    """Return a function that gives every metric between counts of pooled series by name."""
    sets = [as_set(values, **options) for values in (train, holdout, synthetic)]
    edges = histogram_edges(np.concatenate([part.filled() for part in sets[:2]]))
    pool = Pool(tuple(extract(part, edges, 1e-9) for part in sets), edges, np.random.default_rng(0))

    def compare(first, second):
        values = pool.distances(np.asarray(first), np.asarray(second), np.random.default_rng(1))
        return dict(zip([metric.name for metric in pool.metrics], values, strict=True))

    return pool, compare


# ---- size and distribution of one series ------------------------------------------------------------------------


def test_size_and_distribution():
    columns = described(np.tile([0, 0, 1, 1, 3, 1], 70))
    assert columns["level"] == pytest.approx(0, abs=1e-6)
    assert columns["peak"] == pytest.approx(np.log(3))
    assert columns["load factor"] == pytest.approx(1 / 3)
    assert columns["zero share"] == pytest.approx(1 / 3)
    assert columns["sign"] == pytest.approx(1)
    ladder = described(np.random.default_rng(0).permutation(101))
    assert ladder["level"] == pytest.approx(np.log(50))
    assert ladder["base load"] == pytest.approx(5 / 50)
    assert ladder["high quantile"] == pytest.approx(np.log(99.9))


def test_levels_follow_the_unit_and_shapes_do_not():
    x = np.random.default_rng(0).gamma(2, size=STEPS * 60)
    one, thousand = described(x), described(1000 * x)
    for name in ("level", "peak", "high quantile"):
        assert thousand[name] - one[name] == pytest.approx(np.log(1000))
    for name in set(one) - {"level", "peak", "high quantile"}:
        assert thousand[name] == pytest.approx(one[name], abs=1e-4), name


def test_quantiles_are_those_of_numpy():
    x = np.random.default_rng(1).gamma(2, size=400).astype(np.float32)
    assert described(x)["shape marginal"] == pytest.approx(np.quantile(x / x.mean(), PROBABILITIES), rel=1e-5)


def test_negative_load():
    columns = described(np.tile([3.0, -1.0], 60))
    assert columns["sign"] == pytest.approx(0.5)
    assert columns["level"] == pytest.approx(np.log(2))
    assert columns["peak"] == pytest.approx(np.log(3))
    assert columns["load factor"] == pytest.approx(2 / 3)
    export = described(np.tile([1.0, -5.0], 60))
    assert export["peak"] == pytest.approx(np.log(5)), "the largest size counts, whatever its sign"


# ---- defects and ramps ------------------------------------------------------------------------------------------


def test_flat_run_counts_steps_without_change():
    x = np.arange(60, dtype=float)
    x[20:25] = 20
    assert described(x)["flat run"] == pytest.approx(np.log1p(4))
    assert described(np.ones(60))["flat run"] == pytest.approx(np.log1p(59))
    assert described(np.arange(60.0))["flat run"] == 0


def test_ramps():
    # day after day 0, 1, 0, 2, 2 inside and 1 at midnight; the mean is 1
    columns = described(np.tile([0, 0, 1, 1, 3, 1], 70))
    assert columns["ramp mean"] == pytest.approx((70 * 5 + 69 * 1) / 419)
    assert columns["ramp p99"] == pytest.approx(2)


@pytest.mark.parametrize("hour", ["00", "12"])
def test_seam_is_at_midnight_wherever_the_series_begins(hour):
    x = np.tile([0, 0, 0, 0, 0, 3], 40)  # jumps: 3 at midnight and 3 before the last step, the mean is .5
    x = x if hour == "00" else x[3:-3]
    y = 3 / x.mean()
    border, inside = y, y / 5
    columns = described(x, start=f"2013-01-07T{hour}")
    assert columns["seam"] == pytest.approx(np.log((border + 1e-3) / (inside + 1e-3)), abs=0.01)


# ---- memory and spectrum ----------------------------------------------------------------------------------------


def test_autocorrelation_on_paper_and_by_definition():
    assert described(np.tile([1.0, 3.0], 42))["autocorrelation 1 step"] == pytest.approx(-1, abs=1e-5)
    x = np.random.default_rng(0).gamma(1, size=STEPS * 40)
    columns, c = described(x), x - x.mean()
    for name, lag in {"1 step": 1, "1 day": 6, "2 days": 12, "1 week": 42, "2 weeks": 84}.items():
        wanted = (c[lag:] * c[:-lag]).mean() / (c**2).mean()
        assert columns[f"autocorrelation {name}"] == pytest.approx(wanted, abs=1e-5), name
    assert autocorrelation(c[None].astype(np.float32), 5)[0, 0] == pytest.approx(1)


def test_autocorrelation_at_52_weeks():
    length = 365 * STEPS
    x = np.ones(length)
    x[:STEPS] = x[-STEPS:] = 3  # 1 January and 31 December, the only two days that overlap
    share = 2 * STEPS / length
    assert described(x)["autocorrelation 52 weeks"] == pytest.approx((1 - share) / share, rel=1e-3)
    x = np.random.default_rng(0).normal(size=3 * length)
    assert abs(described(x)["autocorrelation 52 weeks"]) < 0.05
    assert "autocorrelation 52 weeks" not in described(x[: 364 * STEPS + 5])
    assert "autocorrelation 52 weeks" in described(np.tile([1.0, 2.0], 4400)[: 364 * 24 + 24], step_seconds=3600)


def test_lines_hold_the_shares_of_variance_of_day_week_and_year():
    t = np.arange(364 * STEPS)
    x = sum(a * np.cos(2 * np.pi * t / (n * STEPS)) for a, n in ((1.0, 1), (0.5, 7), (0.5, 364)))
    columns = described(3 + x)
    for name, share in {"daily": 1 / 1.5, "weekly": 0.25 / 1.5, "yearly": 0.25 / 1.5}.items():
        assert columns[f"{name} line"] == pytest.approx(np.log(share + 1e-4), abs=1e-4), name
    assert columns["spectrum"] == pytest.approx(np.log(1e-3), abs=1e-2), "nothing is left between the lines"
    assert "yearly line" not in described(x[: 300 * STEPS])


def test_half_yearly_waves_count_to_the_year_also_over_two_years():
    t = np.arange(730 * STEPS)
    columns = described(3 + np.cos(2 * np.pi * t / (365 * STEPS)) + np.cos(4 * np.pi * t / (365 * STEPS)))
    assert columns["yearly line"] == pytest.approx(0, abs=1e-3)


def test_spectrum_of_an_impulse_is_flat_and_power_is_that_of_scipy():
    x = np.zeros(STEPS * 63 - 1)
    x[100] = 1
    assert described(x)["spectrum"] == pytest.approx(np.log(1 + 1e-3), abs=1e-3)
    noise = np.random.default_rng(0).normal(size=401)
    wanted = periodogram(noise)[1][1:]  # of odd length: no frequency counts half
    assert _power((noise - noise.mean())[None])[0, 1:] == pytest.approx(wanted / wanted.mean(), rel=1e-6)


# ---- days, weeks, months ----------------------------------------------------------------------------------------


def test_week():
    days = np.tile([1, 1, 1, 1, 1, 2, 2], 4)
    x = np.repeat(days, STEPS) * np.tile([0, 1, 1, 1, 1, 2], 28)
    mean = 9 / 7
    columns = described(x)
    assert columns["weekend contrast"] == pytest.approx(1 / mean)
    week = columns["week"].reshape(7, STEPS)
    assert week == pytest.approx(np.outer([1, 1, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 2]) / mean)
    assert columns["weekday and weekend day"] == pytest.approx(np.concatenate([week[0], week[5]]))
    # three days later everything is in its place again
    later = described(x[3 * STEPS :], start="2013-01-10")
    assert later["week"] * x[3 * STEPS :].mean() == pytest.approx(columns["week"] * mean)
    assert later["weekend contrast"] * x[3 * STEPS :].mean() == pytest.approx(1)
    daily = described(days, step_seconds=86_400)
    assert daily["week"] == pytest.approx(np.array([1, 1, 1, 1, 1, 2, 2]) / mean)


def test_months_and_seasons():
    x = np.ones((365, STEPS))
    x[:31] = 2  # January
    mean = (365 + 31) / 365
    columns = described(x.ravel(), start="2013-01-01")
    assert columns["month shares"] == pytest.approx(np.r_[2, np.ones(11)] / mean)
    assert columns["winter contrast"] == pytest.approx((4 / 3 - 1) / mean)


def test_spread_inside_a_household():
    alternating = np.repeat(np.tile([1.0, 3.0], 30), STEPS)
    columns = described(alternating)
    assert columns["daily energy spread"] == pytest.approx(0.5)
    assert columns["day shape spread"] == pytest.approx(0, abs=1e-6)
    columns = described(np.tile([0.0, 2.0, 2.0, 0.0], 30), step_seconds=43_200)
    assert columns["daily energy spread"] == pytest.approx(0, abs=1e-6)
    assert columns["day shape spread"] == pytest.approx(1)


@pytest.mark.parametrize("start", ["2013-01-01T00", "2013-01-01T12"])
def test_time_of_the_peak(start):
    when = np.datetime64("2013-03-06T08")  # a Wednesday
    x = np.ones(365 * STEPS)
    x[(when - np.datetime64(start)) // np.timedelta64(4, "h")] = 9
    columns = described(x, start=start)
    assert columns["peak hour"].tolist() == np.eye(6)[2].tolist()
    assert columns["peak weekday"].tolist() == np.eye(7)[2].tolist()
    assert columns["peak month"].tolist() == np.eye(12)[2].tolist()
    assert "peak month" not in described(x[: 100 * STEPS], start=start)
    assert {"peak hour", "peak weekday"}.isdisjoint(described(x[:STEPS], start=start))


def test_hours_of_the_peak_are_at_most_24():
    x = np.zeros(96 * 3)
    x[96 + 4 * 7 + 3] = 1  # a quarter of an hour before eight
    assert described(x, step_seconds=900)["peak hour"].argmax() == 7


def test_correlation_of_channels():
    x = np.random.default_rng(0).gamma(1, size=300)
    columns = described([x, 2 * x + 1, x.max() - x])
    assert columns["channel correlation"] == pytest.approx([1, -1, -1], abs=1e-4)


# ---- distances between sets -------------------------------------------------------------------------------------


def test_distance_of_a_quantity_is_that_of_scipy_in_spreads_of_real_homes():
    rng = np.random.default_rng(0)
    x = rng.gamma(2, size=(30, STEPS * 20)) * rng.gamma(2, size=(30, 1))
    _, compare = pooled(x[:10], x[10:20], x[20:])
    found = compare(np.repeat([0, 0, 1], 10), np.repeat([1, 0, 0], 10))["log annual level"]
    level = np.log(x.mean(1))
    low, high = np.quantile(level[:20], [0.05, 0.95])
    assert found == pytest.approx(wasserstein_distance(level[20:], level[:10]) / ((high - low) / 3.29), rel=1e-3)


def test_distances_of_the_values_themselves():
    rng = np.random.default_rng(0)
    real = 1 + rng.random((20, STEPS * 60))
    pool, compare = pooled(real[:10], real[10:], real[:10] + 0.5)
    found = compare(np.repeat([0, 0, 1], 10), np.repeat([1, 0, 0], 10))
    mean = real[:10].mean()
    assert pool.mean_load == pytest.approx(mean)
    for name in ("all values, raw", "quantile bands by hour"):
        assert found[name] == pytest.approx(0.5 / mean, rel=0.05), name
    wanted = wasserstein_distance(real[:10].ravel() + 0.5, real[:10].ravel()) / mean
    assert found["all values, raw"] == pytest.approx(wanted, rel=0.05)
    assert found["mean day by month"] == pytest.approx(0.5 / mean, rel=1e-3)
    same = compare(np.repeat([1, 0, 0], 10), np.repeat([1, 0, 0], 10))
    assert {name for name, value in same.items() if value > 1e-5} <= {"coincidence factor"}, "its groups are drawn anew"


def test_load_duration_curve():
    flat, half = np.ones((4, STEPS * 20)), np.tile([0.0, 2.0], (4, STEPS * 10))
    _, compare = pooled(flat, flat, half)
    # the curves lie 1 apart everywhere but at their crossing
    assert compare([0] * 8 + [1] * 4, [1] * 4 + [0] * 8)["load-duration curve"] == pytest.approx(1, abs=0.04)


def test_coverage_of_the_band():
    rng = np.random.default_rng(0)
    wide = rng.random((30, STEPS * 60))
    narrow = 0.5 + 0.2 * (rng.random((10, STEPS * 60)) - 0.5)
    _, compare = pooled(wide[:10], wide[10:20], np.concatenate([wide[20:], narrow]))
    holdout = np.repeat([0, 1, 0, 0], 10)
    name = "coverage of the 5-95 % band"
    assert compare(np.repeat([0, 0, 1, 0], 10), holdout)[name] == pytest.approx(0, abs=0.02)
    # 90 % of a uniform band of width .2 holds .18 of what is spread over 1
    assert compare(np.repeat([0, 0, 0, 1], 10), holdout)[name] == pytest.approx(0.9 - 0.18, abs=0.03)
    # and all of it lies inside the wide band
    assert compare(holdout, np.repeat([0, 0, 0, 1], 10))[name] == pytest.approx(0.1, abs=0.01)


def test_total_variation_of_the_time_of_the_peak():
    def peaking(slots):
        x = np.ones((len(slots), STEPS * 14))
        x[np.arange(len(slots)), STEPS + np.array(slots)] = 5
        return x

    _, compare = pooled(peaking([0, 0, 1, 1]), peaking([0, 1, 1, 1]), peaking([5, 5, 5, 5]))
    found = compare([1] * 4 + [0] * 8, [0] * 4 + [1] * 4 + [0] * 4)
    assert found["time of the peak"] == pytest.approx((0.25 + 0) / 2), "hour 1/4 apart, weekday the same"
    assert compare([1] * 4 + [0] * 8, [0] * 8 + [1] * 4)["time of the peak"] == pytest.approx((1 + 0) / 2)


def test_mean_week_is_the_mean_of_all_homes():
    days = np.repeat(np.tile([1, 1, 1, 1, 1, 2, 2], 4), STEPS)
    homes = np.tile(days, (4, 1))
    _, compare = pooled(homes, homes, np.ones((4, len(days))))
    mean = 9 / 7
    wanted = (5 * abs(1 / mean - 1) + 2 * abs(2 / mean - 1)) / 7
    assert compare([1] * 4 + [0] * 8, [0] * 8 + [1] * 4)["mean week"] == pytest.approx(wanted)


def test_coincidence_factor():
    early, late = np.tile([2.0, 1.0], 30), np.tile([1.0, 2.0], 30)
    pool, _ = pooled([early, late], [early, late], [early, early])
    rng = np.random.default_rng(0)
    assert pool._coincidence(np.array([1, 1, 0, 0, 0, 0]), rng)[0] == pytest.approx(np.full(12, 3 / 4))
    assert pool._coincidence(np.array([0, 0, 0, 0, 1, 1]), rng)[0] == pytest.approx(np.full(12, 1))


def test_between_home_share_of_variance():
    # homes of mean 1 and 3: variance 1 between them; 2 of all values on one side, 3.5 on the other
    one, other = [np.tile(x, 30) for x in ([0, 2], [2, 4])], [np.tile(x, 30) for x in ([1, 5], [0, 2])]
    _, compare = pooled(one, other, other)
    found = compare([1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1])
    assert found["between-home share of variance"] == pytest.approx(np.log((1 / 2) / (1 / 3.5)), rel=1e-4)


# ---- any data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("length", "step_seconds"),
    [(2, 14_400), (5, 14_400), (13, 3600), (100, 900), (400, 7000), (400, 86_400), (2190, 14_400), (60, 604_800)],
)
def test_every_family_is_finite_for_any_length_step_and_gaps(length, step_seconds, channels):
    rng = np.random.default_rng(0)
    values = rng.gamma(1, size=(12, channels, length)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:, :, 0] = 1
    values[3] = 0
    values[4] = -2
    values[5, :, 1:] = np.nan
    pool, compare = pooled(values[:4], values[4:8], values[8:], start="2013-01-01T05:00", step_seconds=step_seconds)
    found = compare(np.repeat([1, 0, 0], 4), np.repeat([0, 0, 1], 4))
    assert np.isfinite(list(found.values())).all()
    assert np.isfinite(pool.scaled).all()
    assert ("time of the peak" in found) == (length * step_seconds >= 14 * 86_400)


def test_every_metric_of_a_family_names_families_that_exist():
    values = np.random.default_rng(0).gamma(1, size=(2, 2, 2190))
    judged = as_set(values)
    columns = extract(judged, histogram_edges(judged.values), 1e-9).columns
    named = {name for m in METRICS if "set:" not in m.source for name in m.source.split(":")[-1].split(" + ")}
    assert named == set(columns)
