"""The conditional discriminator: a local logit for each day in the context of its week, and a global one for the year.

A few hundred households give few years but many days: the local logits have data where the global one has little. Days
attend within their week, and weeks to each other, so that no attention matrix is larger than 53 by 53.

Axis letters: B series, N tokens, P values of a token, F calendar features, D width, Z condition, V weeks, S tokens in a
week.
"""

import torch
from torch import Tensor, nn

from ttsgan.config import DiscriminatorConfig
from ttsgan.models.layers import Block, within_weeks


class Discriminator(nn.Module):
    """Discriminator of the normal scores of series given their condition (projection head, Miyato and Koyama 2018).

    Parameters
    ----------
    config : DiscriminatorConfig
    points, num_features, latent_dim : int
        Values P of a token, calendar features F, dimensions Z of a condition.
    week : int
        Tokens S in a week.
    """

    def __init__(self, config: DiscriminatorConfig, points: int, num_features: int, latent_dim: int, week: int) -> None:
        super().__init__()
        width, self.week = config.width, week
        self.embed = nn.Linear(points + num_features, width)
        self.local_blocks = nn.ModuleList(Block(width, config.heads) for _ in range((config.depth + 1) // 2))
        self.global_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth // 2))
        self.local_norm, self.global_norm = nn.LayerNorm(width), nn.LayerNorm(2 * width)
        self.local_logit, self.global_logit = nn.Linear(width, 1), nn.Linear(2 * width, 1)
        self.local_cond = nn.Linear(latent_dim, width, bias=False)
        self.global_cond = nn.Linear(latent_dim, 2 * width, bias=False)

    def forward(self, scores_BNP: Tensor, calendar_BNF: Tensor, cond_BZ: Tensor) -> tuple[Tensor, Tensor]:
        """Return the global logits of series (B,) and the local logits of their tokens (B, N)."""
        tokens = scores_BNP.shape[1]
        x_BND = self.embed(torch.cat([scores_BNP, calendar_BNF], dim=-1))
        x_BVSD = within_weeks(self.local_blocks, x_BND, self.week)
        scale = x_BND.shape[-1] ** -0.5
        local_BND = self.local_norm(x_BVSD.flatten(1, 2)[:, :tokens])
        by_cond = torch.einsum("bnd,bd->bn", local_BND, self.local_cond(cond_BZ)) * scale
        local_BN = self.local_logit(local_BND)[..., 0] + by_cond
        weeks_BVD = x_BVSD.mean(2)
        for block in self.global_blocks:
            weeks_BVD = block(weeks_BVD)
        # Standard deviation over the weeks as well as their mean: a year of identical weeks must be detectable.
        spread_BD = weeks_BVD.var(1, unbiased=False).add(1e-6).sqrt()
        pooled = self.global_norm(torch.cat([weeks_BVD.mean(1), spread_BD], dim=-1))
        global_B = self.global_logit(pooled)[..., 0] + (pooled * self.global_cond(cond_BZ)).sum(-1) * scale
        return global_B.float(), local_BN.float()
