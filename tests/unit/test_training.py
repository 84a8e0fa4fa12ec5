"""Training: rates and precision, one step, the stages, and their alarms.

The small configuration trains 32, 48 and 32 series: 4, 6 and 4 steps of 8.
"""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from ttsgan import api, recipes
from ttsgan.config import TrainingConfig, check_batch
from ttsgan.errors import ConfigError, DivergedError
from ttsgan.training import phases, state, step, transitions
from ttsgan.training.dataset import build_train_set
from ttsgan.training.loop import ALARM_AFTER, VALIDATIONS, Trainer
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.telemetry import Telemetry

CPU = torch.device("cpu")
PHASES = {"encoder": 0, "days": 1, "discriminator": 2, "generator": 2}


def weights(module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# ---- rates, precision, one step --------------------------------------------------------------------------------------


def test_rate_rises_then_falls_as_a_cosine():
    config = TrainingConfig(warmup=0.2)
    made = [step.rate_factor(config, p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert made == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert step.rate_factor(TrainingConfig(warmup=0.0), 0.0) == 1


def test_rates_of_a_stage(trainer):
    made = trainer("training.log_interval=1", "training.warmup=0.5")
    made._run_stage()
    rates = [figures["rate/encoder"] / 2e-3 for *_, figures in made.telemetry.lines]
    steps = len(rates)
    wanted = [step.rate_factor(made.config.training, (i + 0.5) / steps) for i in range(steps)]
    assert rates == pytest.approx(wanted)


def test_precision():
    assert step.precision_type("fp32", CPU) == torch.float32
    assert step.precision_type("bf16", CPU) == torch.bfloat16
    assert step.precision_type("auto", CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"training\.precision is 'fp16' on a CPU"):
        step.precision_type("fp16", CPU)


def test_batch_must_fit_workers_and_cycles(trainer):
    runtime = LocalRuntime()
    runtime.world_size = 3
    with pytest.raises(ConfigError, match=r"training\.batch_size is 8; allowed with 3 workers: a multiple of 12"):
        trainer(runtime=runtime)


def test_batch_must_fit_every_number_of_workers():
    check_batch(TrainingConfig(batch_size=48), range(1, 5))
    check_batch(TrainingConfig(batch_size=32), range(8, 9))
    with pytest.raises(ConfigError, match=r"batch_size is 32; .* 1 to 4 workers: a multiple of 48, such as 48$"):
        check_batch(TrainingConfig(batch_size=32), range(1, 5))


def test_batch_must_fit_its_parts():
    check_batch(TrainingConfig(batch_size=32, accumulation=4), range(2, 3))
    wanted = r"with 2 workers, each in 3 parts \(training\.accumulation\): a multiple of 24, such as 24$"
    with pytest.raises(ConfigError, match=wanted):
        check_batch(TrainingConfig(batch_size=32, accumulation=3), range(2, 3))


def test_stages_are_whole_batches():
    config = TrainingConfig(max_series=1000, batch_size=32, encoder_share=0.2, days_share=0.6)
    sizes = {name: state.stage_series(config, name) for name in state.STAGES}
    assert sizes == {"encoder": 192, "days": 608, "adversarial": 192}
    assert state.stage_series(TrainingConfig(encoder_share=0.3, days_share=0.7), "adversarial") == 0


def one_phase(made: Trainer, phase: str) -> dict:
    """Take one step of one phase, as the loop does."""
    return getattr(made, f"_{phase}_step")()


@pytest.mark.parametrize("phase", PHASES)
def test_gradient_isolation(adversarial, phase):
    """A phase moves all weights of its own networks and their averages, and nothing else; no gradient is left."""
    made = adversarial("loss.mode_seeking=0.1", "loss.drift=0.1")
    made.state.stage = PHASES[phase]
    own = {id(p) for p in made.state.parameters[phase]}
    nn.init.constant_(made.state.networks.generator.gain, 0.5)
    made.state.average.load_state_dict(made.state.networks.state_dict())
    before = {n: (p, p.detach().clone()) for n, p in made.state.networks.named_parameters()}
    average = {n: p.detach().clone() for n, p in made.state.average.named_parameters()}
    figures = one_phase(made, phase)
    assert all(math.isfinite(v) for v in figures.values())
    for name, (parameter, held) in before.items():
        moved = not torch.equal(parameter, held)
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
        assert moved == (id(parameter) in own), name
    for name, parameter in made.state.average.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, average[name]) == (id(before[name][0]) not in own), name


def test_discriminator_step_leaves_the_generator_wholly_alone(small):
    """Buffers included: the spectral norm's vectors (which one channel does not have) move in its own steps only."""
    sample, config = small.sample, recipes.override(small.config, ["generator.noise=white"])
    values = np.concatenate([sample.values, sample.values[::-1]], axis=1)
    scaler = api.fit_scaler(values, sample.starts, sample.step_seconds, config)
    data = build_train_set(values, sample.starts, sample.entities, scaler, config)
    made = Trainer(config, data, scaler, LocalRuntime(), Telemetry(None, 1), None)
    transitions.make_conditions(made.state, data, made.runtime)
    transitions.draw_pool(made.state, data, scaler, made.runtime)
    made.state.stage = 2
    made.state.networks.train()
    held = weights(made.state.networks.generator)
    one_phase(made, "discriminator")
    assert same(held, weights(made.state.networks.generator))


def test_adversarial_steps_are_those_of_a_naive_script(adversarial):
    """Three alternating steps against two plain optimizers, one loss and one backward each."""
    made = adversarial("training.grad_clip=1e9", "training.warmup=0", "loss.penalty_interval=1")
    naive = copy.deepcopy(made.state.networks).requires_grad_(True)
    config, average = made.config, copy.deepcopy(made.state.average)
    kinds = {"discriminator": naive.discriminator, "generator": naive.generator}
    optimizers = {
        name: torch.optim.AdamW(net.parameters(), lr=1.0, betas=(0.0, 0.99), weight_decay=config.training.weight_decay)
        for name, net in kinds.items()
    }
    naive.generator.eval()
    total = state.stage_series(config.training, "adversarial")
    for _ in range(3):
        progress = (made.state.series_seen + 4) / total
        for name, net in kinds.items():
            batch, rnd = made._adversarial_batch(name)
            other = made._noise(rnd) if name == "generator" else None
            for group in optimizers[name].param_groups:
                peak = getattr(config.training, f"{name}_lr")
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress))
            naive.zero_grad()
            if name == "discriminator":
                loss = phases.discriminator_loss(naive, batch, phases.draw_fake(naive, batch), True, config)[0]
            else:
                loss = phases.generator_loss(naive, average, batch, other, config)[0]
            loss.backward()
            assert all(p.grad is not None for p in net.parameters())
            optimizers[name].step()
        made._adversarial_step()
        made.state.series_seen += 8
    for (name, one), other in zip(naive.named_parameters(), made.state.networks.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("phase", PHASES)
def test_networks_hold_a_part_of_the_batch_at_a_time(adversarial, phase):
    """What is kept for the way back is that of four series, though a step takes 16; real and synthetic ones are judged
    together."""
    made = adversarial("training.batch_size=16", "training.accumulation=4")
    made.state.stage, sizes = PHASES[phase], []

    def seen(_, given):
        if torch.is_grad_enabled():
            sizes.append(len(given[0]))

    for name in ("encoder", "days", "discriminator"):
        made.state.networks.get_submodule(name).register_forward_pre_hook(seen)
    one_phase(made, phase)
    assert set(sizes) == {8 if phase == "discriminator" else 4}


def test_gradient_is_clipped(trainer):
    """AdamW's second moment after one step is (1 - b2) g^2: its root says how long the gradient was."""
    for limit in (1e-3, 1e9):
        made = trainer(f"training.grad_clip={limit}")
        figures = made._encoder_step()
        square = sum(s["exp_avg_sq"].sum() for s in made.state.optimizers["encoder"].state.values())
        length = (square / 0.01).sqrt().item()
        assert length == pytest.approx(min(limit, figures["gradient_norm/encoder"]), rel=1e-3)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops(trainer, phase, value):
    made = trainer()
    made.state.stage = PHASES[phase]
    held = weights(made.state.networks)

    def loss(*_):
        return sum(p.sum() for p in made.state.parameters[phase]) * value, {}

    with pytest.raises(
        DivergedError, match=rf"the loss of the {phase} is (nan|-?inf) after \d+ series; lower training.{phase}_lr"
    ) as caught:
        made._take(phase, loss)
    assert ("raise loss.penalty_weight" in str(caught.value)) == (PHASES[phase] == 2)
    assert "training.precision" not in str(caught.value), "it is fp32 already"
    assert str(caught.value).endswith("and start over")
    assert same(held, weights(made.state.networks))


def test_gradient_that_is_not_finite_stops(trainer):
    """A finite loss can have an infinite slope (a root at 0): the weights must not become NaN without a word."""
    made = trainer()

    def loss(*_):
        first = made.state.parameters["encoder"][0]
        return (first - first.detach()).abs().sum().sqrt(), {}

    with pytest.raises(DivergedError, match="the gradient of the encoder is nan after 0 series"):
        made._take("encoder", loss)
    assert all(torch.isfinite(v).all() for v in made.state.networks.state_dict().values())


def test_missing_reading_that_slips_through_is_named(trainer, small):
    data = dataclasses.replace(small.data, residual=small.data.residual.clone())
    data.residual[:] = math.nan
    made = trainer(data=data)
    with pytest.raises(DivergedError, match="the loss of the days is nan after"):
        made.train()


def test_average_after_steps_is_the_closed_form(trainer):
    made = trainer("training.ema_half_life=20")
    name, parameter = next(iter(made.state.networks.encoder.named_parameters()))
    wanted = parameter.detach().double()
    for taken in range(1, 5):
        made._encoder_step()
        made.state.series_seen += 8
        keep = 0.5 ** (8 / min(20, max(taken * 8 / 4, 1)))
        wanted = keep * wanted + (1 - keep) * parameter.detach().double()
    torch.testing.assert_close(dict(made.state.average.encoder.named_parameters())[name].double(), wanted)
    assert not made.state.average.training


def test_the_best_prior_is_kept(two_stages, trainer):
    """A rate that rises to one that is far too high ends in a worse validation loss than an earlier one."""
    made = trainer(
        "training.days_lr=3", "training.warmup=0.9", "training.days_share=0.6", "training.log_interval=1",
        "training.ema_half_life=4",
    )  # fmt: skip
    two_stages(made)
    values = made.telemetry.of("validation/days")
    assert len(values) == VALIDATIONS
    assert made.state.best_loss == min(values) < values[-1]
    assert made._validate_days() == pytest.approx(min(values), rel=1e-5)
    assert same(weights(made.state.average.days), weights(made.state.networks.days))


def test_training_lowers_its_losses(two_stages, trainer):
    """Eighty steps each: the encoder's error falls by a fifth, the prior gains a twentieth of a nat per value."""
    made = trainer(
        "training.max_series=1600", "training.encoder_share=0.4", "training.encoder_lr=1e-2",
        "training.log_interval=1",
    )  # fmt: skip
    two_stages(made)
    error = np.array(made.telemetry.of("loss/encoder"))
    assert error[-10:].mean() < 0.8 * error[:5].mean()
    days = np.array(made.telemetry.of("loss/days"))
    assert days[-10:].mean() < days[:5].mean() - 0.05


def test_the_generator_is_scored_on_the_way(trainer):
    """Twice in the prior's stage, and three times between start and end of the next, in physical units."""
    seen = []

    def score(values, starts):
        seen.append((values.shape, starts.dtype.kind, float(values.mean())))
        return float(len(seen))

    settings = ("training.max_series=160", "training.log_interval=1000")
    made = trainer(*settings, score=score)
    held = weights(made.train().networks.generator)
    told = [(at, figures["score/pool"]) for _, at, figures in made.telemetry.lines if "score/pool" in figures]
    assert told == [(112 + 16, 3.0), (112 + 24, 4.0), (112 + 40, 5.0)]
    of_prior = [(at, figures["score/prior"]) for _, at, figures in made.telemetry.lines if "score/prior" in figures]
    assert of_prior == [(80, 1.0), (112, 2.0)]
    assert [shape for shape, *_ in seen] == [(128, 1, 252)] * 5 + [(256, 1, 252)] * 3
    assert all(kind == "M" and 0 < mean < 10 for _, kind, mean in seen)
    assert same(held, weights(trainer(*settings).train().networks.generator)), "and nothing is trained otherwise"


# ---- alarms ----------------------------------------------------------------------------------------------------------


def test_collapse_stops_training(adversarial):
    made = adversarial("training.max_series=480", "training.diversity_floor=0.8", "training.generator_lr=1e-9")
    made.state.drawn["pool_base"] = torch.zeros_like(made.state.drawn["pool_base"])
    with pytest.raises(DivergedError, match=r"the generator collapsed: spread .* the floor is 0.8; raise loss"):
        made._run_stage()
    assert made.state.series_seen > ALARM_AFTER * state.stage_series(made.config.training, "adversarial")


def test_no_alarm_before_its_time_or_above_the_floor(trainer):
    made = trainer()
    made._watch_diversity(0.0, ALARM_AFTER)
    made._watch_diversity(0.21, 1.0)
    with pytest.raises(DivergedError, match=r"0\.190 of the real spread"):
        made._watch_diversity(0.19, 0.26)


def test_a_look_at_validation_in_parts_is_one_at_all(trainer, two_stages):
    """The last part may be smaller."""
    made = two_stages(trainer("training.validation_share=0.3"))
    whole, sizes = made._validate_days(), []
    real = phases.days_loss
    for parts in (2, 4):
        config = recipes.override(made.config, [f"training.accumulation={parts}"])
        other = trainer(data=made.data)
        other.config, other.state = config, made.state
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phases, "days_loss", lambda *args, **kw: sizes.append(len(args[2])) or real(*args, **kw))
            assert other._validate_days() == pytest.approx(whole, rel=1e-6)
        assert max(sizes) == 8 // parts
        sizes.clear()
