"""Exponential moving average (EMA) of a network's weights; only averages are ever sampled."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, series: int, series_seen: int, half_life: int) -> None:
    """Update the moving average of the weights after ``series`` more series; buffers are copied.

    Parameters
    ----------
    average, network : Module
        Of the same architecture.
    series, series_seen : int
        Series since the last update, and in total.
    half_life : int
        Series over which the weight of old parameters halves; at most a quarter of ``series_seen``, so that the
        random initialisation is forgotten (Karras 2024, ramp-up).
    """
    keep = 0.5 ** (series / min(half_life, max(series_seen / 4, 1)))
    get_ema_multi_avg_fn(keep)(list(average.parameters()), list(network.parameters()), None)
    for mean, new in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(new)
