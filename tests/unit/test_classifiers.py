"""Classifiers that tell two sets apart: they must find what is there, and nothing where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ttsgan.evaluation.classifiers import PENALTIES, boosting, classifier_entries, ridge, tell_apart
from ttsgan.evaluation.judged import Judged, joined
from ttsgan.evaluation.random_features import attend, convolve, share_gaps, whole_days

STEPS = 6
NAMES = ("boosting", "convolution", "patch transformer")


def homes(num, seed, prefix, days=42, channels=1, start="2013-01-01", steps=STEPS):
    """Draw homes: own level, own daily shape, weekends, noise that lasts for some hours."""
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-1, 0.5, (num, channels, 1, 1)))
    shape = np.exp(0.3 * rng.normal(size=(num, channels, 1, steps)) + np.sin(2 * np.pi * np.arange(steps) / steps))
    first = np.datetime64(start, "D").astype(int)
    weekend = np.where((first + np.arange(days) + 3) % 7 >= 5, 1.4, 1.0)[:, None]
    noise = rng.normal(size=(num, channels, days * steps))
    noise = np.exp(0.4 * (noise + np.roll(noise, 1, axis=-1))).reshape(num, channels, days, steps)
    return Judged(
        values=(level * shape * weekend * noise).reshape(num, channels, -1).astype(np.float32),
        entities=np.array([f"{prefix}{i}" for i in range(num)]),
        starts=np.full(num, np.datetime64(start, "s")),
        step_seconds=86_400 // steps,
        unit="kWh",
    )


def summary(judged):
    """Stand in for the feature space: level, peak, spread of log values."""
    x = np.log(np.maximum(judged.filled(), 1e-3))
    return np.concatenate([x.mean(-1), x.max(-1), x.std(-1)], axis=1)


def judge(train, holdout, synthetic, seed=0, seeds=5, max_series=100):
    space = np.concatenate([summary(part) for part in (train, holdout, synthetic)])
    entries = classifier_entries(train, holdout, synthetic, space, seed=seed, max_series=max_series, seeds=seeds)
    return {entry["name"].removesuffix(" accuracy - 0.5"): entry for entry in entries}


@pytest.fixture(scope="module")
def real():
    return homes(60, 1, "t"), homes(60, 2, "h")


def test_real_against_real_is_chance(real):
    told = [judge(*real, homes(60, seed, "s")) for seed in (3, 4)]
    for name in NAMES:
        entries = [one[name] for one in told]
        error = entries[0]["auc_error"] / 2**0.5
        assert np.mean([e["auc"] for e in entries]) == pytest.approx(0.5, abs=2.5 * error)
        assert all(e["low"] <= 1 <= e["high"] for e in entries)
        assert all(abs(e["auc_floor"] - 0.5) < 2.5 * e["auc_error"] for e in entries)


def test_errors_are_as_large_as_the_spread():
    judged = homes(120, 1, "t")
    score = ridge(convolve(whole_days(judged, 120), 120, 0), np.arange(120))
    rng = np.random.default_rng(0)
    labels = np.arange(120) < 60
    told = [
        tell_apart(score, labels, rows, rows, seed=0, seeds=5) for rows in (rng.permutation(120) for _ in range(40))
    ]
    for figure in ("accuracy", "auc"):
        spread = np.std([getattr(one, figure) for one in told])
        reported = np.mean([getattr(one, f"{figure}_error") for one in told])
        assert 0.7 < reported / spread < 1.6


def test_shuffled_hours_are_seen_by_who_reads_the_order(real):
    shuffled = homes(60, 3, "s")
    values = np.random.default_rng(0).permuted(shuffled.values, axis=2)
    told = judge(*real, replace(shuffled, values=values))
    assert told["convolution"]["distance"] > 0.4
    assert told["patch transformer"]["distance"] > 0.4
    assert told["boosting"]["distance"] < 0.15, "a summary without order cannot see it"


def test_a_doubled_level_is_seen_by_all(real):
    doubled = homes(60, 3, "s")
    told = judge(*real, replace(doubled, values=doubled.values * 3))
    assert min(entry["distance"] for entry in told.values()) > 0.2
    assert all(entry["low"] > 1 for entry in told.values())


def test_exchanged_weeks_of_the_year_are_seen_by_place():
    """Only the patch transformer knows where in the series a day lies."""
    sets = [homes(50, seed, prefix, days=112) for seed, prefix in ((1, "t"), (2, "h"), (3, "s"))]
    season = np.repeat(np.linspace(1, 2, 112), STEPS).astype(np.float32)
    sets = [replace(part, values=part.values * season) for part in sets]
    backwards = sets[2].values.reshape(50, 1, 16, -1)[:, :, ::-1].reshape(50, 1, -1)
    told = judge(*sets[:2], replace(sets[2], values=backwards))
    assert told["patch transformer"]["distance"] > 0.3


def test_a_copy_is_not_told_apart(real):
    copy = replace(real[1], entities=np.char.add("copy-", real[1].entities))
    for entry in judge(*real, copy).values():
        assert entry["auc"] < 0.5 + entry["auc_error"]
        assert entry["distance"] < 0.1


def test_same_seed_same_result_and_nothing_global_is_touched(real):
    synthetic = homes(60, 3, "s")
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    first, second, other = (judge(*real, synthetic, seed=seed, seeds=2) for seed in (3, 3, 4))
    assert first == second
    assert first != other
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("side", ["real", "synthetic", "both"])
def test_gaps_tell_nothing(real, side):
    synthetic = homes(60, 3, "s")
    rng = np.random.default_rng(0)

    def holed(judged, share):
        holes = np.repeat(rng.random((len(judged), 1, judged.values.shape[2] // 12)) < share, 12, axis=2)
        return replace(judged, values=np.where(holes, np.float32(np.nan), judged.values))

    train, holdout = real if side == "synthetic" else (holed(part, 0.3) for part in real)
    synthetic = synthetic if side == "real" else holed(synthetic, 0.2)
    told = judge(train, holdout, synthetic)
    for name in ("convolution", "patch transformer"):
        assert told[name]["auc"] < 0.5 + 2.5 * told[name]["auc_error"]


def test_gaps_are_exchanged():
    rng = np.random.default_rng(0)
    real, synthetic = homes(40, 1, "r"), homes(40, 2, "s")
    real = replace(real, values=np.where(rng.random(real.values.shape) < 0.3, np.float32(np.nan), real.values))
    synthetic.values[:, :, 5] = np.nan
    one, other = share_gaps(real, synthetic, np.arange(40), rng)
    assert np.isnan(one.values[:, :, 5]).all()
    assert (np.isnan(one.values) >= np.isnan(real.values)).all()
    assert np.isnan(other.values).mean() == pytest.approx(np.isnan(one.values).mean(), abs=0.02)


def test_another_year_is_not_told_by_its_weekdays():
    train, holdout = homes(60, 1, "t", days=56), homes(60, 2, "h", days=56)
    told = judge(train, holdout, homes(60, 3, "s", days=56, start="2016-01-01"))
    assert told["patch transformer"]["auc"] < 0.5 + 2.5 * told["patch transformer"]["auc_error"]


@pytest.mark.parametrize(
    ("days", "channels", "steps"), [(1, 1, 6), (1, 2, 24), (3, 5, 96), (40, 2, 6), (60, 1, 1), (365, 1, 24), (1, 1, 3)]
)
def test_any_shape_is_described(days, channels, steps):
    both = homes(12, 1, "a", days=days, channels=channels, steps=steps)
    both.values[3] = 0.5
    cube = whole_days(both, 6)
    assert cube.shape == (12, channels, days, steps)
    for rows in (convolve(cube, 6, 0), attend(cube, 0)):
        assert rows.dtype == np.float32
        assert rows.shape[0] == 12
        assert np.isfinite(rows).all()


def test_channels_that_no_longer_belong_together_are_seen():
    sets = [homes(50, seed, prefix, channels=2) for seed, prefix in ((1, "t"), (2, "h"), (3, "s"))]
    for part in sets:
        part.values[:, 1] = 0.5 * part.values[:, 0] + 0.1 * part.values[:, 1]
    mixed = sets[2].values.copy()
    mixed[:, 1] = np.roll(mixed[:, 1], 1, axis=0)
    told = judge(*sets[:2], replace(sets[2], values=mixed))
    assert told["convolution"]["distance"] > 0.35


def spy(calls, values):
    """Return a score that keeps what it is asked and answers with fixed values."""

    def score(train, test, labels, codes, seed):
        calls.append((train, test, labels, codes, seed))
        return values[test]

    return score


def test_auc_and_accuracy_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.arange(120) >= 50
    values = np.round(rng.normal(size=120) + labels, 1)
    calls = []
    told = tell_apart(spy(calls, values), labels, np.arange(120), np.arange(120), seed=1, seeds=5)
    expected = [roc_auc_score(labels[test], values[test]) for _, test, *_ in calls]
    assert told.auc == pytest.approx(np.mean(expected))
    right = [(values[labels] > 0).mean(), (values[~labels] < 0).mean()]
    assert told.accuracy == pytest.approx(np.mean(right) - 0.5)


def test_an_entity_is_never_on_both_sides_and_each_series_is_tested_once():
    rng = np.random.default_rng(0)
    entities = np.repeat(np.arange(30), rng.integers(1, 8, 30))
    labels = entities % 2 == 0
    rows = rng.permutation(1000)[: len(entities)]
    calls = []
    tell_apart(spy(calls, np.zeros(1000)), labels, entities, rows, seed=0, seeds=5)
    of_row = dict(zip(rows.tolist(), entities.tolist(), strict=True))
    assert len(calls) == 5
    for train, test, known, _, _ in calls:
        assert not {of_row[r] for r in train} & {of_row[r] for r in test}
        assert len(train) == len(known)
    assert sorted(np.concatenate([test for _, test, *_ in calls]).tolist()) == sorted(rows.tolist())
    assert len({seed for *_, seed in calls}) == 5


@pytest.mark.parametrize(("entities", "seeds", "trainings"), [(40, 1, 1), (40, 2, 2), (3, 5, 3), (1, 5, 0)])
def test_number_of_trainings(entities, seeds, trainings):
    codes = np.arange(80) % entities
    calls = []
    told = tell_apart(spy(calls, np.zeros(80)), np.arange(80) >= 40, codes, np.arange(80), seed=0, seeds=seeds)
    assert len(calls) == trainings
    assert told.auc == 0.5
    assert told.accuracy == (0 if trainings == 0 else -0.5), "a score of 0 says nothing, so it is never right"


def test_error_counts_entities_not_series():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=40), 10)
    labels = np.repeat(np.arange(40) >= 20, 10)
    together = tell_apart(spy([], values), labels, np.repeat(np.arange(40), 10), np.arange(400), seed=0, seeds=5)
    alone = tell_apart(spy([], values), labels, np.arange(400), np.arange(400), seed=0, seeds=5)
    assert together.auc_error > 2 * alone.auc_error
    assert together.accuracy_error > 2 * alone.accuracy_error


@pytest.mark.parametrize("several", [False, True])
def test_ridge_takes_the_penalty_that_predicts_left_out_entities_best(several):
    rng = np.random.default_rng(0)
    space = rng.normal(size=(30, 50))
    labels = np.arange(20) % 4 < 2
    space[:20, 0] += labels
    codes = np.arange(20) // 2 if several else np.arange(20)
    rows = np.clip((space - space.mean(0)) / space.std(0), -6, 6)
    products = rows @ rows.T
    products = products / np.diag(products).mean() + 1
    target = np.where(labels, 1.0, -1.0)

    def predict(train, test, penalty):
        return products[np.ix_(test, train)] @ np.linalg.solve(
            products[np.ix_(train, train)] + penalty * np.eye(len(train)), target[train]
        )

    losses = []
    for penalty in PENALTIES:
        left = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        errors = [target[own] - predict(np.setdiff1d(np.arange(20), own), own, penalty) for own in left]
        losses.append((np.concatenate(errors) ** 2).mean())
    expected = predict(np.arange(20), np.arange(20, 30), PENALTIES[int(np.argmin(losses))])
    got = ridge(space, np.arange(30))(np.arange(20), np.arange(20, 30), labels, codes, 0)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_boosting_and_ridge_ignore_a_constant_space():
    space = np.ones((40, 3))
    for score in (boosting(space), ridge(space, np.arange(40))):
        told = tell_apart(score, np.arange(40) >= 20, np.arange(40), np.arange(40), seed=0, seeds=5)
        assert told.auc == 0.5


def test_days_are_cut_at_midnight_and_on_a_monday_where_first_days_differ():
    one = homes(3, 1, "a", days=60)
    later = replace(homes(3, 2, "b", days=60), starts=one.starts + np.timedelta64(36, "h"))
    cube = whole_days(joined(one, later), 3)
    assert cube.shape == (6, 1, 54, STEPS), "one begins on a Tuesday, the other on a Wednesday noon"
    raw = np.sign(one.values) * np.log1p(np.abs(one.values) / np.median(one.values[..., 36:360]))
    assert np.corrcoef(cube[0].ravel(), raw[0, 0, 36:360])[0, 1] > 0.999
