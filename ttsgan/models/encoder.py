"""The variational autoencoder that maps a series to a latent.

Axis letters: B series, N tokens, P values of a token, F calendar features, H household numbers, D width, Z latent,
V weeks, S tokens in a week.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ttsgan.config import EncoderConfig
from ttsgan.models.layers import Block, by_week, within_weeks


class Posterior(NamedTuple):
    """Mean and log variance (B, Z) of the latent given a series."""

    mu: Tensor
    logvar: Tensor


class Encoder(nn.Module):
    """Transformer over the days of each week, then over one token of household numbers and the mean days of all weeks.

    The posterior comes from the output of the first and the mean output of the others. Attention of all days to each
    other would take more than twice the time.

    Parameters
    ----------
    config : EncoderConfig
    points, num_features, num_numbers : int
        Values P of a token, calendar features F, household numbers H.
    week : int
        Tokens S in a week.
    """

    def __init__(self, config: EncoderConfig, points: int, num_features: int, num_numbers: int, week: int) -> None:
        super().__init__()
        self.week = week
        self.embed = nn.Linear(2 * points + num_features, config.width)
        self.embed_numbers = nn.Sequential(
            nn.Linear(num_numbers, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        blocks = [Block(config.width, config.heads, config.dropout) for _ in range(config.depth)]
        local = (config.depth + 1) // 2
        self.local_blocks, self.global_blocks = nn.ModuleList(blocks[:local]), nn.ModuleList(blocks[local:])
        self.norm = nn.LayerNorm(2 * config.width)
        self.to_posterior = nn.Linear(2 * config.width, 2 * config.latent_dim)

    def forward(self, scores_BNP: Tensor, observed_BNP: Tensor, calendar_BNF: Tensor, numbers_BH: Tensor) -> Posterior:
        """Return the posterior given normal scores, 0 where missing, and standardised household numbers."""
        seen_BNP = observed_BNP.to(scores_BNP.dtype)
        days_BND = self.embed(torch.cat([scores_BNP * seen_BNP, seen_BNP, calendar_BNF], dim=-1))
        days_BVSD = within_weeks(self.local_blocks, days_BND, self.week)
        # Tokens without any observed value carry no information about the household and are left out of the means.
        weight_BVS1 = by_week(seen_BNP.amax(dim=-1, keepdim=True), self.week)
        weight_BV1 = weight_BVS1.sum(2)
        weeks_BVD = (days_BVSD * weight_BVS1).sum(2) / weight_BV1.clamp(min=1)
        x_BVD = torch.cat([self.embed_numbers(numbers_BH)[:, None], weeks_BVD], dim=1)
        for block in self.global_blocks:
            x_BVD = block(x_BVD)
        mean_BD = (x_BVD[:, 1:] * weight_BV1).sum(1) / weight_BV1.sum(1).clamp(min=1)
        out = self.to_posterior(self.norm(torch.cat([x_BVD[:, 0], mean_BD], dim=-1))).float()
        mu, logvar = out.chunk(2, dim=-1)
        return Posterior(mu, logvar.clamp(-8.0, 4.0))


class Decoder(nn.Module):
    """Reconstructs household numbers and the expected day of every date from a latent; needed in training only."""

    def __init__(self, config: EncoderConfig, points: int, num_features: int, num_numbers: int) -> None:
        super().__init__()
        width = 2 * config.width
        self.to_numbers = nn.Sequential(
            nn.Linear(config.latent_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, num_numbers),
        )
        self.from_latent = nn.Linear(config.latent_dim, width)
        self.from_calendar = nn.Linear(num_features, width)
        self.to_days = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, points))

    def forward(self, latent_BZ: Tensor, calendar_BNF: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, N, P) and standardised household numbers (B, H)."""
        hidden = self.from_latent(latent_BZ)[:, None] + self.from_calendar(calendar_BNF)
        return self.to_days(hidden), self.to_numbers(latent_BZ)
