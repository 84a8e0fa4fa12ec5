"""The value head: the distribution of each value of a day, given the day's hidden state and its earlier values.

A day of a household is many small decisions: whether one slot is at the base load or not says little about the next. A
mixture over whole days would need a component for every combination. So the values of a day are drawn
autoregressively, each from a one-dimensional mixture of Gaussians, by one small network shared by all slots.

Axis letters: B series, N tokens (days), P values of a token, S requested slots of it, D width, F features, E value
width, K components, A rows of a weight matrix.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttsgan.config import DaysConfig

NARROW, WIDE = -0.7, 0.3
"""Initial log scales of the first and the last component; identical components would stay identical."""
SHARPEST, BROADEST = -3.0, 3.0
"""Range of log scales. The lower limit resolves values that recur exactly, such as zero, to a twentieth of a standard
deviation. With a lower one, the likelihood gains from ever narrower components alone; training pursues that and becomes
unstable (charging cars and solar roofs: 7 to 10 % further from real series at -6)."""
LARGEST = 8.0
"""Sampled values are clamped to this absolute value, in standard deviations, so that a long chain cannot diverge."""
SURENESS = 1.25
"""Exponent of the component weights in sampling. Sampled values are inputs of later ones, so the uncertainty of each
accumulates over a long chain: without the exponent, households that are away come back too soon."""


class DayDistribution(NamedTuple):
    """Mixture of Gaussians of each value given the earlier ones: log weights, means and log scales, (B, N, P, K)."""

    log_weight: Tensor
    mean: Tensor
    log_scale: Tensor

    def log_likelihood(self, values_BNP: Tensor) -> Tensor:
        """Return the log density (B, N) of whole tokens, in nats; always in single precision."""
        with torch.autocast(values_BNP.device.type, enabled=False):
            scaled = (values_BNP.float()[..., None] - self.mean) * torch.exp(-self.log_scale)
            each = torch.logsumexp(self.log_weight - 0.5 * scaled.square() - self.log_scale, dim=-1)
        return each.sum(-1) - 0.5 * values_BNP.shape[-1] * math.log(2 * math.pi)


class ValueHead(nn.Module):
    """Network that returns the `DayDistribution` of tokens, and draws tokens value by value.

    Parameters
    ----------
    config : DaysConfig
    points : int
        Values P of a token.
    skips : Tensor (F, K)
        Initial coefficients of the features of a value in the means of the components.
    """

    def __init__(self, config: DaysConfig, points: int, skips: Tensor) -> None:
        super().__init__()
        self.points, width = points, config.value_width
        self.from_day = nn.Linear(config.width, points * width)
        self.from_features = nn.Linear(len(skips), width, bias=False)
        self.from_before = nn.Parameter(torch.randn(points, points, width) / math.sqrt(points))
        self.deeper = nn.Linear(width, width)
        self.head = nn.Linear(width, 3 * config.mixtures, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.slot = nn.Parameter(torch.zeros(points, 3 * config.mixtures))
        spread = torch.linspace(NARROW, WIDE, config.mixtures) if config.mixtures > 1 else torch.zeros(1)
        self.base_log_scale = nn.Parameter(spread)
        self.skips = nn.Parameter(skips.clone())

    def _mixture(self, x: Tensor, features: Tensor, slot: Tensor) -> DayDistribution:
        """Return the distribution of values from hidden states (..., E), features (F, ...) and slot bias (3 K, ...)."""
        x = F.gelu(x)
        x = x + F.gelu(self.deeper(x))
        # Components are the first axis in memory: sums over a short contiguous axis are slow.
        out = (self.head.weight @ x.flatten(0, -2).T).unflatten(1, x.shape[:-1])
        weight, mean, log_scale = (out + slot).float().chunk(3)
        with torch.autocast(features.device.type, enabled=False):
            mean = mean + (self.skips.T @ features.to(self.skips).flatten(1)).view_as(mean)
        spread = self.base_log_scale.view(-1, *[1] * (features.ndim - 1))
        mixture = weight.log_softmax(0), mean, (log_scale + spread).clamp(SHARPEST, BROADEST)
        return DayDistribution(*(of_component.movedim(0, -1) for of_component in mixture))

    def _from_day(self, slots: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return weights (S E, D) and bias (S E,) of the linear map from a day's hidden state to these slots."""
        weight_PED, bias_PE = (x.unflatten(0, (self.points, -1)) for x in (self.from_day.weight, self.from_day.bias))
        return weight_PED[slots].flatten(0, 1), bias_PE[slots].flatten()

    def forward(
        self, hidden_BND: Tensor, features_FBNP: Tensor, values_BNP: Tensor, slots_S: Tensor | None = None
    ) -> DayDistribution:
        """Return the distribution of every value given its day's hidden state and features and the values before it.

        If ``slots_S`` (S,) is given, return only these slots of a day, in their order.
        """
        slots, width = slice(None) if slots_S is None else slots_S, self.from_features.out_features
        before_PPE = self.from_before * torch.ones_like(self.from_before[..., 0]).triu(1)[..., None]
        before_PSE, features_FBNS = before_PPE[:, slots], features_FBNP[..., slots]
        # Hidden state and earlier values in one product, features in a second one: each pass over the tensor is slow.
        weight_AD, bias_A = self._from_day(slots)
        weight = torch.cat([weight_AD, before_PSE.flatten(1).T], dim=1)
        x = F.linear(torch.cat([hidden_BND, values_BNP.to(hidden_BND)], dim=-1), weight, bias_A)
        x = torch.addmm(x.view(-1, width), features_FBNS.flatten(1).T, self.from_features.weight.T)
        return self._mixture(x.view(*features_FBNS.shape[1:], width), features_FBNS, self.slot[slots].T[:, None, None])

    def sample(self, hidden_BD: Tensor, features_FBP: Tensor, generator: torch.Generator) -> Tensor:
        """Draw tokens (B, P) autoregressively, value by value, with a CPU ``generator``."""
        batch, device = len(hidden_BD), hidden_BD.device
        inputs_BPE = F.linear(hidden_BD, *self._from_day()).unflatten(1, (self.points, -1))
        inputs_BPE = inputs_BPE + self.from_features(features_FBP.movedim(0, -1))
        uniform = torch.rand(batch, self.points, 1, generator=generator).to(device)
        normal = torch.randn(batch, self.points, 1, generator=generator).to(device)
        out = torch.zeros(batch, self.points, device=device)
        for p in range(self.points):
            x_BE = inputs_BPE[:, p] + out[:, :p] @ self.from_before[:p, p]
            mixture = self._mixture(x_BE, features_FBP[..., p], self.slot[p, :, None])
            below = (SURENESS * mixture.log_weight).softmax(-1).cumsum(-1) < uniform[:, p]
            pick = below.sum(-1, keepdim=True).clamp(max=below.shape[-1] - 1)
            mean, log_scale = mixture.mean.gather(-1, pick), mixture.log_scale.gather(-1, pick)
            drawn = mean + log_scale.exp() * normal[:, p]
            out[:, p] = drawn[:, 0].clamp(-LARGEST, LARGEST)
        return out
