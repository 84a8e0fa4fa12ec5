"""The loss of each phase, term by term.

Axis letters: B series of this worker's batch, N tokens, P values of a token, F calendar features, H household numbers,
Z latent, G groupings.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from ttsgan import losses
from ttsgan.config import SHARED, DaysConfig, RunConfig
from ttsgan.models.networks import Networks
from ttsgan.models.patching import tokens_at
from ttsgan.training.dataset import TrainSet

NOISE_SERIES = 100
"""Number of training series for which `DaysConfig` states ``jitter`` and ``last_dropout``."""

Figures = dict[str, Tensor]
LossAndFigures = tuple[Tensor, Figures]
"""A loss and the figures to log."""


def encoder_loss(
    networks: Networks,
    data: TrainSet,
    rows: Tensor,
    noise_BZ: Tensor,
    config: RunConfig,
) -> LossAndFigures:
    """Return the VAE loss: reconstruction error of scores and household numbers, and KL divergence."""
    calendar, observed = data.calendar_of(rows), data.observed[rows]
    numbers = networks.standard_numbers(data.numbers[rows])
    posterior = networks.encoder(data.scores[rows], observed, calendar, numbers)
    latent = posterior.mu + torch.exp(0.5 * posterior.logvar) * noise_BZ
    days, guess = networks.decoder(latent, calendar)
    error_days = losses.masked_square_error(days.float(), data.scores[rows], observed)
    error_numbers = F.mse_loss(guess.float(), numbers)
    kl = losses.kl_divergence(posterior.mu, posterior.logvar, config.encoder.free_bits)
    total = error_days + error_numbers + config.encoder.kl_weight * kl / config.encoder.latent_dim
    return total, {"encoder/days": error_days, "encoder/numbers": error_numbers, "encoder/kl_nats": kl}


def days_noise(config: DaysConfig, count: int) -> tuple[float, float]:
    """Return jitter (standard deviation) and last dropout (probability) for ``count`` training series.

    Noise on an input acts as a ridge penalty of its variance times the number of rows. Variance and dropout odds are
    inversely proportional to the number of series, so that the penalty stays constant.
    """
    share = NOISE_SERIES / max(count, 1)
    odds = share * config.last_dropout / (1 - config.last_dropout)
    return config.jitter * math.sqrt(share), odds / (1 + odds)


def days_loss(
    networks: Networks,
    data: TrainSet,
    rows: Tensor,
    cond_BZ: Tensor,
    jitter_BH: Tensor | None,
    at_BN: Tensor | None = None,
    slots_S: Tensor | None = None,
    last_dropout: float = 0.0,
) -> LossAndFigures:
    """Return the negative log likelihood of the days, in nats per value: the mean over series of each one's mean.

    Days less than half observed do not count. Only the consecutive days ``at_BN`` of each series and the slots
    ``slots_S`` of each day count; by default all. ``last_dropout`` is the dropout before the value head, in training
    mode only.
    """
    numbers = networks.standard_numbers(data.numbers[rows])
    if jitter_BH is not None:
        numbers = numbers + jitter_BH
    residual, observed, static = data.residual[rows], data.observed[rows], torch.cat([numbers, cond_BZ], dim=-1)
    counted = observed if at_BN is None else tokens_at(observed, at_BN)
    weight = (counted.float().mean(-1) >= 0.5).float()
    days = networks.days(residual, data.regular[rows], data.calendar_of(rows), static, last_dropout, at_BN, slots_S)
    asked = residual if at_BN is None else tokens_at(residual, at_BN)
    asked = asked if slots_S is None else asked[..., slots_S]
    each_B = (days.log_likelihood(asked) * weight).sum(1) / weight.sum(1).clamp(min=1)
    return -each_B.mean() / asked.shape[-1], {}


@dataclass(frozen=True)
class AdversarialBatch:
    """Inputs of one adversarial step: real series, and conditions with prior samples to generate from."""

    real: Tensor
    real_cond: Tensor
    real_calendar: Tensor
    observed: Tensor
    base: Tensor | None
    cond: Tensor
    numbers: Tensor
    calendar: Tensor
    noise: tuple[Tensor, Tensor]
    share: Tensor

    def part(self, rows: slice) -> "AdversarialBatch":
        """Return these rows of every tensor; samples of one condition must stay together."""
        cut = {f.name: getattr(self, f.name) for f in fields(self)}
        tokens, series = cut.pop("noise")
        return AdversarialBatch(
            **{name: None if whole is None else whole[rows] for name, whole in cut.items()},
            noise=(tokens[rows], series[rows]),
        )

    def of_both(self) -> tuple[Tensor, Tensor]:
        """Return calendar and conditions of the real series, followed by those of the generated ones."""
        return torch.cat([self.real_calendar, self.calendar]), torch.cat([self.real_cond, self.cond])

    def written(self, networks: Networks) -> Tensor:
        """Return the generated scores (B, N, P), float32."""
        standard = networks.standard_numbers(self.numbers)
        return networks.generator(self.noise, self.cond, standard, self.calendar, self.base).float()


@torch.no_grad()
def draw_fake(networks: Networks, batch: AdversarialBatch) -> Tensor:
    """Return generated scores with the gaps of the real ones, for the discriminator step; without gradient."""
    return batch.written(networks) * batch.observed


def discriminator_loss(
    networks: Networks,
    batch: AdversarialBatch,
    fake: Tensor,
    penalise: bool,
    config: RunConfig,
) -> LossAndFigures:
    """Return the discriminator loss of the year and day logits, with ``fake`` from `draw_fake`.

    With ``penalise`` it includes the gradient penalty, times ``loss.penalty_interval``.
    """
    loss, local_weight = config.loss, config.discriminator.local_weight
    both = torch.cat([batch.real, fake]), *batch.of_both()
    (real_year, fake_year), (real_days, fake_days) = (logits.chunk(2) for logits in networks.discriminator(*both))
    total = losses.discriminator_loss(loss.name, real_year, fake_year)
    total = total + local_weight * losses.discriminator_loss(loss.name, real_days, fake_days)
    figures = {
        "discriminator/real": real_year.mean(),
        "discriminator/synthetic": fake_year.mean(),
        "discriminator/days_margin": real_days.mean() - fake_days.mean(),
    }
    if loss.drift:
        total = total + loss.drift * (real_year.square().mean() + local_weight * real_days.square().mean())
    if penalise and loss.penalty_weight:
        with torch.autocast(fake.device.type, enabled=False):
            penalty = _penalty(networks, batch, fake, config)
        total = total + loss.penalty_interval * loss.penalty_weight * penalty
        figures["discriminator/penalty"] = penalty
    return total, figures


def _penalty(networks: Networks, batch: AdversarialBatch, fake: Tensor, config: RunConfig) -> Tensor:
    def judge(scores: Tensor, calendar: Tensor, cond: Tensor) -> Tensor:
        year, days = networks.discriminator(scores, calendar, cond)
        return year + config.discriminator.local_weight * days.mean(1)

    if config.loss.name == "wgan-gp":
        middle = losses.between(batch.real, fake, batch.share)
        return losses.gradient_penalty(lambda x: judge(x, batch.real_calendar, batch.real_cond), middle, centre=1.0)
    both = batch.of_both()
    return losses.gradient_penalty(lambda x: judge(x, *both), torch.cat([batch.real, fake]), centre=0.0)


def generator_loss(
    networks: Networks,
    average: Networks,
    batch: AdversarialBatch,
    other_noise: tuple[Tensor, Tensor],
    config: RunConfig,
) -> LossAndFigures:
    """Return the generator loss: adversarial term, cycle term (mean latent near the condition), mode-seeking term."""
    loss = config.loss
    written = batch.written(networks)
    # Generated series get the gaps of the real ones, so that gaps carry no information.
    fake = written * batch.observed
    with torch.no_grad():
        real_year, real_days = networks.discriminator(batch.real, batch.real_calendar, batch.real_cond)
    fake_year, fake_days = networks.discriminator(fake, batch.calendar, batch.cond)
    adversarial = losses.generator_loss(loss.name, real_year, fake_year)
    local = losses.generator_loss(loss.name, real_days, fake_days)
    total = adversarial + config.discriminator.local_weight * local
    figures = {"generator/adversarial": adversarial}
    if batch.base is not None:
        figures["generator/correction"] = (fake - batch.base * batch.observed).square().mean().sqrt()
    if loss.cycle:
        seen = torch.ones_like(batch.observed)
        posterior = average.encoder(written, seen, batch.calendar, networks.standard_numbers(batch.numbers))
        latents = networks.standard_latents(posterior.mu).unflatten(0, (-1, SHARED))
        term = losses.cycle(latents, batch.cond[::SHARED])
        total = total + loss.cycle * term
        figures["generator/cycle"] = term
    if loss.mode_seeking:
        standard = networks.standard_numbers(batch.numbers)
        second = networks.generator(other_noise, batch.cond, standard, batch.calendar, batch.base).float()
        apart = sum((a - b).abs().flatten(1).mean(1) for a, b in zip(batch.noise, other_noise, strict=True))
        term = losses.mode_seeking(fake, second * batch.observed, apart)
        total = total + loss.mode_seeking * term
        figures["generator/mode_seeking"] = term
    return total, figures
