"""What the temporal prior is told of the days before one: the last of them, traces of them all, and what is usual.

`told` says it of all tokens of known series at once, `Memory` of one token after the other while a series is drawn.

Attention reaches back some weeks. What a home has done for longer is in `traces`, means over weeks and seasons, and
its base load, which moves slowly while the next value is near it or far above, in the `usual_values` of each slot.

Axis letters: T what is told, B series, N tokens (days), P values of a token, W tokens of a window, Q ranks, C columns,
R rows of a block.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

WEEKLY = 0.2
"""Weight of the last token of the same weekday in its trace."""
HALF_LIVES = 1, 4, 16
"""Weeks after which a token weighs half as much, for each pair of the other traces."""
MEAN_SIZE = 0.7
"""Size of a residual, about: what is taken from it before it leaves a trace."""
USUAL = 0.15, 0.5, 0.85
"""Shares of the values of a slot in the weeks before that lie below its usual ones."""
USUAL_WEEKS = 4
"""Weeks that usual values are taken of."""
BLOCK = 56
"""Tokens whose traces are made at once."""
TOLD = 5 + 2 * len(HALF_LIVES) + len(USUAL)
"""What is told of each value of a day: the day before as residual and as score, the week before, what is regular, the
`traces`, and the `usual_values`, less what is regular."""
REGULAR = 3
"""Which of these is what is regular."""


def told(residual_BNP: Tensor, regular_BNP: Tensor, week: int, at_BN: Tensor | None = None) -> Tensor:
    """Return what is told of tokens of series (T, B, N, P): `TOLD` things in a fixed order.

    What no token is there for yet, such as the week before in the first week, is 0 (usual values before what is regular
    is taken from them).

    Parameters
    ----------
    residual_BNP, regular_BNP : Tensor (B, N, P)
        The sum are scores over the spread of their slot.
    week : int
        Tokens in a week.
    at_BN : Tensor (B, n), int64, optional
        Tokens in a row that are asked for; all without.
    """
    scores_BNP = residual_BNP + regular_BNP
    before = _shift(residual_BNP, 1), _shift(scores_BNP, 1), _shift(residual_BNP, week)
    known = *before, regular_BNP, *traces(residual_BNP, week)
    if at_BN is not None:
        known = tuple(of_all.take_along_dim(at_BN[..., None], 1) for of_all in known)
    return _with_usual(known, usual_values(scores_BNP, week, at_BN))


def _with_usual(known: Sequence[Tensor], usual: Sequence[Tensor]) -> Tensor:
    """Return all that is told: what else is known, in the order of `TOLD`, and usual values, less what is regular."""
    return torch.stack([*known, *(value - known[REGULAR] for value in usual)])


def traces(residual_BNP: Tensor, week: int) -> tuple[Tensor, ...]:
    """Return what all tokens before each have left, each (B, N, P): weighted means, 0 of those before the first.

    One of the tokens of the same weekday; then of all tokens, and of their size, for each of `HALF_LIVES`.
    """
    (batch, count, points), beyond = residual_BNP.shape, -residual_BNP.shape[1] % week
    days_NC = residual_BNP.movedim(1, 0).flatten(1)
    of_weekdays_NC = _decaying(F.pad(days_NC, (0, 0, 0, beyond)).unflatten(0, (-1, week)).flatten(1), WEEKLY)
    out = [of_weekdays_NC.unflatten(1, (week, -1)).flatten(0, 1)[:count]]
    both_NC = torch.cat([days_NC, days_NC.abs() - MEAN_SIZE], dim=1)
    for rate in _rates(week):
        out += _decaying(both_NC, rate).chunk(2, dim=1)
    return tuple(trace_NC.view(count, batch, points).movedim(0, 1) for trace_NC in out)


def _decaying(x_NC: Tensor, rate: float) -> Tensor:
    """Return the weighted mean (N, C) of the rows before each: the last weighs ``rate``, each before it less by that.

    By blocks of rows, each from what the one before leaves: few operations, and no matrix of all rows by all.
    """
    out, left_1C = [], torch.zeros_like(x_NC[:1])
    for block_RC in x_NC.split(BLOCK):
        weights_RR, fading_R1 = _weights(len(block_RC), rate, x_NC.dtype, x_NC.device)
        out.append(torch.addmm(fading_R1 * left_1C, weights_RR, block_RC))
        left_1C = torch.lerp(out[-1][-1:], block_RC[-1:], rate)
    return torch.cat(out)


@lru_cache(maxsize=32)
def _weights(count: int, rate: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the weight of every row in the mean of every other, and what is left of the mean at the first row.

    Not to be written to.
    """
    at_R1 = torch.arange(count, dtype=dtype, device=device)[:, None]
    lag_RR = at_R1 - at_R1.T
    return torch.where(lag_RR > 0, rate * (1 - rate) ** (lag_RR - 1), 0.0), (1 - rate) ** at_R1


def usual_values(scores_BNP: Tensor, week: int, at_BN: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return, for each share of `USUAL`, the value of that rank in the tokens of the weeks before each (B, N, P).

    0 for the first token, which has none before it. Of the tokens ``at_BN`` (B, n) alone, in a row, where these are
    given.
    """
    window = USUAL_WEEKS * week
    before_BNP = F.pad(scores_BNP[:, :-1], (0, 0, window, 0), value=torch.inf)
    if at_BN is None:
        at_BN = torch.arange(scores_BNP.shape[1], device=scores_BNP.device)[None]
    reach_N = torch.arange(at_BN.shape[1] + window - 1, device=at_BN.device)
    before_BNP = before_BNP.take_along_dim((at_BN[:, :1] + reach_N)[..., None], 1)
    return _of_ranks(_sorted(before_BNP.unfold(1, window, 1)), at_BN.clamp(max=window))


class Memory:
    """`told`, token by token.

    Parameters
    ----------
    nothing_BP : Tensor (B, P)
        Zeros, where the series are.
    week : int
        Tokens in a week.
    """

    def __init__(self, nothing_BP: Tensor, week: int) -> None:
        self.count, self.week = 0, week
        self.before, self.scores_before = nothing_BP, nothing_BP
        self.last_week, self.weekdays = [nothing_BP] * week, [nothing_BP] * week
        self.means, self.sizes = [nothing_BP] * len(HALF_LIVES), [nothing_BP] * len(HALF_LIVES)
        self.lately = [torch.full_like(nothing_BP, torch.inf)] * (USUAL_WEEKS * week)
        self.rising_BPW = torch.stack(self.lately, dim=-1)

    def told(self, regular_BP: Tensor) -> Tensor:
        """Return what is told of the next token (T, B, P)."""
        day, known = self.count % self.week, min(self.count, len(self.lately))
        left = self.weekdays[day], *(one for pair in zip(self.means, self.sizes, strict=True) for one in pair)
        usual = _of_ranks(self.rising_BPW[:, None], torch.tensor([[known]], device=regular_BP.device))
        known = self.before, self.scores_before, self.last_week[day], regular_BP, *left
        return _with_usual(known, [value[:, 0] for value in usual])

    def leave(self, residual_BP: Tensor, regular_BP: Tensor) -> None:
        """Take up the next token."""
        day, scores_BP = self.count % self.week, residual_BP + regular_BP
        self.before, self.scores_before, self.last_week[day] = residual_BP, scores_BP, residual_BP
        self.weekdays[day] = torch.lerp(self.weekdays[day], residual_BP, WEEKLY)
        for i, rate in enumerate(_rates(self.week)):
            self.means[i] = torch.lerp(self.means[i], residual_BP, rate)
            self.sizes[i] = torch.lerp(self.sizes[i], residual_BP.abs() - MEAN_SIZE, rate)
        # What falls out of the window is taken from the sorted values, and what comes put among them: no sorting.
        place, rising = self.count % len(self.lately), self.rising_BPW
        others = rising[..., 1:].where(rising[..., :-1] >= self.lately[place][..., None], rising[..., :-1])
        low, high = F.pad(others, (1, 0), value=-torch.inf), F.pad(others, (0, 1), value=torch.inf)
        self.rising_BPW, self.lately[place] = scores_BP[..., None].clamp(low, high), scores_BP
        self.count += 1


def _rates(week: int) -> list[float]:
    """Return the weight of the last token in the traces of all tokens, for each half-life."""
    return [1 - 0.5 ** (1 / (weeks * week)) for weeks in HALF_LIVES]


def _sorted(x: Tensor) -> Tensor:
    """Return the values in rising order along the last axis; not to be differentiated."""
    if x.device.type == "cpu":  # there numpy takes a tenth of the time
        return torch.from_numpy(np.sort(x.detach().numpy()))
    return x.sort(dim=-1).values


def _of_ranks(rising_BNPW: Tensor, count_BN: Tensor) -> tuple[Tensor, ...]:
    """Return the values (B, N, P) at the shares of `USUAL` among the first ``count_BN`` of each sorted window.

    Counts (1, N) are those of all series.
    """
    shares = torch.tensor(USUAL, device=count_BN.device)
    rank_BNQ = ((count_BN[..., None] - 1).clamp(min=0) * shares).round().long()
    usual_BNPQ = rising_BNPW.gather(-1, rank_BNQ[:, :, None].expand(*rising_BNPW.shape[:3], -1))
    return usual_BNPQ.where(count_BN[..., None, None] > 0, 0.0).unbind(-1)


def _shift(x_BNP: Tensor, lag: int) -> Tensor:
    """Return the tokens moved ``lag`` later, zeros in front."""
    if lag >= x_BNP.shape[1]:
        return torch.zeros_like(x_BNP)
    return torch.cat([torch.zeros_like(x_BNP[:, :lag]), x_BNP[:, :-lag]], dim=1)
