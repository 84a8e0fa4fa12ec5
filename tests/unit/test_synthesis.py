"""Drawing series: chunks, seeds, conditions, several starts and channels."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from ttsgan import recipes, synthesis
from ttsgan.config import HouseholdConfig
from ttsgan.data import calendar
from ttsgan.data.scaling import SeriesScaler
from ttsgan.models.networks import Networks
from ttsgan.synthesis import Plan, Synthesizer, make_plan, shared_starts
from ttsgan.training.dataset import build_train_set, series_shape

START = np.datetime64("2013-01-01", "s")


def drawer(noise="prior", channels=1, length=100, patch=6, step=14_400, seed=0) -> tuple[Synthesizer, np.ndarray]:
    """An untrained drawer with a fitted household model, and the series it was fitted on."""
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(length) * step / 86_400)
    values = np.exp(
        rng.normal(size=(40, channels, 1))
        + rng.normal(size=(40, channels, 1)) * day
        + rng.normal(size=(40, channels, length))
    )
    if channels > 1:
        values[:, 1] = 8 + np.log(values[:, 1])
    values = values.astype(np.float32)
    starts = np.full(40, START)
    scaler = SeriesScaler(HouseholdConfig(quantile_components=3, habit_components=4), step).fit(values, starts)
    config = recipes.from_dict(
        {
            "patch": {"size": patch},
            "encoder": {"width": 8, "heads": 2, "latent_dim": 3},
            "days": {"width": 8, "heads": 2, "depth": 1, "mixtures": 2},
            "generator": {"width": 8, "heads": 2, "noise_dim": 2, "noise": noise},
            "discriminator": {"width": 8, "heads": 2},
        }
    )
    torch.manual_seed(1)
    data = build_train_set(values, starts, np.arange(40).astype(str), scaler, config)
    networks = Networks(config, series_shape(scaler, config))
    networks.fit_numbers(data.numbers)
    cond = torch.randn(40, 3)
    networks.household.fit(data.numbers, cond[None], torch.arange(len(cond)), seed=0)
    nn.init.constant_(networks.generator.gain, 0.5)
    return Synthesizer(networks, scaler, seed), values


def conditions(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_noise_depends_on_the_training_series_as_well_as_on_the_seed():
    made, again = drawer()[0], drawer()[0]
    assert made.seed == again.seed
    assert made.seed != drawer(seed=1)[0].seed
    again.scaler.state["logq_low"] = again.scaler.state["logq_low"] * (1 + 1e-6)
    assert Synthesizer(again.networks, again.scaler, 0).seed != made.seed


@pytest.mark.parametrize("noise", ["prior", "white"])
@pytest.mark.parametrize(
    ("channels", "length", "patch", "step"),
    [(1, 100, 6, 14_400), (2, 98, 7, 14_400), (1, 60, 5, 25_200), (1, 96, 24, 3600), (1, 30, 1, 86_400)],
)
def test_series_are_whole_and_in_physical_units(noise, channels, length, patch, step):
    made, real = drawer(noise, channels, length, patch, step)
    drawn = made.draw(conditions(9), np.full(9, START), 0)
    assert drawn.shape == (9, channels, length)
    assert drawn.dtype == np.float32
    assert np.isfinite(drawn).all()
    assert (drawn[:, 0] >= 0).all()
    assert real[:, 0].mean(1).min() / 20 < drawn[:, 0].mean() < 20 * real[:, 0].mean(1).max()
    assert len(np.unique(drawn.round(6), axis=0)) == 9


def test_a_chunk_is_a_function_of_its_number():
    made, _ = drawer()
    cond, starts = conditions(6), np.full(6, START)
    first = made.draw(cond, starts, 3)
    made.draw(cond, starts, 1)
    torch.manual_seed(77)
    np.testing.assert_array_equal(made.draw(cond, starts, 3), first)
    np.testing.assert_array_equal(drawer()[0].draw(cond, starts, 3), first)
    assert not np.allclose(made.draw(cond, starts, 4), first)
    assert not np.allclose(drawer(seed=1)[0].draw(cond, starts, 3), first)


def test_drawn_households_have_the_levels_of_real_ones():
    made, real = drawer()
    drawn = made.draw(np.zeros((400, 3), np.float32), np.full(400, START), 0)
    assert stats.ks_2samp(np.log(real.mean((1, 2))), np.log(drawn.mean((1, 2)))).pvalue > 0.01


def test_peaks_and_zero_follow_the_drawn_numbers():
    """The level that a household is drawn is the level that its series has."""
    made, _ = drawer()
    cond = conditions(20)
    drawn = made.draw(cond, np.full(20, START), 2)
    generator = torch.Generator().manual_seed(synthesis.seed_of(made.seed, "chunk", 2))
    numbers = made.networks.draw_household(made.networks.standard_latents(torch.from_numpy(cond)), generator)
    level = np.exp(numbers.numpy()[:, made.scaler.layout["level"]])
    np.testing.assert_allclose(drawn.mean(2), level, rtol=1e-4)


def test_condition_matters():
    made, _ = drawer()
    starts = np.full(5, START)
    one, other = made.draw(conditions(5), starts, 0), made.draw(conditions(5) + 1, starts, 0)
    assert not np.allclose(one, other)


def test_conditions_are_standardised_as_latents_were():
    made, _ = drawer()
    cond, starts = conditions(5), np.full(5, START)
    plain = made.draw(cond, starts, 0)
    made.networks.latent_mean.fill_(2.0)
    made.networks.latent_std.fill_(4.0)
    np.testing.assert_allclose(made.draw(cond * 4 + 2, starts, 0), plain, rtol=1e-3)


def test_starts_decide_the_calendar():
    """One chunk may hold several starts, in any order; each series sees its own calendar."""
    made, _ = drawer()
    cond = np.repeat(conditions(1), 4, axis=0)
    mixed = np.array(["2024-01-03", "2013-01-01", "2024-01-03", "2013-01-01"], dtype="datetime64[s]")
    drawn = made.draw(cond, mixed, 0)
    old, new = (made.draw(cond, np.full(4, d, "datetime64[s]"), 0) for d in ("2013-01-01", "2024-01-03"))
    np.testing.assert_allclose(drawn[[0, 2]], new[[0, 2]], rtol=1e-4)
    np.testing.assert_allclose(drawn[[1, 3]], old[[1, 3]], rtol=1e-4)
    assert not np.allclose(new, old, rtol=1e-2)


def test_networks_are_frozen_and_in_evaluation_mode():
    made, _ = drawer()
    assert not made.networks.training
    assert not any(p.requires_grad for p in made.networks.parameters())


def test_plan_gives_each_series_a_group_and_a_start():
    allocation = np.repeat([0, 1, 2], [50, 30, 20])
    starts = np.array(["2013-01-01", "2014-01-01"], dtype="datetime64[s]")[np.arange(10) % 2]
    cond = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    plan = make_plan(cond, allocation, starts, 0)
    assert len(plan) == 100
    assert np.bincount(plan.group).tolist() == [50, 30, 20]
    assert not np.array_equal(plan.group, allocation)
    assert set(plan.start.tolist()) == set(starts.tolist())
    again = make_plan(cond, allocation, starts[::-1], 0)
    np.testing.assert_array_equal(plan.group, again.group)
    np.testing.assert_array_equal(plan.start, again.start)
    for other in (make_plan(cond, allocation, starts, 1), make_plan(cond + 1, allocation, starts, 0)):
        assert not np.array_equal(plan.group, other.group), "who knows the seed alone could tell whose condition it is"


def test_starts_that_enough_share_stay_and_others_are_rounded_down():
    day = np.datetime64("2013-06-12T00:00:00", "s")  # a Wednesday
    hours = day + np.arange(12).astype("timedelta64[h]")
    starts = np.concatenate([np.repeat(np.datetime64("2014-01-01T07:30", "s"), 10), hours, [day - 200 * 86_400]])
    given = shared_starts(starts, np.arange(23).astype(str), 10)
    np.testing.assert_array_equal(given[:10], starts[:10])
    np.testing.assert_array_equal(given[10:22], day)
    assert given[22] == day, "the nearest of the others"
    np.testing.assert_array_equal(shared_starts(starts[:10], np.repeat(["a", "b"], 5), 2), starts[:10])


@pytest.mark.parametrize("spread", [5, 40, 900])
def test_no_start_is_shared_by_few(spread):
    rng = np.random.default_rng(0)
    starts = np.datetime64("2013-03-03T11:17", "s") + rng.integers(spread * 86_400, size=300).astype("timedelta64[s]")
    entities = (np.arange(300) // 2).astype(str)
    given = shared_starts(starts, entities, 15)
    for start in np.unique(given):
        assert len(np.unique(entities[given == start])) >= 15
    assert np.abs((given - starts).astype(int)).max() <= max(84, spread) * 86_400
    assert not np.isin(given, starts).any()


def test_where_no_start_is_shared_all_take_one():
    starts = np.datetime64("2000-01-01", "s") + 200 * np.arange(9).astype("timedelta64[D]")
    given = shared_starts(starts, np.arange(9).astype(str), 5)
    assert len(np.unique(given)) == 1
    assert given[0].astype("datetime64[D]").astype(object).weekday() == 0
    assert abs((given[0] - starts[4]).astype("timedelta64[D]").astype(int)) < 7


def test_chunks_of_a_plan_are_its_parts():
    plan = Plan(np.arange(10), np.full(10, START))
    parts = [plan.chunk(i, 4) for i in range(3)]
    assert [len(p) for p in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([p.group for p in parts]), plan.group)


def test_days_before_the_first_are_written_and_dropped(monkeypatch):
    """The prior begins `lead` days early, on their dates, so that the first day has a past like any other."""
    synthesizer, _ = drawer()
    networks, asked = synthesizer.networks, []

    def numbered(regular_BNP, calendar_BNF, static_BS, generator):
        assert regular_BNP.shape[:2] == calendar_BNF.shape[:2]
        asked.append(calendar_BNF)
        return torch.arange(calendar_BNF.shape[1]).float()[None, :, None].expand(len(static_BS), -1, 6)

    monkeypatch.setattr(networks.days, "sample", numbered)
    composed = []
    compose = synthesizer.scaler.compose_scores
    monkeypatch.setattr(synthesizer.scaler, "compose_scores", lambda r, n, s: composed.append(r) or compose(r, n, s))
    synthesizer.draw(conditions(2), np.full(2, START), 0)
    assert networks.lead == max(networks.days.config.memory, min(12 * 7, networks.shape.num_tokens))
    early = START - np.timedelta64(networks.lead, "D")
    whole = calendar.features(early, networks.lead + networks.shape.num_tokens, 86_400)
    np.testing.assert_array_equal(asked[0][1].numpy(), whole)
    assert composed[0][0, 0, 0] == networks.lead
