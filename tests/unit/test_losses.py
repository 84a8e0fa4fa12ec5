"""Losses against values computed by hand, by loops and by torch.distributions; how each phase puts them together."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from ttsgan import losses, recipes
from ttsgan.config import SHARED, DaysConfig
from ttsgan.config.training import LOSSES
from ttsgan.models.layers import Block
from ttsgan.training import phases, step

REAL, FAKE = torch.tensor([0.5, -2.0]), torch.tensor([1.0, -0.25])


def softplus(x):
    return math.log1p(math.exp(x))


BY_HAND = {
    "standard": (
        (softplus(-0.5) + softplus(1.0) + softplus(2.0) + softplus(-0.25)) / 2,
        (softplus(-1.0) + softplus(0.25)) / 2,
    ),
    "hinge": ((0.5 + 2.0 + 3.0 + 0.75) / 2, (-1.0 + 0.25) / 2),
    "lsgan": ((0.25 + 1.0 + 9.0 + 0.0625) / 2, (0.0 + 1.5625) / 2),
    "wgan-gp": ((0.5 + 1.75) / 2, (-1.0 + 0.25) / 2),
    "relativistic": ((softplus(0.5) + softplus(1.75)) / 2, (softplus(-0.5) + softplus(-1.75)) / 2),
}


def test_every_name_of_the_settings_is_here():
    assert set(LOSSES) == set(BY_HAND)


@pytest.mark.parametrize("name", LOSSES)
def test_adversarial_by_hand(name):
    discriminator, generator = BY_HAND[name]
    assert losses.discriminator_loss(name, REAL, FAKE).item() == pytest.approx(discriminator, abs=1e-6)
    assert losses.generator_loss(name, REAL, FAKE).item() == pytest.approx(generator, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_adversarial_directions(name):
    """The discriminator wants real up and fake down, the generator fake up; only relativistic reads the real logits."""
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    slope = torch.autograd.grad(losses.discriminator_loss(name, real, fake), (real, fake))
    assert (slope[0] <= 0).all() or name == "lsgan"
    assert slope[0].abs().sum() > 0
    if name != "lsgan":
        assert (slope[1] >= 0).all()
    slope = torch.autograd.grad(losses.generator_loss(name, real, fake), (real, fake), allow_unused=True)
    assert (slope[0] is not None) == (name == "relativistic")
    assert (slope[1] <= 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_adversarial_are_means_of_any_shape_in_single_precision(name):
    real, fake = torch.randn(4, 7), torch.randn(4, 7)
    whole = losses.discriminator_loss(name, real, fake)
    torch.testing.assert_close(whole, losses.discriminator_loss(name, real.flatten(), fake.flatten()))
    rows = torch.stack([losses.discriminator_loss(name, r, f) for r, f in zip(real, fake, strict=True)])
    torch.testing.assert_close(whole, rows.mean())
    assert losses.discriminator_loss(name, real.bfloat16(), fake.bfloat16()).dtype == torch.float32


# ---- gradient penalty ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_penalty_of_a_linear_judge(centre):
    slope = torch.tensor([3.0, 4.0], dtype=torch.float64)
    value = losses.gradient_penalty(lambda x: x @ slope, torch.randn(6, 2, dtype=torch.float64), centre)
    assert value.item() == pytest.approx((5 - centre) ** 2, rel=1e-5)


def test_penalty_of_a_quadratic_judge():
    """Judge w |x|^2: the slope is 2 w x, so the penalty is the mean of 4 w^2 |x|^2, with the slope 8 w |x|^2 in w."""
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    value = losses.gradient_penalty(lambda s: weight * s.square().flatten(1).sum(1), x, 0.0)
    wanted = 1.5**2 * 4 * x.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(value, wanted)
    (slope,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(slope, 2 * wanted / 1.5)


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_penalty_is_that_of_second_derivatives(centre):
    """With attention in the judge: the value and its gradient are those of autograd's second derivatives, by series.

    The central difference leaves an error of the second order: a tenth of the step leaves a hundredth of it.
    """
    torch.manual_seed(0)
    block, out = Block(8, 2).double(), nn.Linear(8, 1).double()
    x = torch.randn(4, 5, 8, dtype=torch.float64)

    def judge(s):
        return out(block(s)).sum((1, 2))

    terms = []
    for row in x:
        one = row[None].clone().requires_grad_()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            (slope,) = torch.autograd.grad(judge(one).sum(), one, create_graph=True)
        terms.append(slope.square().sum() if centre == 0 else (slope.norm() - 1) ** 2)
    exact = torch.stack(terms).mean()
    wanted = torch.autograd.grad(exact, list(block.parameters()), allow_unused=True)
    errors = []
    for length in (losses.SLOPE_STEP, losses.SLOPE_STEP / 10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "SLOPE_STEP", length)
            value = losses.gradient_penalty(judge, x, centre)
        made = torch.autograd.grad(value, list(block.parameters()), allow_unused=True)
        apart = [value - exact]
        for a, b in zip(made, wanted, strict=True):
            # The last bias does not change a slope: autograd says None, a difference of its two terms 0.
            apart.append((torch.zeros(1) if a is None else a) - (0 if b is None else b))
        errors.append((sum(e.square().sum() for e in apart) ** 0.5 / exact).item())
    assert errors[0] < 0.01
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)


def test_penalty_leaves_its_series_alone():
    x = torch.randn(2, 3, requires_grad=True)
    losses.gradient_penalty(lambda s: s.pow(3).sum(1), x, 0.0)
    assert x.grad is None
    assert not losses.gradient_penalty(lambda s: s.sum(1) * 0, torch.zeros(2, 3), 1.0).isnan()


def test_between_is_on_the_line():
    real, fake = torch.zeros(500, 3, 2), torch.ones(500, 3, 2, requires_grad=True)
    made = losses.between(real, fake, torch.rand(500, generator=torch.Generator().manual_seed(0)))
    assert not made.requires_grad
    assert torch.equal(made, made[:, :1, :1].expand_as(made))  # one point for the whole series
    share = made[:, 0, 0]
    assert 0 <= share.min() < 0.02
    assert 0.98 < share.max() <= 1
    assert abs(share.mean() - 0.5) < 0.05
    torch.testing.assert_close(
        made[0], torch.full((3, 2), 1 - torch.rand(1, generator=torch.Generator().manual_seed(0)).item())
    )


# ---- autoencoder -----------------------------------------------------------------------------------------------------


def test_kl_is_torchs():
    mu, logvar = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    wanted = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(losses.kl_divergence(mu, logvar, 0.0), wanted)


def test_free_bits_cost_and_stop_gradients():
    """Divergences of 2, 0.5 and 0.02 nats: with 0.1 free nats, those of 0.02 cost 0.1 and have no gradient."""
    mu = torch.tensor([[2.0, 0.2], [0.2, 1.0]], requires_grad=True)
    logvar = torch.zeros(2, 2, requires_grad=True)
    value = losses.kl_divergence(mu, logvar, 0.1)
    assert value.item() == pytest.approx((2.0 + 0.1 + 0.1 + 0.5) / 2)
    value.backward()
    free = torch.tensor([[False, True], [True, False]])
    assert torch.equal(mu.grad == 0, free)
    assert not logvar.grad[free].any()


def test_masked_error_by_hand():
    """Each series by its own observed values: 5 over 3 of the first, 16 over 1 of the second."""
    guess, target = (
        torch.tensor([[1.0, 2.0, 30.0, 4.0], [4.0, 9.0, 9.0, 9.0]]),
        torch.tensor([[0.0, 4.0, 0.0, 4.0]] * 2),
    )
    observed = torch.tensor([[True, True, False, True], [True, False, False, False]])
    assert losses.masked_square_error(guess, target, observed).item() == pytest.approx((5 / 3 + 16) / 2)
    guess.requires_grad_()
    losses.masked_square_error(guess, target, observed).backward()
    assert torch.equal(guess.grad == 0, ~observed | (guess == target))
    assert losses.masked_square_error(guess, target, observed & False).item() == 0


# ---- generator -------------------------------------------------------------------------------------------------------


def test_mode_seeking_by_hand():
    first, second = torch.zeros(2, 1, 4), torch.stack([torch.full((1, 4), 0.499), torch.full((1, 4), -0.999)])
    value = losses.mode_seeking(first, second, torch.tensor([1.0, 3.0]))
    assert value.item() == pytest.approx((1 / 0.5 + 3 / 1.0) / 2, rel=1e-5)
    # Equal series are punished, not divided by zero; series that differ more cost less.
    assert losses.mode_seeking(first, first, torch.ones(2)).item() == pytest.approx(1000)
    assert losses.mode_seeking(first, 2 * second, torch.ones(2)) < losses.mode_seeking(first, second, torch.ones(2))


def test_cycle_by_hand():
    latents = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    assert losses.cycle(latents, torch.tensor([[2.0, 0.0], [0.0, 0.0]])).item() == 0
    assert losses.cycle(latents, torch.tensor([[0.0, 0.0], [0.0, 1.0]])).item() == pytest.approx((4 + 1) / 4)


def test_diversity_by_hand():
    real = torch.tensor([[[0.0, 0.0]], [[2.0, 4.0]]])  # spreads 1 and 2
    assert losses.diversity(real, real).item() == pytest.approx(1)
    assert losses.diversity(torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]]]), real).item() == pytest.approx(0.5)
    assert losses.diversity(torch.ones(2, 1, 2), real).item() == 0
    assert math.isfinite(losses.diversity(real, torch.ones(2, 1, 2)).item())


def weights(module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- phases ----------------------------------------------------------------------------------------------------------


def test_encoder_loss_is_its_terms(trainer, small):
    made = trainer()
    rows, rnd = made._begin("encoder", made.fitted_rows)
    total, terms = phases.encoder_loss(made.state.networks.eval(), small.data, rows, rnd.normal(4), made.config)
    kl = made.config.encoder.kl_weight * terms["encoder/kl_nats"] / 4
    torch.testing.assert_close(total, terms["encoder/days"] + terms["encoder/numbers"] + kl)


def test_days_loss_is_the_mean_over_series_of_each_ones_observed_days(trainer, small):
    networks = trainer().state.networks.eval()
    rows, cond = torch.arange(4), torch.zeros(4, 4)
    value, _ = phases.days_loss(networks, small.data, rows, cond, None)
    static = torch.cat([networks.standard_numbers(small.data.numbers[rows]), cond], dim=1)
    law = networks.days(small.data.residual[rows], small.data.regular[rows], small.data.calendar_of(rows), static)
    density = law.log_likelihood(small.data.residual[rows])
    seen = small.data.observed[rows].float().mean(-1) >= 0.5
    assert not seen.all()
    each = [-of_series[of_seen].mean() / 6 for of_series, of_seen in zip(density, seen, strict=True)]
    torch.testing.assert_close(value, torch.stack(each).mean())


@pytest.mark.parametrize(
    ("count", "spread", "dropout"),
    # odds 1 : 1 at 100 series, 4 : 1 at 25, 1 : 4 at 400
    [(100, 1.5, 0.5), (25, 3.0, 0.8), (400, 0.75, 0.2)],
)
def test_noise_falls_as_a_penalty_beside_more_series(count, spread, dropout):
    config = DaysConfig(jitter=1.5, last_dropout=0.5)
    assert phases.days_noise(config, count) == pytest.approx((spread, dropout))
    assert phases.days_noise(DaysConfig(jitter=0, last_dropout=0), count) == (0, 0)


def test_days_loss_of_a_crop_is_that_of_its_days(trainer, small):
    """Its days count and no others, each by the law that is told of the whole series; gaps within it do not count."""
    networks = trainer().state.networks.eval()
    rows, cond = torch.arange(4), torch.zeros(4, 4)
    first = torch.tensor([0, 3, 14, 7])
    at = first[:, None] + torch.arange(20)
    value, _ = phases.days_loss(networks, small.data, rows, cond, None, at)
    static = torch.cat([networks.standard_numbers(small.data.numbers[rows]), cond], dim=1)
    whole = small.data.residual[rows], small.data.regular[rows], small.data.calendar_of(rows), static
    density = networks.days(*whole, at_BN=at).log_likelihood(whole[0][rows[:, None], at])
    each = []
    for i, begin in enumerate(first.tolist()):
        seen = small.data.observed[i, begin : begin + 20].float().mean(-1) >= 0.5
        each.append(-density[i, seen].mean() / 6)
    torch.testing.assert_close(value, torch.stack(each).mean())


def test_series_without_observed_days_cost_nothing(trainer, small):
    networks = trainer().state.networks.eval()
    data = dataclasses.replace(small.data, observed=small.data.observed.clone())
    data.observed[1] = False
    one, both = (
        phases.days_loss(networks, data, torch.tensor(rows), torch.zeros(2, 4), None)[0] for rows in ([0, 0], [0, 1])
    )
    torch.testing.assert_close(both, one / 2)


def test_days_loss_of_some_slots_is_on_average_that_of_all(trainer, small):
    """Every pair of the six slots once: each slot counts five times of fifteen."""
    networks = trainer().state.networks.eval()
    rows, cond = torch.arange(4), torch.zeros(4, 4)
    pairs = torch.combinations(torch.arange(6), 2)
    made = [phases.days_loss(networks, small.data, rows, cond, None, slots_S=pair)[0] for pair in pairs]
    whole, _ = phases.days_loss(networks, small.data, rows, cond, None)
    assert torch.stack(made).std() > 1e-3
    torch.testing.assert_close(torch.stack(made).mean(), whole)


def test_days_density_keeps_its_precision_in_bf16(trainer, small):
    """The density under autocast is that of the same law in float32, to the last digits."""
    networks = trainer().state.networks.eval()
    nn.init.normal_(networks.days.values.head.weight, std=0.5)
    rows, cond = torch.arange(32), torch.zeros(32, 4)
    static = torch.cat([networks.standard_numbers(small.data.numbers[rows]), cond], dim=1)
    with torch.no_grad(), step.autocast(torch.bfloat16, torch.device("cpu")):
        law = networks.days(small.data.residual[rows], small.data.regular[rows], small.data.calendar_of(rows), static)
        low = law.log_likelihood(small.data.residual[rows])
    with torch.no_grad():
        high = law.log_likelihood(small.data.residual[rows])
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, high)


def test_generated_series_have_the_gaps_of_real_ones(adversarial):
    made = adversarial()
    batch, _ = made._adversarial_batch("discriminator")
    observed = batch.observed.clone()
    observed[0, 5] = 0
    gappy = dataclasses.replace(batch, observed=observed)
    judged = []
    made.state.networks.discriminator.register_forward_hook(lambda _, given, out: judged.append(given[0]))
    fake = phases.draw_fake(made.state.networks, gappy)
    phases.discriminator_loss(made.state.networks, gappy, fake, False, made.config)
    real, fake = judged[0].chunk(2)
    assert torch.equal(real, batch.real)
    assert not fake[0, 5].any()
    assert fake[1, 5].any()


def test_cycle_term_reads_whole_generated_series(adversarial):
    """Gaps of the real series that a draw stands beside are not what the encoder should see of it as values."""
    made = adversarial("loss.cycle=1", "discriminator.local_weight=0")
    made.state.networks.eval()
    batch, _ = made._adversarial_batch("generator")
    gappy = batch.observed.clone()
    gappy[:, ::2] = 0
    terms = []
    for observed in (torch.ones_like(gappy), gappy):
        one = dataclasses.replace(batch, observed=observed)
        _, figures = phases.generator_loss(made.state.networks, made.state.average, one, batch.noise, made.config)
        terms.append(figures["generator/cycle"].item())
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)


def test_draws_of_one_condition_stay_together(adversarial):
    made = adversarial()
    pool = made.state.drawn
    count = len(pool["pool_cond"])
    assert {len(pool[f"pool_{name}"]) for name in ("numbers", "start_index", "base")} == {count}
    cond = pool["pool_cond"].unflatten(0, (-1, SHARED))
    assert torch.equal(cond, cond[:, :1].expand_as(cond))
    batch, _ = made._adversarial_batch("generator")
    four = batch.cond.unflatten(0, (-1, SHARED))
    assert torch.equal(four, four[:, :1].expand_as(four))
    numbers = batch.numbers.unflatten(0, (-1, SHARED))
    assert not torch.equal(numbers, numbers[:, :1].expand_as(numbers))
    assert batch.base.std(0).mean() > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(adversarial, name):
    made = adversarial(f"loss.name={name}", "loss.drift=0.01", "loss.mode_seeking=0.1", "loss.penalty_interval=2")
    held = weights(made.state.networks)
    figures = []
    for _ in range(3):
        figures.append(made._adversarial_step())
        made.state.series_seen += 8
    assert all(math.isfinite(v) for one in figures for v in one.values())
    assert ["discriminator/penalty" in one for one in figures] == [True, False, True]
    after = weights(made.state.networks)
    for part in ("generator", "discriminator"):
        assert any(not torch.equal(held[k], after[k]) for k in held if k.startswith(part))
    assert not any(not torch.equal(held[k], after[k]) for k in held if k.startswith(("encoder", "days", "household")))


def test_penalty_is_weighted_by_its_interval(adversarial):
    made = adversarial()
    batch, _ = made._adversarial_batch("discriminator")
    values = []
    for assignments in ([], ["loss.penalty_weight=0"], ["loss.penalty_interval=1"]):
        config = recipes.override(made.config, assignments)
        networks = made.state.networks.eval()
        values.append(phases.discriminator_loss(networks, batch, phases.draw_fake(networks, batch), True, config))
    (total, figures), (without, none), (every, _) = values
    assert "discriminator/penalty" not in none
    torch.testing.assert_close(total - without, 4 * 10 * figures["discriminator/penalty"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(every - without, 10 * figures["discriminator/penalty"], rtol=1e-3, atol=1e-4)


def test_a_generator_that_copies_real_series_fools_by_design(adversarial):
    """Hand check of the losses' wiring: real against the same real is a draw: softplus(0) for the year and the days."""
    made = adversarial("loss.cycle=0")
    batch, rnd = made._adversarial_batch("discriminator")
    nn.init.zeros_(made.state.networks.generator.gain)
    batch = dataclasses.replace(batch, base=batch.real, cond=batch.real_cond, calendar=batch.real_calendar)
    networks = made.state.networks.eval()
    fake = phases.draw_fake(networks, batch)
    total, _ = phases.discriminator_loss(networks, batch, fake, False, made.config)
    assert total.item() == pytest.approx(2 * math.log(2), abs=1e-5)
    assert losses.diversity(fake, batch.real).item() == pytest.approx(1, abs=1e-5)
    made.state.networks.requires_grad_(False)
    other = made._noise(rnd)
    total, _ = phases.generator_loss(made.state.networks, made.state.average, batch, other, made.config)
    assert total.item() == pytest.approx(2 * math.log(2), abs=1e-5)
    assert losses.diversity(batch.real, batch.real).item() == pytest.approx(1)
