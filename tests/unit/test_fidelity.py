"""The comparison of distributions on populations whose answer is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ttsgan.errors import DataError
from ttsgan.evaluation.blocks import Blocks
from ttsgan.evaluation.distances import METRICS
from ttsgan.evaluation.features import autocorrelation, extract, histogram_edges
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.manifold import neighbour_scores

STEPS = 6


def homes(num, seed, prefix, days=60, channels=1, start="2013-01-01", step_seconds=14_400):
    """Draw homes: own level, own daily shape, correlated noise."""
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-1, 0.5, (num, channels, 1, 1)))
    shape = np.exp(0.5 * rng.normal(size=(num, channels, 1, STEPS)) + np.sin(np.arange(STEPS)))
    noise = rng.normal(size=(num, channels, days, STEPS))
    noise = np.exp(0.4 * noise + 0.3 * rng.normal(size=(num, channels, days, 1)))
    return Judged(
        values=(level * shape * noise).reshape(num, channels, -1).astype(np.float32),
        entities=np.array([f"{prefix}{i}" for i in range(num)]),
        starts=np.full(num, np.datetime64(start, "s")),
        step_seconds=step_seconds,
        unit="kWh",
    )


@pytest.fixture(scope="module")
def real():
    return homes(80, 1, "t"), homes(80, 2, "h")


def quick(*sets, **options):
    """Evaluate without what is learned, which takes seconds."""
    return evaluate(*sets, **{"classifier_series": 0, "bootstrap": 0} | options)


def headline(result):
    return result["headline"]["value"]


def by_name(result):
    return {metric["name"]: metric for metric in result["metrics"]}


def test_exchangeable_third_sample_scores_about_one():
    values = []
    for seed in range(0, 36, 3):
        sets = (homes(50, 100 + seed + i, prefix) for i, prefix in enumerate("ths"))
        values.append(headline(evaluate(*sets, bootstrap=0, classifier_series=0)))
    assert np.exp(np.mean(np.log(values))) == pytest.approx(1, abs=0.1)
    assert max(values) < 1.7


def test_collapse_and_shuffle_score_far_above(real):
    train = real[0].values
    collapsed = replace(homes(80, 3, "s"), values=np.repeat(train.mean(0, keepdims=True), 80, 0))
    rng = np.random.default_rng(0)
    shuffled = replace(homes(80, 3, "s"), values=rng.permuted(train, axis=0))
    for broken in (collapsed, shuffled):
        result = quick(*real, broken, bootstrap=30)
        assert result["headline"]["low"] > 2
    named = by_name(quick(*real, collapsed))
    assert named["mean day by month"]["ratio"] < 1.5, "aggregates cannot see collapse"
    assert named["coincidence factor"]["ratio"] > 4
    assert named["recall (shortfall from 1)"]["value"] < 0.1


def test_a_scaled_set_is_seen_by_size_only(real):
    doubled = homes(80, 4, "s")
    doubled = replace(doubled, values=doubled.values * 3)
    named = by_name(quick(*real, doubled))
    assert named["log annual level"]["ratio"] > 4
    assert named["load factor"]["ratio"] < 2


def test_result_is_plain_json_and_reproducible(real):
    synthetic = homes(60, 5, "s")
    first, second = (evaluate(*real, synthetic, seed=3, bootstrap=10, classifier_seeds=2) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert first["sizes"]["compared"] == 60
    assert first["headline"]["low"] < first["headline"]["value"] < first["headline"]["high"]
    assert first["schema_version"] == 2
    keys = {"family", "name", "distance", "floor", "ratio", "low", "high", "unit", "sees", "blind_to", "in_headline"}
    for metric in first["metrics"]:
        assert keys <= set(metric)
        assert metric["sees"]
        assert metric["blind_to"]
        assert metric["ratio"] > 0
    assert len(by_name(first)) == len(first["metrics"])
    assert first["headline"]["metrics"] == sum(metric["in_headline"] for metric in first["metrics"])
    classifiers = [metric for metric in first["metrics"] if metric["family"] == "classifier"]
    assert [metric["name"] for metric in classifiers] == [
        f"{name} accuracy - 0.5" for name in ("boosting", "convolution", "patch transformer")
    ]
    for metric in classifiers:
        assert 0 <= metric["distance"] <= 0.5
        assert 0 < metric["low"] <= metric["ratio"] <= metric["high"]
        assert metric["auc"] == pytest.approx(0.5, abs=0.2)
        assert metric["auc_floor"] == pytest.approx(0.5, abs=0.2)
    assert set(first["curves"]) == {"train", "holdout", "synthetic"}
    assert len(first["curves"]["train"]["autocorrelation"]["value"]) == 8 * STEPS + 1


@pytest.mark.parametrize("case", ["two channels", "negative", "gaps", "no day", "daily", "short", "other year"])
def test_any_shape_is_judged(case):
    options = {
        "two channels": {"channels": 2},
        "no day": {"step_seconds": 7_000},
        "daily": {"step_seconds": 86_400},
        "short": {"days": 3},
    }.get(case, {})
    sets = [homes(24, seed, prefix, **options) for seed, prefix in enumerate("ths")]
    if case == "negative":
        sets = [replace(part, values=part.values - 0.5) for part in sets]
    if case == "gaps":
        gaps = np.random.default_rng(0).random(sets[0].values.shape) < 0.2
        sets[:2] = [replace(part, values=np.where(gaps, np.nan, part.values)) for part in sets[:2]]
    if case == "other year":
        sets[2] = replace(sets[2], starts=sets[2].starts + np.timedelta64(366, "D"))
    learned = 400 if case in ("two channels", "gaps", "no day", "short") else 0
    result = evaluate(*sets, bootstrap=5, classifier_series=learned, classifier_seeds=2)
    assert 0.4 < headline(result) < 2.5
    json.dumps(result, allow_nan=False)
    assert ("correlation of channels" in by_name(result)) == (case == "two channels")


def test_gaps_of_real_series_do_not_count_against_complete_synthetic_ones():
    train, holdout, synthetic = (homes(80, seed, prefix) for seed, prefix in ((1, "t"), (2, "h"), (3, "s")))
    without = headline(quick(train, holdout, synthetic))
    gaps = np.random.default_rng(0).random(train.values.shape) < 0.3
    holed = [replace(part, values=np.where(gaps, np.nan, part.values)) for part in (train, holdout)]
    assert headline(quick(*holed, synthetic)) == pytest.approx(without, rel=0.25)


def test_gaps_that_training_alone_has_do_not_betray_complete_synthetic_series():
    train, holdout, synthetic = (homes(80, seed, prefix) for seed, prefix in ((1, "t"), (2, "h"), (3, "s")))
    without = by_name(quick(train, holdout, synthetic))
    gaps = np.random.default_rng(0).random(train.values.shape) < 0.3
    holed = replace(train, values=np.where(gaps, np.nan, train.values))
    with_gaps = by_name(quick(holed, holdout, synthetic))
    for name in ("spread of day shapes", "mean ramp"):
        assert with_gaps[name]["distance"] < without[name]["distance"] + 0.1


def test_map_is_of_the_features_and_centred_on_real_series(real):
    far = homes(80, 3, "s")
    result = quick(*real, replace(far, values=far.values * 20))
    points = {name: np.array(result["embedding"][name]) for name in ("train", "holdout", "synthetic")}
    assert all(part.shape == (80, 2) for part in points.values())
    assert np.concatenate([points["train"], points["holdout"]]).mean(0) == pytest.approx([0, 0], abs=0.01)
    first, second = result["embedding"]["explained"]
    assert 1 > first >= second > 0
    distance = np.linalg.norm(points["synthetic"].mean(0))
    assert distance > 3 * np.linalg.norm(points["holdout"].mean(0))


def test_empty_series_are_set_aside_and_constant_ones_are_seen(real):
    synthetic = homes(80, 3, "s")
    values = synthetic.values.copy()
    values[:2] = np.nan
    values[2:42] = 1.0
    result = quick(*real, replace(synthetic, values=values))
    assert result["sizes"]["synthetic"]["set_aside_empty"] == 2
    assert result["sizes"]["synthetic"]["constant"] == 40
    assert by_name(result)["longest flat run"]["ratio"] > 5


def test_sets_in_blocks_are_judged_as_in_memory_and_only_what_is_compared_is_kept(real):
    """Empty series are in some blocks only; of the homes, some have two series, in two blocks."""
    sets = [*real, homes(80, 3, "s")]
    for number, part in enumerate(sets):
        values, entities = part.values.copy(), part.entities.copy()
        values[number::17] = np.nan
        values[3, :, :9] = np.nan
        entities[40:60] = entities[:20]
        sets[number] = replace(part, values=values, entities=entities)
    whole = quick(*sets, max_series=30)
    assert quick(*(Blocks.of(part, size) for part, size in zip(sets, (80, 7, 33), strict=True)), max_series=30) == whole
    assert whole["sizes"]["compared"] == 30
    assert whole["sizes"]["train"]["set_aside_empty"] == 5
    kept = ~np.isnan(sets[0].values).all(axis=(1, 2))
    assert whole["sizes"]["train"]["missing_share"] == pytest.approx(np.isnan(sets[0].values[kept]).mean(), rel=1e-6)


def test_entities_with_several_series_stay_together():
    sets = [homes(60, seed, prefix) for seed, prefix in enumerate("ths")]
    sizes = np.r_[[7, 1, 4, 11, 2] * 2, 10]
    sets[:2] = [replace(part, entities=np.repeat(part.entities[: len(sizes)], sizes)) for part in sets[:2]]
    result = quick(*sets, bootstrap=20)
    assert result["sizes"]["train"]["entities"] == len(sizes)
    assert 0.4 < headline(result) < 2.5


def test_sets_that_do_not_match_are_refused(real):
    with pytest.raises(DataError, match="synthetic: length is 30"):
        evaluate(*real, homes(80, 3, "s", days=5))
    with pytest.raises(DataError, match="at least 4"):
        evaluate(*real, homes(3, 3, "s"))


def test_features_have_hand_computed_values():
    day = np.array([0, 0, 1, 1, 3, 1], np.float32)
    values = np.tile(day, 70)[None, None]
    judged = Judged(
        values=values,
        entities=np.array(["a"]),
        starts=np.array(["2013-01-01"], "datetime64[s]"),
        step_seconds=14_400,
        unit="kWh",
    )
    columns = extract(judged, histogram_edges(values), 1e-9).columns
    assert columns["level"][0, 0] == pytest.approx(0)
    assert columns["load factor"][0, 0] == pytest.approx(1 / 3)
    assert columns["zero share"][0, 0] == pytest.approx(1 / 3)
    assert columns["flat run"][0, 0] == pytest.approx(np.log1p(1))
    assert columns["ramp mean"][0, 0] == pytest.approx((419 * 6 / 6 + 1) / 419, abs=0.01)
    assert columns["daily energy spread"][0, 0] == pytest.approx(0, abs=1e-6)
    assert columns["autocorrelation 1 day"][0, 0] == pytest.approx(1, abs=0.01)
    assert columns["daily line"][0, 0] == pytest.approx(0, abs=0.01)
    assert columns["weekday and weekend day"][0] == pytest.approx(np.tile(day, 2))


def test_autocorrelation_of_a_known_process():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4000))
    for t in range(1, 4000):
        x[:, t] += 0.7 * x[:, t - 1]
    rho = autocorrelation((x - x.mean(1, keepdims=True)).astype(np.float32), 3).mean(0)
    assert rho == pytest.approx([1, 0.7, 0.49, 0.343], abs=0.01)


def test_calendar_starts_at_midnight_and_knows_weekends():
    judged = homes(2, 0, "a", start="2013-01-04T12:00")
    assert judged.first_midnights().tolist() == [3, 3]
    weekday, month = judged.calendar(judged.days(judged.values).shape[2])
    assert weekday[0, :3].tolist() == [5, 6, 0]
    assert month[0, 0] == 0


def test_every_metric_says_what_it_sees():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.sees and metric.blind_to and metric.unit for metric in METRICS)


def test_a_set_that_starts_within_the_day_may_be_too_short_for_weeks():
    """Fourteen whole days and thirteen: what only one side has is not compared."""
    sets = (
        homes(40, 1, "t", days=14),
        homes(40, 2, "h", days=14),
        homes(40, 3, "s", days=14, start="2013-01-01T08:00"),
    )
    assert "mean week" not in by_name(quick(*sets))
    assert "mean week" in by_name(quick(*sets[:2], homes(40, 3, "s", days=14)))


def test_sets_in_which_nothing_varies_are_refused():
    flat = Judged(
        values=np.ones((12, 1, 96), np.float32),
        entities=np.arange(12).astype(str),
        starts=np.full(12, np.datetime64("2013-01-01", "s")),
        step_seconds=14_400,
        unit="kW",
    )
    with pytest.raises(DataError, match="alike in everything"):
        evaluate(flat, flat, flat, bootstrap=0, classifier_series=0)


def test_a_set_covers_itself_however_many_of_its_series_are_equal():
    """Meters that stand still: a ball of radius 0 holds what is equal to its centre."""
    points = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    points[:10] = points[0]
    scores = neighbour_scores(points, points.copy())
    assert [scores[name].mean() for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
