"""Exponential moving average (EMA) of the weights of networks; only averages are ever sampled."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Updates averages of the weights of networks.

    Parameters
    ----------
    averages, networks : sequence of Module
        Of the same architectures, in the same order. Their tensors are listed once: on a CPU, finding those of small
        networks takes longer than averaging them.
    half_life : int
        Series over which the weight of old parameters halves; at most a quarter of the series seen, so that the random
        initialisation is forgotten (Karras 2024, ramp-up).
    """

    def __init__(self, averages: Sequence[nn.Module], networks: Sequence[nn.Module], half_life: int) -> None:
        self.half_life = half_life
        self.means, self.weights = ([p for one in side for p in one.parameters()] for side in (averages, networks))
        buffers = ([b for one in side for b in one.buffers()] for side in (averages, networks))
        self.buffers = list(zip(*buffers, strict=True))

    @torch.no_grad()
    def update(self, series: int, series_seen: int) -> None:
        """Update the averages after ``series`` more series, ``series_seen`` in total; buffers are copied."""
        keep = 0.5 ** (series / min(self.half_life, max(series_seen / 4, 1)))
        get_ema_multi_avg_fn(keep)(self.means, self.weights, None)
        for mean, new in self.buffers:
            mean.copy_(new)
