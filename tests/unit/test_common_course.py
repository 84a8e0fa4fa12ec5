"""The course that households share: kept where many say it, and its members hidden."""

import numpy as np
import pytest
from scaled import decode_scores
from scipy.special import ndtr

from ttsgan.config import HouseholdConfig
from ttsgan.data import common_course
from ttsgan.data.common_course import MAX_TRACE, _normal_waves, guess_course, mean_by_owner, spend, traces
from ttsgan.data.scaling import SeriesScaler

LENGTH = 2190


def smooth(seed):
    """First-order autoregressive noise (1, T) of unit size."""
    noise = np.random.default_rng(seed).normal(size=LENGTH)
    out = np.zeros((1, LENGTH))
    for t in range(1, LENGTH):
        out[:, t] = 0.8 * out[:, t - 1] + noise[t]
    return out / out.std()


def made_course(members, seed=0, noise=1.0):
    """A true course, members that share it, and the guess of it."""
    rng = np.random.default_rng(seed)
    true = 0.5 * smooth(seed)
    rows = true + noise * rng.normal(size=(members, 1, LENGTH))
    return true[0], rows, guess_course(rows.mean(axis=0), rows, np.random.default_rng(seed + 100))[0]


def test_many_members_leave_their_course_and_few_do_not():
    true, _, guess = made_course(3000)
    assert np.corrcoef(true, guess)[0, 1] > 0.95
    assert guess.std() == pytest.approx(true.std(), rel=0.1)
    true, _, guess = made_course(12, noise=3.0)
    assert np.corrcoef(true, guess)[0, 1] < 0.5


def test_members_stand_out_less_in_the_guess():
    """By someone who knows the true course, members are found in the mean, and half as well in the guess."""

    def advantage(course, inside, outside):
        scores = [(rows[:, 0] @ course) / len(course) for rows in (inside, outside)]
        return (scores[0].mean() - scores[1].mean()) / scores[1].std()

    in_mean, in_guess = [], []
    for seed in range(4):
        true, rows, guess = made_course(200, seed)
        others = true + np.random.default_rng(seed + 50).normal(size=rows.shape)
        in_mean.append(advantage(rows.mean(axis=0)[0] - true, rows, others))
        in_guess.append(advantage(guess - true, rows, others))
    assert np.mean(in_mean) > 2
    assert np.mean(in_guess) < 0.6 * np.mean(in_mean)


@pytest.mark.parametrize("most", [MAX_TRACE, 0.3])
def test_best_attack_on_a_guess_finds_what_the_budget_says(monkeypatch, most):
    """Who knows the true course, and how far the guess is trusted at each frequency, weighs both as is best."""
    monkeypatch.setattr(common_course, "COURSE_NOISE", 0.0)
    found, told = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        true = 2 * smooth(seed)
        rows = true + rng.normal(size=(400, 1, LENGTH))
        members = rows[:200]
        guess = np.fft.rfft(guess_course(members.mean(axis=0), members, rng, most)[0])
        power = np.abs(np.fft.rfft(members.mean(axis=0)[0])) ** 2
        error = ((np.abs(np.fft.rfft(members[:, 0])) ** 2).mean(axis=0) - power) / 199
        signal = np.maximum(power - error, 1e-12)
        trust = spend(most * 200, signal, error)
        told.append(traces(trust, signal, error).sum() / 200)
        known = np.fft.rfft(true[0])
        weighed = trust / (signal * (1 - trust**2)) * (guess - trust * known)
        own = np.fft.rfft(rows[:, 0]) - known
        scores = (weighed * own.conj()).real.sum(axis=1)
        found.append((scores[:200, None] > scores[200:]).mean())
    np.testing.assert_allclose(told, most)
    assert np.mean(found) == pytest.approx(ndtr(np.sqrt(most / 2)), abs=0.02)


def test_several_channels_in_step_tell_no_more_than_the_budget_says(monkeypatch):
    """Who compares two channels takes off what replaces the lost part: weighs them by the inverse of its covariance."""
    monkeypatch.setattr(common_course, "COURSE_NOISE", 0.0)
    most, found = 0.3, {"together": [], "apart": []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        true = 2 * np.repeat(smooth(seed), 2, axis=0)
        rows = true + rng.normal(size=(400, 2, LENGTH))
        members = rows[:200]
        mean = np.fft.rfft(members.mean(axis=0))
        guess = np.fft.rfft(guess_course(members.mean(axis=0), members, rng, most))
        error = ((np.abs(np.fft.rfft(members)) ** 2).mean(axis=0) - np.abs(mean) ** 2) / 199
        signal = np.maximum(np.abs(mean) ** 2 - error, 1e-12)
        trust = spend(most * 200, signal, error, True)
        other = mean / np.abs(mean) * np.sqrt(signal * (1 - trust))
        noise = signal * trust * (1 - trust)
        rest = (guess - trust * np.fft.rfft(true)) / noise
        in_step = (other.conj() * rest).sum(axis=0) / (1 + (np.abs(other) ** 2 / noise).sum(axis=0))
        own = np.fft.rfft(rows) - np.fft.rfft(true)
        weighed = {"together": rest - other / noise * in_step, "apart": rest * noise / (signal * (1 - trust**2))}
        for name, weights in weighed.items():
            scores = (trust * weights * own.conj()).real.sum(axis=(1, 2))
            found[name].append((scores[:200, None] > scores[200:]).mean())
    together, apart = np.mean(found["together"]), np.mean(found["apart"])
    assert apart + 0.01 < together < ndtr(np.sqrt(most / 2)) + 0.01


def test_a_member_of_many_dates_stands_out_no_more_than_one_of_one(monkeypatch):
    """Traced in the course of each date, it is told by all of them together."""
    shared = []
    monkeypatch.setattr(common_course, "guess_course", lambda mean, members, rng, most: shared.append(most) or mean)
    first = np.datetime64("2013-01-01", "s")
    starts = np.repeat(first + np.arange(4) * np.timedelta64(365, "D"), 20)
    rest, observed = np.random.default_rng(0).normal(size=(80, 1, 50)), np.ones((80, 1, 50), dtype=bool)
    common_course.common_courses(rest, observed, starts, np.tile(np.arange(20), 4), 0)
    np.testing.assert_allclose(shared, MAX_TRACE / 4)
    shared.clear()
    common_course.common_courses(rest, observed, starts, np.arange(80), 0)
    np.testing.assert_allclose(shared, MAX_TRACE)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("budget", [0.1, 3.0, 20.0])
def test_no_other_way_to_spend_a_budget_loses_less(budget, bare):
    rng = np.random.default_rng(0)
    signal, error = rng.exponential(size=40) ** 2, rng.exponential(size=40)
    trust = spend(budget, signal, error, bare)
    assert traces(trust, signal, error, bare).sum() == pytest.approx(budget)
    # A trust beyond that in the mean itself would be noise taken away.
    assert (trust <= signal / (signal + error) + 1e-12).all()
    np.testing.assert_allclose(spend(1e3, signal, error, bare), signal / (signal + error))
    lost = (signal * (1 - trust)).sum()
    for _ in range(200):
        other = np.clip(trust * np.exp(0.1 * rng.normal(size=40)), 0, signal / (signal + error))
        if traces(other, signal, error, bare).sum() <= budget:
            assert (signal * (1 - other)).sum() > lost


def test_even_noise_loses_more_for_as_many_traces():
    rng = np.random.default_rng(0)
    signal, error = np.linspace(5, 0.01, 500) ** 2 * rng.exponential(size=500), np.ones(500)
    even = signal / (signal + 41 * error)
    spent = spend(traces(even, signal, error).sum(), signal, error)
    assert (signal * (1 - spent)).sum() < 0.95 * (signal * (1 - even)).sum()


@pytest.mark.parametrize("length", [8, 9])
def test_noise_has_the_same_power_at_every_frequency_of_a_real_course(length):
    rng = np.random.default_rng(0)
    waves = _normal_waves((20_000, length // 2 + 1), length, rng)
    back = np.fft.rfft(np.fft.irfft(waves, n=length))
    np.testing.assert_allclose(back, waves, atol=1e-12)
    np.testing.assert_allclose((np.abs(waves) ** 2).mean(axis=0), 1, atol=0.06)


def test_common_course_of_new_series():
    """What training series share is given back to them exactly; new series share nearly the same."""
    rng = np.random.default_rng(0)
    shared = np.cumsum(rng.normal(size=2190)) * 0.02 + rng.normal(size=2190)
    values = np.exp(shared + rng.normal(size=(400, 1, 2190))).astype(np.float32)
    starts = np.full(400, np.datetime64("2013-01-01", "s"))
    scaler = SeriesScaler(HouseholdConfig(), 14_400).fit(values, starts)
    kept, guess = scaler.state["common_course"][0, 0], scaler.state["common_guess"][0, 0]
    assert np.corrcoef(kept, shared - shared.mean())[0, 1] > 0.8
    assert 0.6 < np.corrcoef(kept, guess)[0, 1] < 0.99
    scaled = scaler.transform(values, starts)
    np.testing.assert_allclose(decode_scores(scaler, scaled.residual, scaled.numbers, starts), scaled.scores, atol=1e-4)
    new = scaler.compose_scores(rng.permutation(scaled.residual), scaled.numbers, starts)
    assert np.corrcoef(new.mean(axis=(0, 1)), guess)[0, 1] > 0.8


def test_few_members_share_less_with_new_series():
    """Each of them weighs more in the mean, and would be traced in it."""
    rng = np.random.default_rng(1)
    shared = rng.normal(size=2190)
    kept = []
    for count in (20, 80, 320, 1280):
        members = shared + rng.normal(size=(count, 1, 2190))
        guess = guess_course(members.mean(axis=0), members, rng)
        kept.append(np.corrcoef(guess[0], members.mean(axis=(0, 1)))[0, 1])
    assert kept == sorted(kept)
    assert kept[0] < 0.4
    assert kept[-1] > 0.95


def test_nobody_without_the_series_can_draw_the_noise_again():
    """The seed is published: with it alone the noise that hides the members could be taken off the guess."""
    rng = np.random.default_rng(0)
    values = np.exp(np.cumsum(rng.normal(size=600)) * 0.05 + rng.normal(size=(20, 1, 600))).astype(np.float32)
    starts = np.full(20, np.datetime64("2013-01-01", "s"))
    other = values.copy()
    other[0, 0, 0] *= 1.001
    first, again, touched = (
        SeriesScaler(HouseholdConfig(), 14_400).fit(of, starts).state["common_guess"][0, 0]
        for of in (values, values, other)
    )
    np.testing.assert_array_equal(first, again)
    # The courses are the same to a thousandth: what differs is the noise.
    assert np.abs(first - touched).mean() > 0.1 * first.std()


def test_an_entity_of_many_meters_is_one_voice():
    """Forty meters of one building were two thirds of the mean, and of what all new series of its dates share."""
    rng = np.random.default_rng(0)
    building = np.cumsum(rng.normal(size=600)) * 0.1 + rng.normal(size=600)
    meters = building + rng.normal(size=(40, 1, 600)) * 0.5
    homes = rng.normal(size=(20, 1, 600)) * 1.5
    values = np.exp(0.3 * np.concatenate([meters, homes])).astype(np.float32)
    starts = np.full(60, np.datetime64("2013-01-01", "s"))
    entities = np.array(["building"] * 40 + [f"home {i}" for i in range(20)])
    alike = [
        np.corrcoef(
            SeriesScaler(HouseholdConfig(), 14_400).fit(values, starts, 0, of).state["common_course"][0, 0], building
        )
        for of in (None, entities)
    ]
    assert alike[0][0, 1] > 0.8
    assert abs(alike[1][0, 1]) < 0.35
    few = np.array(["building"] * 40 + [f"home {i % 8}" for i in range(20)])
    fitted = SeriesScaler(HouseholdConfig(), 14_400).fit(values, starts, 0, few)
    assert len(fitted.state["common_course"]) == 0, "nine entities are too few to share anything"


def test_mean_by_owner():
    rest = np.array([[[1.0, 2.0, 3.0]], [[10.0, 0.0, 7.0]], [[3.0, 4.0, 9.0]]])
    observed = np.array([[[True, True, True]], [[True, False, False]], [[True, False, True]]])
    members, seen = mean_by_owner(rest, observed, np.array(["b", "a", "b"]))
    np.testing.assert_array_equal(members, [[[2.0, 2.0, 6.0]], [[10.0, 0.0, 0.0]]])
    np.testing.assert_array_equal(seen, [[[True, True, True]], [[True, False, False]]])
    alone, _ = mean_by_owner(rest, observed, np.array(["z", "y", "x"]))
    np.testing.assert_array_equal(alone, rest * observed)
