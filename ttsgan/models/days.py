"""The temporal prior: a causal transformer that writes a year day by day, trained by likelihood.

Given the days before, the calendar, the household numbers and the condition, the values of the next day are drawn one
after the other (`ttsgan.models.values`).

The prior writes residuals: what is left of scores without what the household regularly does. Some days are nothing of
the kind, such as those of an empty home. So each component takes away a share of its own of what is regular, and the
network is told what that is. Of days that attention does not reach it is told `traces`, and of each slot the
`usual_values`: a base load moves slowly, and the next value is near it or far above.

Axis letters: B series, N tokens (days), P values of a token, F calendar features, S static inputs.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttsgan.config import DaysConfig
from ttsgan.models.layers import Block, KeyValueCache, causal_mask
from ttsgan.models.values import DayLaw, ValueLaws

WEEKLY = 0.2
"""Weight of the last token of the same weekday in its trace."""
HALF_LIFE = 4
"""Weeks after which a token weighs half as much in the other traces."""
MEAN_SIZE = 0.7
"""Size of a residual, about: what is taken from it before it leaves a trace."""
IRREGULAR = -0.1, 0.6
"""Shares of what is regular that the first and the last component take away at the start of training."""
USUAL = 0.15, 0.5, 0.85
"""Shares of the values of a slot in the weeks before that lie below its usual ones."""
USUAL_WEEKS = 4
"""Weeks that usual values are taken of."""
TOLD = 7 + len(USUAL)
"""What is told of each value of a day: the day before as residual and as score, the week before, what is regular, three
`traces`, and the `usual_values`, less what is regular."""
REGULAR = 3
"""Which of these is what is regular."""


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
        self.config, self.week = config, week
        self.embed = nn.Linear(TOLD * points + num_features, config.width)
        self.static = nn.Sequential(
            nn.Linear(num_static, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        skips = torch.zeros(TOLD, config.mixtures)
        skips[REGULAR] = -torch.linspace(*IRREGULAR, config.mixtures)
        self.values = ValueLaws(config, points, skips)

    def forward(
        self,
        residual_BNP: Tensor,
        regular_BNP: Tensor,
        calendar_BNF: Tensor,
        static_BS: Tensor,
        last_dropout: float = 0.0,
    ) -> DayLaw:
        """Return the law of every value given the tokens before it and the values before it in its own token.

        Parameters
        ----------
        residual_BNP, regular_BNP : Tensor (B, N, P)
            What is drawn, and what is regular, in the same units: the sum are scores over the spread of their slot.
        calendar_BNF : Tensor (B, N, F)
        static_BS : Tensor (B, S)
        last_dropout : float
            Share of the hidden state of a day that the law of its values is not told in training.
        """
        before = _shift(residual_BNP, 1), _shift(residual_BNP + regular_BNP, 1), _shift(residual_BNP, self.week)
        usual = (u - regular_BNP for u in usual_values(residual_BNP + regular_BNP, self.week))
        told = *before, regular_BNP, *traces(residual_BNP, self.week), *usual
        x_BND = self.embed(torch.cat([*told, calendar_BNF], dim=-1))
        x_BND = x_BND + self.static(static_BS)[:, None]
        mask = causal_mask(x_BND.shape[1], self.config.memory, x_BND.device)
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        hidden_BND = F.dropout(self.norm(x_BND), last_dropout, self.training)
        return self.values(hidden_BND, torch.stack(told), residual_BNP)

    @torch.no_grad()
    def sample(
        self, regular_BNP: Tensor, calendar_BNF: Tensor, static_BS: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw residual tokens (B, N, P), one after the other, from ``generator``, which lives on the CPU."""
        (batch, tokens, points), device = regular_BNP.shape, regular_BNP.device
        static = self.static(static_BS)[:, None]
        out = torch.zeros(batch, tokens, points, device=device)
        caches = [KeyValueCache(min(self.config.memory, tokens)) for _ in self.blocks]
        nothing = torch.zeros(batch, points, device=device)
        left = _Traces(nothing, self.week)
        for n in range(tokens):
            before = out[:, n - 1] if n >= 1 else nothing
            scores_before = before + regular_BNP[:, n - 1] if n >= 1 else nothing
            week_before = out[:, n - self.week] if n >= self.week else nothing
            usual = (u - regular_BNP[:, n] for u in left.usual(n))
            told = before, scores_before, week_before, regular_BNP[:, n], *left.of(n), *usual
            x_B1D = self.embed(torch.cat([*told, calendar_BNF[:, n]], dim=-1))[:, None] + static
            for block, cache in zip(self.blocks, caches, strict=True):
                x_B1D = block.step(x_B1D, n, cache)
            out[:, n] = self.values.sample(self.norm(x_B1D)[:, 0], torch.stack(told), generator)
            left.leave(n, out[:, n], regular_BNP[:, n])
        return out


def traces(residual_BNP: Tensor, week: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what all tokens before each have left, each (B, N, P): weighted means, 0 of those before the first.

    One of the tokens of the same weekday, one of all tokens, and one of their size; ``week`` is tokens in a week.
    """
    at_N = torch.arange(residual_BNP.shape[1], device=residual_BNP.device)
    lag_NN = (at_N[:, None] - at_N).to(residual_BNP)
    rate = _rate(week)
    daily_NN = torch.where(lag_NN > 0, rate * (1 - rate) ** (lag_NN - 1), 0.0)
    same_NN = (lag_NN > 0) & (lag_NN % week == 0)
    weekly_NN = torch.where(same_NN, WEEKLY * (1 - WEEKLY) ** (lag_NN / week - 1), 0.0)
    sizes_BNP = residual_BNP.abs() - MEAN_SIZE
    return weekly_NN @ residual_BNP, daily_NN @ residual_BNP, daily_NN @ sizes_BNP


def usual_values(scores_BNP: Tensor, week: int) -> tuple[Tensor, ...]:
    """Return, for each share of `USUAL`, the value of that rank in the tokens of the weeks before each (B, N, P).

    0 for the first token, which has none before it.
    """
    window, at_N = USUAL_WEEKS * week, torch.arange(scores_BNP.shape[1], device=scores_BNP.device)
    before_BNP = F.pad(scores_BNP[:, :-1], (0, 0, window, 0), value=torch.inf)
    return _of_ranks(_sorted(before_BNP.unfold(1, window, 1)), at_N.clamp(max=window))


def _sorted(x: Tensor) -> Tensor:
    """Return the values in rising order along the last axis; not to be differentiated."""
    if x.device.type == "cpu":  # there numpy takes a tenth of the time
        return torch.from_numpy(np.sort(x.detach().numpy()))
    return x.sort(dim=-1).values


def _of_ranks(rising_BNPW: Tensor, count_N: Tensor) -> tuple[Tensor, ...]:
    """Return the values (B, N, P) at the shares of `USUAL` among the first ``count_N`` of each sorted window."""
    shares = torch.tensor(USUAL, device=count_N.device)
    rank_NQ = ((count_N[:, None] - 1).clamp(min=0) * shares).round().long()
    usual_BNPQ = rising_BNPW.gather(-1, rank_NQ[:, None].expand(*rising_BNPW.shape[:3], -1))
    return usual_BNPQ.where(count_N[:, None, None] > 0, 0.0).unbind(-1)


class _Traces:
    """`traces` and `usual_values`, token by token."""

    def __init__(self, nothing_BP: Tensor, week: int) -> None:
        self.weekdays, self.mean, self.size = [nothing_BP] * week, nothing_BP, nothing_BP
        self.week, self.rate = week, _rate(week)
        self.lately = [torch.full_like(nothing_BP, torch.inf)] * (USUAL_WEEKS * week)
        self.rising_BPW = torch.stack(self.lately, dim=-1)

    def of(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the `traces` of the tokens before token ``n``, each (B, P)."""
        return self.weekdays[n % self.week], self.mean, self.size

    def usual(self, n: int) -> tuple[Tensor, ...]:
        """Return the `usual_values` before token ``n``, each (B, P)."""
        count_1 = torch.tensor([min(n, len(self.lately))], device=self.mean.device)
        return tuple(usual[:, 0] for usual in _of_ranks(self.rising_BPW[:, None], count_1))

    def leave(self, n: int, token_BP: Tensor, regular_BP: Tensor) -> None:
        """Let token ``n`` leave its traces."""
        day = n % self.week
        self.weekdays[day] = torch.lerp(self.weekdays[day], token_BP, WEEKLY)
        self.mean = torch.lerp(self.mean, token_BP, self.rate)
        self.size = torch.lerp(self.size, token_BP.abs() - MEAN_SIZE, self.rate)
        # What falls out of the window is taken from the sorted values, and what comes put among them: no sorting.
        place, new_BP, rising = n % len(self.lately), token_BP + regular_BP, self.rising_BPW
        others = rising[..., 1:].where(rising[..., :-1] >= self.lately[place][..., None], rising[..., :-1])
        low, high = F.pad(others, (1, 0), value=-torch.inf), F.pad(others, (0, 1), value=torch.inf)
        self.rising_BPW, self.lately[place] = new_BP[..., None].clamp(low, high), new_BP


def _rate(week: int) -> float:
    """Return the weight of the last token in traces of all tokens."""
    return 1 - 0.5 ** (1 / (HALF_LIFE * week))


def _shift(x_BNP: Tensor, lag: int) -> Tensor:
    """Return the tokens moved ``lag`` later, zeros in front."""
    if lag >= x_BNP.shape[1]:
        return torch.zeros_like(x_BNP)
    return torch.cat([torch.zeros_like(x_BNP[:, :lag]), x_BNP[:, :-lag]], dim=1)
