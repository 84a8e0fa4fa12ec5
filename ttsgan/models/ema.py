"""The running average of a network's weights; only averages are ever sampled."""

import copy

import torch
from torch import nn


class Ema:
    """Average of the parameters of ``network``, with its buffers copied.

    Parameters
    ----------
    network : Module
    half_life : int
        Series over which the weight of old parameters falls by half.
    """

    def __init__(self, network: nn.Module, half_life: int) -> None:
        self.half_life = half_life
        self.series_seen = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, series: int) -> None:
        """Move the average towards ``network`` after ``series`` more were seen; the start is forgotten sooner."""
        self.series_seen += series
        keep = 0.5 ** (series / min(self.half_life, max(self.series_seen / 4, 1)))
        for mean, new in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(new.detach().to(mean.dtype), 1 - keep)
        for mean, new in zip(self.network.buffers(), network.buffers(), strict=True):
            mean.copy_(new)
