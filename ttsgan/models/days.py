"""The temporal prior: an autoregressive, causal transformer over the days of a year, trained by maximum likelihood.

Given all earlier days, the calendar, the household numbers and the condition, it draws the values of the next day one
after the other (`ttsgan.models.values`).

The prior models residuals: scores minus their regular part, which is what the household does regularly. Some days, such
as those of an empty home, do not follow it. So each mixture component subtracts its own learned share of the regular
part, and the regular part is one of the input features (`ttsgan.models.history`).

Axis letters: B series, N tokens (days), P values of a token, T input features, F calendar features, S static inputs (in
`slots_S`: slots).
"""

import torch
from torch import Tensor, nn

from ttsgan.config import DaysConfig
from ttsgan.models.history import NUM_HISTORY, REGULAR, Memory, history_of
from ttsgan.models.layers import Block, KeyValueCache, causal_mask, dropout
from ttsgan.models.patching import tokens_at
from ttsgan.models.values import DayDistribution, ValueHead

IRREGULAR = -0.1, 0.6
"""Shares of the regular part that the first and the last component subtract at the start of training."""


class DaysPrior(nn.Module):
    """Distribution of a series of residual days.

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
        Tokens in a week: the token one week back is an input, like the previous one.
    """

    def __init__(self, config: DaysConfig, points: int, num_features: int, num_static: int, week: int) -> None:
        super().__init__()
        self.config, self.week = config, week
        self.embed = nn.Linear(NUM_HISTORY * points + num_features, config.width)
        self.static = nn.Sequential(
            nn.Linear(num_static, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        skips = torch.zeros(NUM_HISTORY, config.mixtures)
        skips[REGULAR] = -torch.linspace(*IRREGULAR, config.mixtures)
        self.values = ValueHead(config, points, skips)

    def forward(
        self,
        residual_BNP: Tensor,
        regular_BNP: Tensor,
        calendar_BNF: Tensor,
        static_BS: Tensor,
        last_dropout: float = 0.0,
        at_BN: Tensor | None = None,
        slots_S: Tensor | None = None,
    ) -> DayDistribution:
        """Return the distribution of every value given all earlier tokens and the earlier values of its own token.

        Parameters
        ----------
        residual_BNP, regular_BNP : Tensor (B, N, P)
            Residual and regular part, in the same unit: their sum is the score over the spread of its slot.
        calendar_BNF : Tensor (B, N, F)
        static_BS : Tensor (B, S)
        last_dropout : float
            Dropout probability of a day's hidden state, before the value head; in training only.
        at_BN : Tensor (B, n), int64, optional
            Consecutive tokens to return distributions (B, n, P, K) for. Their input features cover all earlier tokens;
            attention reaches back to the first of them at most.
        slots_S : Tensor (S,), int64, optional
            Slots of a token to return distributions (B, N, S, K) for.
        """
        with torch.autocast(residual_BNP.device.type, enabled=False):
            history_TBNP = history_of(residual_BNP, regular_BNP, self.week, at_BN)
        if at_BN is not None:
            whole = residual_BNP, calendar_BNF
            residual_BNP, calendar_BNF = (tokens_at(of_all, at_BN) for of_all in whole)
        x_BND = self.embed(torch.cat([*history_TBNP, calendar_BNF], dim=-1)) + self.static(static_BS)[:, None]
        mask = causal_mask(x_BND.shape[1], self.config.memory, x_BND.device)
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        hidden_BND = dropout(self.norm(x_BND), last_dropout, self.training)
        return self.values(hidden_BND, history_TBNP, residual_BNP, slots_S)

    @torch.no_grad()
    def sample(
        self, regular_BNP: Tensor, calendar_BNF: Tensor, static_BS: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw residual tokens (B, N, P) autoregressively, with a CPU ``generator``."""
        (batch, tokens, points), device = regular_BNP.shape, regular_BNP.device
        static = self.static(static_BS)[:, None]
        out = torch.zeros(batch, tokens, points, device=device)
        caches = [KeyValueCache(min(self.config.memory, tokens)) for _ in self.blocks]
        memory = Memory(torch.zeros(batch, points, device=device), self.week)
        for n in range(tokens):
            history_TBP = memory.history(regular_BNP[:, n])
            x_B1D = self.embed(torch.cat([*history_TBP, calendar_BNF[:, n]], dim=-1))[:, None] + static
            for block, cache in zip(self.blocks, caches, strict=True):
                x_B1D = block.step(x_B1D, n, cache)
            out[:, n] = self.values.sample(self.norm(x_B1D)[:, 0], history_TBP, generator)
            memory.leave(out[:, n], regular_BNP[:, n])
        return out
