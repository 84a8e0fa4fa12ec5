"""The running average of a network's weights; only averages are ever sampled."""

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, series: int, series_seen: int, half_life: int) -> None:
    """Move ``average`` towards ``network`` after ``series`` more series; buffers are copied.

    Parameters
    ----------
    average, network : Module
        Of one architecture.
    series, series_seen : int
        Series since the last update, and in all.
    half_life : int
        Series over which the weight of old parameters falls by half; shorter in the first few, so that the random
        start is forgotten (Karras 2024, ramp-up).
    """
    keep = 0.5 ** (series / min(half_life, max(series_seen / 4, 1)))
    for mean, new in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(new.detach().to(mean.dtype), 1 - keep)
    for mean, new in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(new)
