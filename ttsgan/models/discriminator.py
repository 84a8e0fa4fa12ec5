"""The conditional discriminator: one logit for the year, and one for each day seen with its neighbours.

A few hundred households are few years but many days: the local logits have data where the global one has little.

Axis letters: B series, N tokens, P values of a token, F calendar features, D width, Z condition.
"""

import torch
from torch import Tensor, nn

from ttsgan.config import DiscriminatorConfig
from ttsgan.models.layers import Block, window_mask

REACH = 3
"""Tokens to each side that a local logit may see: a week in all."""


class Discriminator(nn.Module):
    """Judges normal scores of series under their condition (projection head, Miyato and Koyama 2018).

    Parameters
    ----------
    config : DiscriminatorConfig
    points, num_features, latent_dim : int
        Values P of a token, calendar features F, dimensions Z of a condition.
    """

    def __init__(self, config: DiscriminatorConfig, points: int, num_features: int, latent_dim: int) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Linear(points + num_features, width)
        self.local_blocks = nn.ModuleList(Block(width, config.heads) for _ in range((config.depth + 1) // 2))
        self.global_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth // 2))
        self.local_norm, self.global_norm = nn.LayerNorm(width), nn.LayerNorm(2 * width)
        self.local_logit, self.global_logit = nn.Linear(width, 1), nn.Linear(2 * width, 1)
        self.local_cond = nn.Linear(latent_dim, width, bias=False)
        self.global_cond = nn.Linear(latent_dim, 2 * width, bias=False)

    def forward(self, scores_BNP: Tensor, calendar_BNF: Tensor, cond_BZ: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of whole series (B,) and of their tokens (B, N)."""
        x_BND = self.embed(torch.cat([scores_BNP, calendar_BNF], dim=-1))
        mask = window_mask(x_BND.shape[1], REACH, x_BND.device)
        for block in self.local_blocks:
            x_BND = block(x_BND, mask)
        local_BND = self.local_norm(x_BND)
        scale = x_BND.shape[-1] ** -0.5
        by_cond = torch.einsum("bnd,bd->bn", local_BND, self.local_cond(cond_BZ)) * scale
        local_BN = self.local_logit(local_BND)[..., 0] + by_cond
        for block in self.global_blocks:
            x_BND = block(x_BND)
        # The spread over the year beside its mean: a year of equal days must be visible.
        pooled = self.global_norm(torch.cat([x_BND.mean(1), x_BND.var(1, unbiased=False).add(1e-6).sqrt()], dim=-1))
        global_B = self.global_logit(pooled)[..., 0] + (pooled * self.global_cond(cond_BZ)).sum(-1) * scale
        return global_B.float(), local_BN.float()
