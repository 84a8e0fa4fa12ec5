"""The temporal prior: a causal transformer that writes a year day by day, trained by likelihood.

Given the days before, the calendar, the household numbers and the condition, the next day is drawn from a mixture of
Gaussians. Means, scales and weights come from the network; each component's correlation within the day is one matrix
for all days, so that the head stays small and few households suffice to learn it.

The prior writes residuals: what is left of scores without what the household regularly does. Some days are nothing of
the kind, such as those of an empty home. So each component takes away a share of its own of what is regular, and the
network is told what that is. Of days that attention does not reach it is told `traces`.

Axis letters: B series, N tokens (days), P values of a token, F features, S static inputs, K mixture components.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttsgan.config import DaysConfig
from ttsgan.models.layers import Block, KeyValueCache, causal_mask

WEEKLY = 0.2
"""Weight of the last token of the same weekday in its trace."""
HALF_LIFE = 4
"""Weeks after which a token weighs half as much in the other traces."""
MEAN_SIZE = 0.7
"""Size of a residual, about: what is taken from it before it leaves a trace."""
IRREGULAR = -0.1, 0.6
"""Shares of what is regular that the first and the last component take away at the start of training."""
LARGEST = 8.0
"""Residuals are drawn within so many standard deviations, so that a long chain cannot run away."""


class DayLaw(NamedTuple):
    """Law of the next token: log weights (B, N, K), means and log scales (B, N, K, P)."""

    log_weight: Tensor
    mean: Tensor
    log_scale: Tensor


class DaysPrior(nn.Module):
    """Law of a series of residual days.

    Parameters
    ----------
    config : DaysConfig
    points : int
        Values P of a token.
    num_features : int
        Calendar features F of a token.
    num_static : int
        Household numbers and condition together, S.
    week : int
        Tokens in a week: the token so long ago is an input beside the last one.
    """

    def __init__(self, config: DaysConfig, points: int, num_features: int, num_static: int, week: int) -> None:
        super().__init__()
        self.config, self.points, self.week = config, points, week
        self.embed = nn.Linear(7 * points + num_features, config.width)
        self.static = nn.Sequential(
            nn.Linear(num_static, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.mixtures * (1 + 2 * points))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        # Components must differ at the start, or they stay one.
        spread = torch.linspace(-0.5, 0.5, config.mixtures) if config.mixtures > 1 else torch.zeros(1)
        self.base_log_scale = nn.Parameter(spread[:, None].repeat(1, points))
        self.whitening = nn.Parameter(torch.zeros(config.mixtures, points, points))
        self.irregular = nn.Parameter(torch.linspace(*IRREGULAR, config.mixtures)[:, None].repeat(1, points))

    def _law(self, hidden_BND: Tensor, regular_BNP: Tensor, dropout: float = 0.0) -> DayLaw:
        out = self.head(F.dropout(self.norm(hidden_BND), dropout, self.training)).float()
        k, p = self.config.mixtures, self.points
        weight, mean, scale = out.split([k, k * p, k * p], dim=-1)
        log_scale = scale.unflatten(-1, (k, p)) + self.base_log_scale
        mean = mean.unflatten(-1, (k, p)) - self.irregular * regular_BNP[:, :, None]
        return DayLaw(weight.log_softmax(-1), mean, log_scale.clamp(-6.0, 3.0))

    def _whitening(self) -> Tensor:
        """Return unit lower triangular matrices (K, P, P) that decorrelate the values of a day."""
        return self.whitening.tril(-1) + torch.eye(self.points, device=self.whitening.device)

    def forward(
        self,
        residual_BNP: Tensor,
        regular_BNP: Tensor,
        calendar_BNF: Tensor,
        static_BS: Tensor,
        last_dropout: float = 0.0,
    ) -> DayLaw:
        """Return the law of every token given the tokens before it; in training with dropout before the last layer.

        Parameters
        ----------
        residual_BNP, regular_BNP : Tensor (B, N, P)
            What is drawn, and what is regular, in the same units: the sum are scores over the spread of their slot.
        calendar_BNF : Tensor (B, N, F)
        static_BS : Tensor (B, S)
        last_dropout : float
        """
        before = _shift(residual_BNP, 1), _shift(residual_BNP + regular_BNP, 1), _shift(residual_BNP, self.week)
        left = traces(residual_BNP, self.week)
        x_BND = self.embed(torch.cat([*before, regular_BNP, left, calendar_BNF], dim=-1))
        x_BND = x_BND + self.static(static_BS)[:, None]
        mask = causal_mask(x_BND.shape[1], self.config.memory, x_BND.device)
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        return self._law(x_BND, regular_BNP, last_dropout)

    def log_likelihood(self, law: DayLaw, residual_BNP: Tensor) -> Tensor:
        """Return the log density (B, N) of tokens under ``law``, in nats; in single precision, whatever is set."""
        scaled = (residual_BNP.float()[:, :, None] - law.mean) * torch.exp(-law.log_scale)
        with torch.autocast(scaled.device.type, enabled=False):
            white = torch.einsum("kij,bnkj->bnki", self._whitening(), scaled)
            size = torch.linalg.vecdot(white, white)
        log_density = -0.5 * size - law.log_scale.sum(-1) - 0.5 * self.points * math.log(2 * math.pi)
        return torch.logsumexp(law.log_weight + log_density, dim=-1)

    @torch.no_grad()
    def sample(
        self, regular_BNP: Tensor, calendar_BNF: Tensor, static_BS: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw residual tokens (B, N, P), one after the other, from ``generator``, which lives on the CPU."""
        (batch, tokens, points), device = regular_BNP.shape, regular_BNP.device
        static = self.static(static_BS)[:, None]
        colour = torch.linalg.solve_triangular(
            self._whitening(), torch.eye(points, device=device).expand_as(self.whitening), upper=False
        )
        out = torch.zeros(batch, tokens, points, device=device)
        caches = [KeyValueCache(min(self.config.memory, tokens)) for _ in self.blocks]
        rows = torch.arange(batch, device=device)
        nothing = torch.zeros(batch, points, device=device)
        left = _Traces(nothing, self.week)
        for n in range(tokens):
            before = out[:, n - 1] if n >= 1 else nothing
            scores_before = before + regular_BNP[:, n - 1] if n >= 1 else nothing
            week_before = out[:, n - self.week] if n >= self.week else nothing
            told = before, scores_before, week_before, regular_BNP[:, n], left.of(n), calendar_BNF[:, n]
            x = self.embed(torch.cat(told, dim=-1))[:, None] + static
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block.step(x, n, cache)
            law = self._law(x, regular_BNP[:, n : n + 1])
            uniform = torch.rand(batch, 1, generator=generator).to(device)
            pick = (law.log_weight[:, 0].exp().cumsum(-1) < uniform).sum(-1).clamp(max=self.config.mixtures - 1)
            normal = torch.randn(batch, points, generator=generator).to(device)
            shape = torch.einsum("bij,bj->bi", colour[pick], normal)
            drawn = law.mean[rows, 0, pick] + law.log_scale[rows, 0, pick].exp() * shape
            out[:, n] = drawn.clamp(-LARGEST, LARGEST)
            left.leave(n, out[:, n])
        return out


def traces(residual_BNP: Tensor, week: int) -> Tensor:
    """Return what all tokens before each have left, shape (B, N, 3 P): weighted means, 0 of those before the first.

    One of the tokens of the same weekday, one of all tokens, and one of their size; ``week`` is tokens in a week.
    """
    at_N = torch.arange(residual_BNP.shape[1], device=residual_BNP.device)
    lag_NN = (at_N[:, None] - at_N).to(residual_BNP)
    rate = _rate(week)
    daily_NN = torch.where(lag_NN > 0, rate * (1 - rate) ** (lag_NN - 1), 0.0)
    same_NN = (lag_NN > 0) & (lag_NN % week == 0)
    weekly_NN = torch.where(same_NN, WEEKLY * (1 - WEEKLY) ** (lag_NN / week - 1), 0.0)
    sizes_BNP = residual_BNP.abs() - MEAN_SIZE
    return torch.cat([weekly_NN @ residual_BNP, daily_NN @ residual_BNP, daily_NN @ sizes_BNP], dim=-1)


class _Traces:
    """The same, token by token."""

    def __init__(self, nothing_BP: Tensor, week: int) -> None:
        self.weekdays, self.mean, self.size = [nothing_BP] * week, nothing_BP, nothing_BP
        self.week, self.rate = week, _rate(week)

    def of(self, n: int) -> Tensor:
        """Return what the tokens before token ``n`` have left (B, 3 P)."""
        return torch.cat([self.weekdays[n % self.week], self.mean, self.size], dim=-1)

    def leave(self, n: int, token_BP: Tensor) -> None:
        """Let token ``n`` leave its traces."""
        day = n % self.week
        self.weekdays[day] = torch.lerp(self.weekdays[day], token_BP, WEEKLY)
        self.mean = torch.lerp(self.mean, token_BP, self.rate)
        self.size = torch.lerp(self.size, token_BP.abs() - MEAN_SIZE, self.rate)


def _rate(week: int) -> float:
    """Return the weight of the last token in traces of all tokens."""
    return 1 - 0.5 ** (1 / (HALF_LIFE * week))


def _shift(x_BNP: Tensor, lag: int) -> Tensor:
    """Return the tokens moved ``lag`` later, zeros in front."""
    if lag >= x_BNP.shape[1]:
        return torch.zeros_like(x_BNP)
    return torch.cat([torch.zeros_like(x_BNP[:, :lag]), x_BNP[:, :-lag]], dim=1)
