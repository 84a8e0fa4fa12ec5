"""Attacks on sets whose answer is known: planted copies, averages, independent draws."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from quantities import four_hours

from ttsgan.evaluation import copying, fragments
from ttsgan.evaluation.gate import Thresholds
from ttsgan.evaluation.judged import Judged, joined
from ttsgan.evaluation.linkage import LinkageSearch, attributes, linkage_checks
from ttsgan.evaluation.membership import MembershipSearch, _Traces
from ttsgan.evaluation.privacy import audit
from ttsgan.evaluation.stats import auc_delong
from ttsgan.evaluation.views import Views, align_weekday

STEPS = 6
DAY = STEPS


def homes(num, seed, prefix, days=56, start="2013-01-01"):
    """Draw homes of lognormal days: own level, own shape, correlated noise."""
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-1, 0.5, (num, 1, 1)))
    shape = np.exp(0.5 * rng.normal(size=(num, 1, STEPS)) + np.sin(np.arange(STEPS)))
    noise = np.exp(0.4 * rng.normal(size=(num, days, STEPS)) + 0.3 * rng.normal(size=(num, days, 1)))
    return Judged(
        values=(level * shape * noise).reshape(num, 1, -1).astype(np.float32),
        entities=np.array([f"{prefix}{i}" for i in range(num)]),
        starts=np.full(num, np.datetime64(start, "s")),
        step_seconds=14_400,
        unit="kWh",
    )


@pytest.fixture(scope="module")
def views():
    return Views(np.array([0.5]))


@pytest.fixture(scope="module")
def search(views):
    return copying.CopySearch(
        views, homes(200, 1, "t"), homes(100, 2, "h"), homes(100, 3, "r"), np.random.default_rng(0)
    )


SETTINGS = {"literal": 0.05, "soft": 0.9, "hard": 0.5}


def flags(search, synthetic, num_null=200):
    """Flag a set beside independent series, which say what chance does."""
    lowest = copying.null_minimum(search.search(homes(num_null, 9, "s")), 0.05, search.chance)
    return copying.copy_flags(search.search(synthetic), lowest, **SETTINGS)


@pytest.mark.parametrize("kind", ["literal", "shift days", "shift hours", "scaled", "noisy", "mixed"])
def test_disguised_copies_are_flagged(search, kind):
    train = homes(200, 1, "t").take(np.arange(0, 200, 5))
    x, rng = train.values, np.random.default_rng(4)
    made = {
        "literal": x,
        "shift days": np.stack([np.roll(row, DAY * (i % 15 - 7), -1) for i, row in enumerate(x)]),
        "shift hours": np.roll(x, 8, -1),
        "scaled": x * rng.uniform(0.8, 1.25, (len(x), 1, 1)).astype(np.float32),
        "noisy": x * np.exp(0.1 * rng.normal(size=x.shape)).astype(np.float32),
        "mixed": 0.75 * x + 0.25 * homes(40, 5, "x").values,
    }[kind]  # fmt: skip
    found = flags(search, replace(train, values=made))
    assert found.soft.mean() >= (0.8 if kind == "mixed" else 1.0)
    assert not found.soft_control.any()
    if kind in ("literal", "shift days", "scaled"):
        assert found.hard.all()
    if kind == "mixed":
        assert not found.hard.any()


def test_independent_series_are_not_flagged(search):
    found = flags(search, homes(300, 6, "s"))
    assert found.soft.sum() <= 1
    assert not found.hard.any()
    assert not found.hard_control.any()


def test_copies_of_the_holdout_count_for_the_control_only(search):
    found = flags(search, homes(100, 2, "h"))
    assert found.hard_control.all()
    assert not found.soft.any()


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_the_planted_share_is_recovered(search, share):
    synthetic = homes(300, 7, "s")
    values = synthetic.values.copy()
    planted = round(share * 300)
    values[:planted] = homes(200, 1, "t").values[10 : 10 + planted]
    found = flags(search, replace(synthetic, values=values))
    assert found.hard[:planted].all()
    assert not found.hard[planted:].any()


def test_a_copy_is_found_at_its_exact_shift(search):
    shape = search.views.shape(homes(4, 1, "t"))[:, None]
    moved = np.roll(shape, 11, axis=2)
    distance = search._best_shift(moved, shape, np.arange(4)[:, None].repeat(4, 1).T)
    assert distance == pytest.approx(np.zeros(4), abs=5e-3)


def test_few_training_series_are_held_in_a_representation_at_a_time(views, search, monkeypatch):
    """Each worker that searches a block would otherwise hold all of them, some times over."""
    made, most = homes(20, 5, "s"), []
    whole = search.search(made)
    monkeypatch.setattr(copying, "SERIES_HELD", 37)
    for name in ("raw", "profile"):
        seen = getattr(Views, name)
        monkeypatch.setattr(Views, name, lambda self, part, seen=seen: most.append(len(part)) or seen(self, part))
    in_parts = search.search(made)
    assert max(most) == 37
    for side, other in zip(whole.sides, in_parts.sides, strict=True):
        for key in side:
            np.testing.assert_array_equal(side[key], other[key])


def with_gas(electricity, seed):
    """Add a second channel, of other homes and in another unit."""
    gas = 11 * homes(len(electricity), seed, "g").values
    return replace(electricity, values=np.concatenate([electricity.values, gas], axis=1))


def test_one_channel_that_is_copied_is_found(views):
    train, holdout, other = (with_gas(homes(num, i, "abc"[i]), 20 + i) for i, num in enumerate((200, 100, 100)))
    train.values[0, 1] = 0
    of_both = Views(np.append(views.unit_scale, 11 * views.unit_scale))
    search = copying.CopySearch(of_both, train, holdout, other, np.random.default_rng(0))
    made = with_gas(homes(60, 6, "s"), 30)
    half, few = made.values.copy(), np.arange(6)
    half[few, 1] = 1.1 * train.values[10 * few + 5, 1]
    # Neither a channel that stands still in one training home alone is a literal copy, nor one of the holdout.
    half[10, 1] = 0
    half[11, 0] = holdout.values[3, 0]
    distances = search.search(replace(made, values=half))
    lowest = copying.null_minimum(distances, SETTINGS["literal"], search.chance)
    found = copying.copy_flags(distances, lowest, **SETTINGS)
    assert np.flatnonzero(found.hard).tolist() == few.tolist()
    # By the mean days of both channels it is nearer to that home than to any that was held out.
    assert np.flatnonzero(found.soft).tolist() == [*few, 10]
    assert np.flatnonzero(found.hard_control).tolist() == [11]


def pasted_weeks(num, moved=0, factor=1.0):
    """Paste weeks of training homes together, each rolled by some steps and rescaled."""
    return replace(homes(num, 8, "s"), values=factor * weeks_of(np.roll(homes(200, 1, "t").values, moved, -1), num))


def weeks_of(train, num, seed=0):
    """Take every week of each of some series from another home."""
    rng, week = np.random.default_rng(seed), 7 * DAY
    values = np.empty((num, *train.shape[1:]), np.float32)
    for begin in range(0, train.shape[2], week):
        chosen = train[rng.permutation(len(train))[:num]]
        values[:, :, begin : begin + week] = chosen[:, :, begin : begin + week]
    return values


@pytest.mark.parametrize(("what", "channel"), [("copied", 1), ("pasted", 0)])
def test_the_audit_sees_what_was_taken_in_one_channel(what, channel):
    train, holdout, made = (with_gas(homes(200, i, "tse"[i]), 20 + i) for i in range(3))
    values, alone = made.values.copy(), replace(train, values=train.values[:, [channel]])
    taken = alone.values if what == "copied" else weeks_of(alone.values, 20)
    values[:20, channel] = taken[:20, 0]
    found = audit(train, holdout, replace(made, values=values))
    name = {"copied": "literal copies", "pasted": "pasted stretches, same dates"}[what]
    assert found["verdict"] == "FAIL"
    assert name in {check["name"] for check in found["checks"] if check["passed"] is False}


def sides(synthetic):
    halves = homes(100, 2, "h"), homes(100, 3, "r")
    return synthetic, homes(200, 1, "t"), halves


def test_pasted_weeks_are_found_at_their_dates(search):
    rng = np.random.default_rng(0)
    found = fragments.same_dates(*sides(pasted_weeks(50, factor=1.1)), Thresholds(), rng)
    assert found.train.all()
    assert not found.control.any()
    assert fragments.same_dates_check(found)["passed"] is False
    found = fragments.same_dates(*sides(homes(50, 8, "s")), Thresholds(), rng)
    assert not found.train.any()
    assert fragments.same_dates_check(found)["passed"] is True


def test_roofs_under_one_sky_are_no_fragments_of_each_other():
    """Three days of one roof are within .03 of another's for one window in a hundred; pasted weeks are still found."""
    roofs = four_hours("solar", 600, 1)
    order, rng = np.random.default_rng(0).permutation(600), np.random.default_rng(2)
    train, honest, *halves = (roofs.take(order[a:b]) for a, b in ((0, 300), (450, 600), (300, 375), (375, 450)))
    found = fragments.same_dates(honest, train, tuple(halves), Thresholds(), np.random.default_rng(1))
    assert not found.train.any()
    values = honest.values.copy()
    for row, begin in np.ndindex(20, 18):
        week = slice(21 * DAY * begin, 21 * DAY * begin + 7 * DAY)
        values[row, :, week] = 1.1 * train.values[rng.integers(300), :, week]
    found = fragments.same_dates(
        replace(honest, values=values), train, tuple(halves), Thresholds(), np.random.default_rng(1)
    )
    assert found.train[:20].sum() >= 18
    assert not found.train[20:].any()


def spikes(num, seed):
    """Homes of one spike a day: of three of them only two ratios are left once a window is standardised."""
    rng = np.random.default_rng(seed)
    values = 0.015 * rng.gamma(10, 1 / 10, (num, 1, 60, DAY))
    values[..., 1] += np.exp(rng.normal(0, 0.1, (num, 1, 60)))
    return replace(homes(num, 0, "x"), values=values.reshape(num, 1, -1).astype(np.float32))


def test_training_thrice_the_holdout_is_no_leak():
    """The nearest of thrice as many is nearer: homes with a spike a day come near by chance, pasted weeks are at 0."""
    train, honest, *halves = (spikes(num, seed) for seed, num in enumerate((1200, 600, 200, 200)))
    found = fragments.same_dates(honest, train, tuple(halves), Thresholds(), np.random.default_rng(1))
    assert not found.train.any()
    values = honest.values.copy()
    for row, begin in np.ndindex(20, 8):
        at = slice(7 * DAY * begin, 7 * DAY * (begin + 1))
        values[row, :, at] = 0.9 * train.values[(97 * row + 13 * begin) % 1200, :, at]
    pasted = replace(honest, values=values)
    found = fragments.same_dates(pasted, train, tuple(halves), Thresholds(), np.random.default_rng(1))
    assert found.train[:20].sum() >= 18
    assert not found.train[20:].any()


@pytest.mark.parametrize("days", [3, 7])
@pytest.mark.parametrize("moved", [0, 5, 15 * DAY + 2])
def test_weeks_are_found_wherever_they_were_moved_to(moved, days):
    synthetic, train, halves = sides(pasted_weeks(60, moved, 0.7))
    found = fragments.anywhere(synthetic, train, joined(*halves), days, Thresholds(), np.random.default_rng(1))
    assert found.train.mean() > (0.8 if days == 3 else 0.2)
    assert not found.control.any()
    assert fragments.anywhere_check(found, days, Thresholds())["passed"] is False


def test_independent_series_hold_no_fragments():
    synthetic, train, halves = sides(homes(400, 8, "s"))
    for days in fragments.windows_of(synthetic):
        found = fragments.anywhere(synthetic, train, joined(*halves), days, Thresholds(), np.random.default_rng(1))
        assert found.train.sum() <= 1
        assert fragments.anywhere_check(found, days, Thresholds())["passed"] is not False


def test_fragments_on_both_sides_are_no_proof():
    found = fragments.Found(np.arange(400) < 30, np.arange(400) < 26)
    assert fragments.anywhere_check(found, 3, Thresholds())["passed"] is None
    alone = fragments.Found(np.arange(400) < 12, np.zeros(400, bool))
    assert fragments.anywhere_check(alone, 3, Thresholds())["passed"] is False


def best_auc(found):
    return max(auc_delong(found.members[name], found.nonmembers[name])[0] for name in found.members)


def attacked(views, synthetic):
    return membership(views, homes(150, 1, "t"), homes(100, 2, "h"), homes(50, 3, "r"), synthetic)


def membership(views, members, nonmembers, reference, synthetic, blocks=2):
    found = MembershipSearch(views, members, nonmembers, reference, synthetic, len(synthetic), 0)
    return found.join(
        [found.search(synthetic.take(rows)) for rows in np.array_split(np.arange(len(synthetic)), blocks)]
    )


def test_blocks_do_not_change_membership(views):
    one, many = (attacked_in(views, blocks) for blocks in (1, 7))
    for name in one.members:
        assert many.members[name] == pytest.approx(one.members[name], rel=1e-9, abs=1e-9), name


def attacked_in(views, blocks):
    return membership(views, homes(60, 1, "t"), homes(60, 2, "h"), homes(50, 3, "r"), homes(90, 5, "s"), blocks)


def test_membership_of_copies_is_certain(views):
    found = attacked(views, homes(150, 1, "t"))
    aucs = {name: auc_delong(found.members[name], found.nonmembers[name])[0] for name in found.members}
    assert all(aucs[name] > 0.99 for name in aucs if name.endswith("k=1"))
    assert aucs["density"] > 0.9


def test_membership_of_independent_series_is_a_coin_toss(views):
    found = attacked(views, homes(150, 5, "s"))
    assert 0.4 < best_auc(found) < 0.62


def test_averages_of_few_members_are_traceable(views):
    """The leak that copy flags and closeness to training alone do not show."""
    train, rng = homes(150, 1, "t").values, np.random.default_rng(0)
    mean_of_five = np.stack([train[rng.permutation(150)[:5]].mean(0) for _ in range(150)])
    assert best_auc(attacked(views, replace(homes(150, 5, "s"), values=mean_of_five))) > 0.65


def test_members_are_traced_in_a_mean_that_every_synthetic_series_carries(views):
    """Independent series, each with the members' mean course laid over it: no series is close, the mean tells all."""
    members, nonmembers, reference = homes(200, 1, "t"), homes(200, 2, "h"), homes(400, 3, "r")
    plain = homes(800, 4, "s")
    logs = np.log(members.values) - np.log(homes(2000, 5, "x").values).mean(0)
    carrying = replace(plain, values=(plain.values * np.exp(logs.mean(0))).astype(np.float32))

    def traced(synthetic):
        found = membership(views, members, nonmembers, reference, synthetic)
        return auc_delong(found.members["mean"], found.nonmembers["mean"])[0]

    assert traced(carrying) > 0.65
    assert abs(traced(plain) - 0.5) < 0.1


def test_slow_waves_of_all_series_do_not_hide_members_in_their_mean():
    """Of each of n members T independent numbers stand in the mean, whatever their spreads: a shift by sqrt(T / n)."""
    steps, num, unseen, rng = 1024, 512, 2048, np.random.default_rng(3)
    numbers = 2 * steps

    def courses(count):
        # Of each of two channels, waves whose size falls as their frequency rises.
        waves = np.fft.rfft(rng.normal(size=(count, 2, steps))) / (1 + np.arange(steps // 2 + 1))
        return np.fft.irfft(waves, n=steps).reshape(count, -1)

    shared = 3 * courses(1)
    members, nonmembers = (courses(num) + shared for _ in range(2))
    traces = _Traces(courses(unseen) + shared, channels=2)

    def auc(mean, attack="whitened mean"):
        return auc_delong(*(traces(side, mean)[attack] for side in (members, nonmembers)))[0]

    told = norm.cdf(np.sqrt(numbers / num / 2 / (1 + num / unseen)))
    assert auc(members.mean(axis=0)) == pytest.approx(told, abs=0.03)
    assert auc(members.mean(axis=0), "mean") < told - 0.25
    other_size = 0.5 * shared[0] + (members - shared).mean(axis=0)
    assert auc(other_size) == pytest.approx(told, abs=0.03), "what all share tells nothing of members"
    assert auc((courses(num) + shared).mean(axis=0)) == pytest.approx(0.5, abs=0.06)


def test_series_without_any_course_leave_no_trace():
    assert all((score == 0).all() for score in _Traces(np.zeros((5, 84)), 1)(np.zeros((3, 84)), np.zeros(84)).values())


def linked(views, members, controls, synthetic):
    search = LinkageSearch(views, members, controls, 0)
    parts = [search.search(synthetic.take(rows)) for rows in np.array_split(np.arange(len(synthetic)), 3)]
    return search.join(parts)


def test_copies_are_linked_and_tell_every_attribute(views):
    train, other = homes(60, 1, "t", days=63), homes(60, 2, "h", days=63)
    found = linked(views, train, other, train)
    for name, hits in found.hits.items():
        assert hits[found.sides == 0].mean() > 0.9, name
        assert hits[found.sides == 1].mean() < 0.6, name
    checks = linkage_checks(found, Thresholds())
    assert {check["attack"] for check in checks} == {"linkage", "inference"}
    assert all(check["passed"] is False for check in checks)


def test_independent_series_link_nobody(views):
    found = linked(views, homes(150, 1, "t", days=63), homes(150, 2, "h", days=63), homes(200, 3, "s", days=63))
    assert set(found.hits) == {"1", "4", "level", "peak", "emptiest week"}
    assert not any(check["passed"] is False for check in linkage_checks(found, Thresholds()))


def test_attributes_of_a_series_worked_out_by_hand():
    """Three weeks from Monday, 1 kWh a step; the second week empty; one peak on the last Wednesday's third slot."""
    values = np.ones((1, 1, 21 * DAY), np.float32)
    values[0, 0, 7 * DAY : 14 * DAY] = 0
    values[0, 0, 16 * DAY + 2] = 5
    judged = replace(homes(1, 0, "a", days=21, start="2013-01-07"), values=values)
    told = attributes(judged, np.ones(21, bool))
    assert told["level"] == pytest.approx([(14 * DAY + 4) / (21 * DAY)])
    assert told["peak"].tolist() == [2 * DAY + 2]
    assert told["emptiest week"].tolist() == [1]


def test_series_shorter_than_a_week_are_moved_to_the_same_hour():
    judged = homes(3, 0, "a", days=5, start="2013-01-01")
    later = replace(judged, starts=np.full(3, np.datetime64("2013-04-03T04:00", "s")))
    moved = align_weekday(later, judged.starts[0])
    assert np.array_equal(moved.values, np.roll(judged.values, 1, axis=2))
    assert moved.days(moved.values).shape == judged.days(judged.values).shape


@pytest.mark.parametrize("minutes", [-30, -23, 7, 29])
@pytest.mark.parametrize("other", [0, 4])
def test_minutes_between_starts_move_nothing(minutes, other):
    """Nor does it matter which side of midnight a start is on, or whose minutes are the odd ones."""
    judged = homes(3, 0, "a", start="2013-01-01")
    odd = replace(judged, starts=judged.starts + np.timedelta64(60 * (60 * other + minutes), "s"))
    for one, reference in ((odd, judged.starts[0]), (judged, odd.starts[0])):
        moved = align_weekday(one, reference)
        turned = {4: 1, 0: 0}[other] * (1 if one is odd else -1)
        assert np.array_equal(moved.values, np.roll(one.values, turned, axis=2))
        assert (moved.starts == reference).all()
    both = joined(align_weekday(judged, judged.starts[0]), align_weekday(odd, judged.starts[0]))
    assert both.days(both.values).shape[2] == judged.days(judged.values).shape[2]


def test_series_of_another_year_are_moved_to_the_same_weekday():
    judged = homes(3, 0, "a", start="2013-01-01")
    later = replace(judged, starts=np.full(3, np.datetime64("2013-01-03T04:00", "s")))
    moved = align_weekday(later, judged.starts[0])
    assert np.array_equal(moved.values, np.roll(judged.values, 2 * DAY + 1, axis=2))
    assert moved.starts.tolist() == judged.starts.tolist()
