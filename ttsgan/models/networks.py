"""All networks of a run in one module, with the standardisation of household numbers and latents between them.

Axis letters: B series, N tokens, P values of a token, F calendar features, H household numbers, Z latent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttsgan.config import RunConfig
from ttsgan.models.days import DaysPrior
from ttsgan.models.discriminator import Discriminator
from ttsgan.models.encoder import Decoder, Encoder
from ttsgan.models.generator import Generator
from ttsgan.models.household import HouseholdModel
from ttsgan.models.patching import num_tokens


@dataclass(frozen=True, kw_only=True)
class SeriesShape:
    """Sizes of the data that the networks depend on: channels, points, points per patch, tokens per week, and so on."""

    channels: int
    length: int
    patch_size: int
    week: int
    num_features: int
    num_numbers: int

    @property
    def num_tokens(self) -> int:
        """Tokens N of a series."""
        return num_tokens(self.length, self.patch_size)

    @property
    def points(self) -> int:
        """Values P of a token."""
        return self.channels * self.patch_size


LEAD_WEEKS = 12
"""Weeks that the temporal prior samples before a series begins. By then the missing past has about a tenth of the
weight in the exponential averages of half-lives up to 4 weeks (0.6 at 16 weeks)."""


class Networks(nn.Module):
    """Encoder, decoder, household model, temporal prior, generator and discriminator of one run.

    `fit_numbers` fits ``numbers_mean/std`` and `fit_latents` fits ``latent_mean/std``. The networks take and return
    standardised household numbers and conditions.
    """

    def __init__(self, config: RunConfig, shape: SeriesShape) -> None:
        super().__init__()
        self.shape, self.noise_kind = shape, config.generator.noise
        points, features, numbers = shape.points, shape.num_features, shape.num_numbers
        latent = config.encoder.latent_dim
        self.encoder = Encoder(config.encoder, points, features, numbers, shape.week)
        self.decoder = Decoder(config.encoder, points, features, numbers)
        self.household = HouseholdModel(config.household, numbers, latent)
        self.days = DaysPrior(config.days, points, features, numbers + latent, shape.week)
        self.generator = Generator(
            config.generator,
            num_tokens=shape.num_tokens,
            patch_size=shape.patch_size,
            channels=shape.channels,
            num_features=features,
            latent_dim=latent,
            num_numbers=numbers,
        )
        self.discriminator = Discriminator(config.discriminator, points, features, latent, shape.week)
        for name, size in (("numbers", numbers), ("latent", latent)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("correction", torch.tensor(1.0))

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.correction.device

    def fit_numbers(self, numbers_BH: Tensor) -> None:
        """Store the mean and standard deviation of the household numbers of training series."""
        self.numbers_mean.copy_(numbers_BH.mean(0))
        self.numbers_std.copy_(numbers_BH.std(0, unbiased=False).clamp(min=1e-4))

    def fit_latents(self, latents_BZ: Tensor) -> None:
        """Store the mean and standard deviation of the latents of training series."""
        self.latent_mean.copy_(latents_BZ.mean(0))
        self.latent_std.copy_(latents_BZ.std(0, unbiased=False).clamp(min=1e-4))

    def standard_numbers(self, numbers_BH: Tensor) -> Tensor:
        """Return household numbers standardised by their mean and standard deviation among training series."""
        return (numbers_BH - self.numbers_mean) / self.numbers_std

    def standard_latents(self, latents_BZ: Tensor) -> Tensor:
        """Return latents, or conditions made of them, standardised by the latents of training series."""
        return (latents_BZ - self.latent_mean) / self.latent_std

    @torch.no_grad()
    def draw_household(self, cond_BZ: Tensor, generator: torch.Generator) -> Tensor:
        """Draw household numbers (B, H) in their own units for standardised conditions (B, Z)."""
        return self.household.sample(cond_BZ, generator)

    @property
    def lead(self) -> int:
        """Tokens that the temporal prior samples before a series begins (burn-in).

        `LEAD_WEEKS`, but no more tokens than a series has: with hourly tokens, twelve weeks would precede a few days.
        At least the attention window.
        """
        return max(self.days.config.memory, min(LEAD_WEEKS * self.shape.week, self.shape.num_tokens))

    @torch.no_grad()
    def draw_residual(
        self,
        cond_BZ: Tensor,
        numbers_BH: Tensor,
        regular_BNP: Tensor,
        calendar_BNF: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw residual tokens (B, N, P) of households with these numbers (own units) from the temporal prior.

        The regular part (B, `lead` + N, P) and the calendar (B, `lead` + N, F) begin before the series: a first day
        without a past would be too ordinary.
        """
        static = torch.cat([self.standard_numbers(numbers_BH), cond_BZ], dim=-1)
        return self.days.sample(regular_BNP, calendar_BNF, static, generator)[:, self.lead :]

    def write_scores(
        self,
        noise: tuple[Tensor, Tensor],
        cond_BZ: Tensor,
        numbers_BH: Tensor,
        calendar_BNF: Tensor,
        base_BNP: Tensor | None,
    ) -> Tensor:
        """Return the generator's scores (B, N, P), with its correction scaled by the chosen share ``correction``."""
        if base_BNP is not None and not self.correction:
            return base_BNP
        written = self.generator(noise, cond_BZ, self.standard_numbers(numbers_BH), calendar_BNF, base_BNP)
        return written if base_BNP is None else base_BNP + self.correction * (written - base_BNP)
