"""The conditional generator: three transformer branches (days, weeks, months), merged, then decoded to points.

With ``prior`` noise it corrects a sample of the temporal prior, and the correction is zero at initialisation. With
``white`` noise it generates the whole series itself.

Axis letters: B series, N tokens, M pooled tokens, P values of a token, C channels, D width, F calendar features,
W noise, Z condition, H household numbers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ttsgan.config import GeneratorConfig
from ttsgan.models.layers import Block
from ttsgan.models.patching import patchify

DAYS_OF_TOKEN = {"full": 1, "medium": 7, "small": 30}
"""Pooling factor of each branch: series tokens per branch token."""


class Branch(nn.Module):
    """One resolution: pool the tokens, add position embeddings, apply the blocks, and upsample.

    Adaptive average pooling and linear upsampling are products with constant matrices: torch's own kernels for them
    take a third of a step on a GPU.
    """

    def __init__(self, config: GeneratorConfig, num_tokens: int, pooled: int) -> None:
        super().__init__()
        self.whole = pooled == 1
        pooled_tokens = max(1, math.ceil(num_tokens / pooled))
        self.positions = nn.Parameter(0.02 * torch.randn(pooled_tokens, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        if not self.whole:
            pool_NM = F.adaptive_avg_pool1d(torch.eye(num_tokens)[None], pooled_tokens)[0]
            stretch_MN = F.interpolate(torch.eye(pooled_tokens)[None], size=num_tokens, mode="linear")[0]
            self.register_buffer("pool_MN", pool_NM.T.contiguous(), persistent=False)
            self.register_buffer("stretch_NM", stretch_MN.T.contiguous(), persistent=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return tokens (B, N, D) processed at this branch's resolution."""
        pooled_BMD = (x_BND if self.whole else self.pool_MN @ x_BND) + self.positions
        for block in self.blocks:
            pooled_BMD = block(pooled_BMD)
        return pooled_BMD if self.whole else self.stretch_NM @ pooled_BMD


class Generator(nn.Module):
    """Generates the normal scores of whole series.

    Parameters
    ----------
    config : GeneratorConfig
    num_tokens, patch_size, channels : int
        Tokens N of a series, points of a patch, channels C; a token holds P = C * patch_size values.
    num_features, latent_dim, num_numbers : int
        Calendar features F, dimensions Z of a condition, household numbers H.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        *,
        num_tokens: int,
        patch_size: int,
        channels: int,
        num_features: int,
        latent_dim: int,
        num_numbers: int,
    ) -> None:
        super().__init__()
        self.config, self.num_tokens, self.patch_size, self.channels = config, num_tokens, patch_size, channels
        points, width = channels * patch_size, config.width
        base = points if config.noise == "prior" else 0
        self.embed = nn.Linear(base + config.noise_dim + num_features, width)
        self.embed_series = nn.Sequential(
            nn.Linear(config.noise_dim + latent_dim + num_numbers, width), nn.GELU(), nn.Linear(width, width)
        )
        self.branches = nn.ModuleDict(
            {name: Branch(config, num_tokens, pooled) for name, pooled in DAYS_OF_TOKEN.items()}
        )
        self.branch_weight = nn.Parameter(torch.ones(len(DAYS_OF_TOKEN)) / len(DAYS_OF_TOKEN))
        self.norm = nn.LayerNorm(width)
        # Kernels of twice the patch size overlap, so that neighbouring tokens join without a seam.
        self.write = spectral_norm(
            nn.ConvTranspose1d(width, channels, 2 * patch_size, stride=patch_size, padding=patch_size // 2)
        )
        self.gain = nn.Parameter(torch.full((channels, 1), 0.0 if config.noise == "prior" else 1.0))

    @torch.no_grad()
    def refresh_norm(self) -> None:
        """Do one power iteration of the spectral norm; in evaluation mode none is done."""
        self.train()
        self.write.weight  # noqa: B018  (reading it does the iteration)
        self.eval()

    def draw_noise(self, batch: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the noise of each token (B, N, W) and of the whole series (B, W), drawn with a CPU ``generator``."""
        shape = (batch, self.num_tokens + 1, self.config.noise_dim)
        noise = torch.randn(shape, generator=generator).to(device)
        return noise[:, 1:], noise[:, 0]

    def forward(
        self,
        noise: tuple[Tensor, Tensor],
        cond_BZ: Tensor,
        numbers_BH: Tensor,
        calendar_BNF: Tensor,
        base_BNP: Tensor | None,
    ) -> Tensor:
        """Return the normal scores (B, N, P) of series.

        Parameters
        ----------
        noise : pair of Tensor
            From `draw_noise`.
        cond_BZ, numbers_BH : Tensor
            Condition and standardised household numbers.
        calendar_BNF : Tensor
        base_BNP : Tensor or None
            Scores sampled from the temporal prior; None with ``white`` noise.
        """
        tokens_BNW, series_BW = noise
        parts = [tokens_BNW, calendar_BNF] if base_BNP is None else [base_BNP, tokens_BNW, calendar_BNF]
        series_BD = self.embed_series(torch.cat([series_BW, cond_BZ, numbers_BH], dim=-1))
        x_BND = self.embed(torch.cat(parts, dim=-1)) + series_BD[:, None]
        merged_BND = x_BND
        for weight, branch in zip(self.branch_weight, self.branches.values(), strict=True):
            merged_BND = merged_BND + weight * branch(x_BND)
        points_BCT = self.write(self.norm(merged_BND).transpose(1, 2))[..., : self.num_tokens * self.patch_size]
        drawn = self.gain * points_BCT.float() * math.sqrt(self.config.width)
        drawn_BNP = patchify(drawn, self.patch_size)
        if base_BNP is None:
            return drawn_BNP
        limit = self.config.correction_limit
        return base_BNP + limit * torch.tanh(drawn_BNP / limit)
