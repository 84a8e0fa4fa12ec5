"""The temporal prior: a causal transformer that writes a year day by day, trained by likelihood.

Given the days before, the calendar, the household numbers and the condition, the values of the next day are drawn one
after the other (`ttsgan.models.values`).

The prior writes residuals: what is left of scores without what the household regularly does. Some days are nothing of
the kind, such as those of an empty home. So each component takes away a share of its own of what is regular, and the
network is told what that is, beside what it is told of the days before (`ttsgan.models.told`).

Axis letters: B series, N tokens (days), P values of a token, T what is told, F calendar features, S static inputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttsgan.config import DaysConfig
from ttsgan.models.layers import Block, KeyValueCache, causal_mask
from ttsgan.models.patching import tokens_at
from ttsgan.models.told import REGULAR, TOLD, Memory, told
from ttsgan.models.values import DayLaw, ValueLaws

IRREGULAR = -0.1, 0.6
"""Shares of what is regular that the first and the last component take away at the start of training."""


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
        at_BN: Tensor | None = None,
        slots_S: Tensor | None = None,
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
        at_BN : Tensor (B, n), int64, optional
            Tokens in a row whose law (B, n, P, K) is asked for. They are told of all before them; attention reaches
            back to the first of them at most.
        slots_S : Tensor (S,), int64, optional
            Slots of a token whose law (B, N, S, K) is asked for.
        """
        with torch.autocast(residual_BNP.device.type, enabled=False):
            told_TBNP = told(residual_BNP, regular_BNP, self.week, at_BN)
        if at_BN is not None:
            whole = residual_BNP, calendar_BNF
            residual_BNP, calendar_BNF = (tokens_at(of_all, at_BN) for of_all in whole)
        x_BND = self.embed(torch.cat([*told_TBNP, calendar_BNF], dim=-1)) + self.static(static_BS)[:, None]
        mask = causal_mask(x_BND.shape[1], self.config.memory, x_BND.device)
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        hidden_BND = F.dropout(self.norm(x_BND), last_dropout, self.training)
        return self.values(hidden_BND, told_TBNP, residual_BNP, slots_S)

    @torch.no_grad()
    def sample(
        self, regular_BNP: Tensor, calendar_BNF: Tensor, static_BS: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw residual tokens (B, N, P), one after the other, from ``generator``, which lives on the CPU."""
        (batch, tokens, points), device = regular_BNP.shape, regular_BNP.device
        static = self.static(static_BS)[:, None]
        out = torch.zeros(batch, tokens, points, device=device)
        caches = [KeyValueCache(min(self.config.memory, tokens)) for _ in self.blocks]
        memory = Memory(torch.zeros(batch, points, device=device), self.week)
        for n in range(tokens):
            told_TBP = memory.told(regular_BNP[:, n])
            x_B1D = self.embed(torch.cat([*told_TBP, calendar_BNF[:, n]], dim=-1))[:, None] + static
            for block, cache in zip(self.blocks, caches, strict=True):
                x_B1D = block.step(x_B1D, n, cache)
            out[:, n] = self.values.sample(self.norm(x_B1D)[:, 0], told_TBP, generator)
            memory.leave(out[:, n], regular_BNP[:, n])
        return out
