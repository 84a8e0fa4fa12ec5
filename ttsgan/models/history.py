"""Input features of the temporal prior: the previous day and week, exponential averages of all earlier days, quantiles.

`history_of` computes them for all tokens of known series at once; `Memory` token by token while a series is sampled.

Attention reaches back some weeks. Longer history enters through `traces`, exponential averages over weeks and seasons.
The base load enters through `usual_values`, rolling quantiles of each slot: it moves slowly, while the next value is
either near it or far above.

Axis letters: T input features, B series, N tokens (days), P values of a token, W tokens of a window, Q ranks (in
`traces`: averages), C columns, R rows of a block.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ttsgan.models.patching import tokens_at

WEEKLY = 0.2
"""Weight of the newest token of the same weekday in the exponential average of that weekday."""
HALF_LIVES = 1, 4, 16
"""Half-lives of the other exponential averages, in weeks; each gives a pair: of residuals and of absolute residuals."""
MEAN_SIZE = 0.7
"""Approximate mean absolute residual; subtracted from absolute residuals before they are averaged."""
USUAL = 0.15, 0.5, 0.85
"""Levels of the rolling quantiles of each slot (0 to 1)."""
USUAL_WEEKS = 4
"""Window of the rolling quantiles, in weeks."""
BLOCK = 56
"""Tokens whose exponential averages are computed at once."""
NUM_HISTORY = 5 + 2 * len(HALF_LIVES) + len(USUAL)
"""Number of input features of each value of a day: the previous day as residual and as score, the residual of a week
before, the regular part, the `traces`, and the `usual_values` minus the regular part."""
REGULAR = 3
"""Index of the regular part among the input features."""


def history_of(residual_BNP: Tensor, regular_BNP: Tensor, week: int, at_BN: Tensor | None = None) -> Tensor:
    """Return the input features of tokens of series (T, B, n, P): `NUM_HISTORY` features in a fixed order.

    Features without past tokens, such as the week before in the first week, are 0. For rolling quantiles this holds
    before the regular part is subtracted.

    Parameters
    ----------
    residual_BNP, regular_BNP : Tensor (B, N, P)
        Residual and regular part; their sum is the score over the spread of its slot.
    week : int
        Tokens in a week.
    at_BN : Tensor (B, n), int64, optional
        Consecutive tokens to return features for; by default all.
    """
    if at_BN is None:
        at_BN = torch.arange(residual_BNP.shape[1], device=residual_BNP.device)[None]
    regular = tokens_at(regular_BNP, at_BN)
    before = _at(residual_BNP, at_BN - 1)
    scores_before = before + _at(regular_BNP, at_BN - 1)
    known = before, scores_before, _at(residual_BNP, at_BN - week), regular, *traces(residual_BNP, week, at_BN)
    return _with_usual(known, usual_values(residual_BNP, regular_BNP, week, at_BN))


def _with_usual(known: Sequence[Tensor], usual: Sequence[Tensor]) -> Tensor:
    """Stack all features in their order: the ``known`` ones, then the quantiles minus the regular part."""
    return torch.stack([*known, *(value - known[REGULAR] for value in usual)])


def traces(residual_BNP: Tensor, week: int, at_BN: Tensor) -> tuple[Tensor, ...]:
    """Return exponential averages of all tokens before each requested one, each (B, n, P); they start at 0.

    First the average of residuals of the same weekday; then, for each of `HALF_LIVES`, the average of all residuals and
    that of their absolute values minus `MEAN_SIZE`.
    """
    batch, points = residual_BNP.shape[::2]
    days_BnP = tokens_at(residual_BNP, at_BN)
    count, size_BNP = days_BnP.shape[1], residual_BNP.abs() - MEAN_SIZE
    # Averages at the first requested token, for each weekday and each half-life.
    lag_BN = at_BN[:, :1] - torch.arange(residual_BNP.shape[1], device=at_BN.device)
    day_W1 = torch.arange(week, device=at_BN.device)[:, None]
    same_BWN = ((lag_BN % week)[:, None] == -day_W1 % week) & (lag_BN > 0)[:, None]
    weekly_BWN = _weight((lag_BN[:, None] + day_W1) / week, WEEKLY).where(same_BWN, 0.0)
    weight_BQN = torch.stack([_weight(lag_BN, rate) for rate in _rates(week)], dim=1)
    left_BQP = torch.cat([weekly_BWN, weight_BQN], dim=1).to(residual_BNP) @ residual_BNP
    left_size_BQP = weight_BQN.to(residual_BNP) @ size_BNP
    # Contributions of the requested tokens themselves.
    days_NC = days_BnP.movedim(1, 0).flatten(1)
    weeks_NC = F.pad(days_NC, (0, 0, 0, -count % week)).unflatten(0, (-1, week)).flatten(1)
    of_weekdays_NC = _decaying(weeks_NC, WEEKLY, left_BQP[:, :week].movedim(1, 0).reshape(1, -1))
    out = [of_weekdays_NC.unflatten(1, (week, -1)).flatten(0, 1)[:count]]
    both_NC = torch.cat([days_NC, days_NC.abs() - MEAN_SIZE], dim=1)
    for rate, *left in zip(_rates(week), left_BQP[:, week:].unbind(1), left_size_BQP.unbind(1), strict=True):
        out += _decaying(both_NC, rate, torch.stack(left).view(1, -1)).chunk(2, dim=1)
    return tuple(trace_NC.view(count, batch, points).movedim(0, 1) for trace_NC in out)


def _decaying(x_NC: Tensor, rate: float, left_1C: Tensor) -> Tensor:
    """Return the exponential average (N, C) of the rows before each row.

    The newest row has weight ``rate``; weights fall by the factor 1 - ``rate`` per row. ``left_1C`` is the average
    before the first row. Rows are processed in blocks, each starting from the average after the one before: few
    operations, and no matrix of all rows by all rows.
    """
    out = []
    for block_RC in x_NC.split(BLOCK):
        weights_RR, fading_R1 = _weights(len(block_RC), rate, x_NC.dtype, x_NC.device)
        out.append(torch.addmm(fading_R1 * left_1C, weights_RR, block_RC))
        left_1C = torch.lerp(out[-1][-1:], block_RC[-1:], rate)
    return torch.cat(out)


@lru_cache(maxsize=32)
def _weights(count: int, rate: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the weight of every row in the average at every other row, and that of the average before the first row.

    The tensors are cached: do not modify them.
    """
    at_R1 = torch.arange(count, dtype=dtype, device=device)[:, None]
    return _weight(at_R1 - at_R1.T, rate), (1 - rate) ** at_R1


def _weight(lag: Tensor, rate: float) -> Tensor:
    """Return the weight of the row ``lag`` rows earlier in an exponential average; 0 if ``lag`` is not positive."""
    return (rate * (1 - rate) ** (lag - 1)).where(lag > 0, 0.0)


def usual_values(residual_BNP: Tensor, regular_BNP: Tensor, week: int, at_BN: Tensor) -> tuple[Tensor, ...]:
    """Return, for each level of `USUAL`, the rolling quantile (B, n, P) of scores over the weeks before a token.

    It is 0 for the first token, which has none before it. Tokens ``at_BN`` are consecutive.
    """
    window = USUAL_WEEKS * week
    reach_BM = at_BN[:, :1] - window + torch.arange(at_BN.shape[1] + window - 1, device=at_BN.device)
    before_BMP = _at(residual_BNP, reach_BM, torch.inf) + _at(regular_BNP, reach_BM)
    # The values of a slot are adjacent in memory, so that a window is read contiguously.
    rising_BPNW = _sorted(before_BMP.mT.contiguous().unfold(2, window, 1))
    return _of_ranks(rising_BPNW.movedim(2, 1), at_BN.clamp(max=window))


class Memory:
    """State that computes the features of `history_of` token by token.

    Parameters
    ----------
    nothing_BP : Tensor (B, P)
        Zeros, on the device of the series.
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

    def history(self, regular_BP: Tensor) -> Tensor:
        """Return the input features of the next token (T, B, P)."""
        day, known = self.count % self.week, min(self.count, len(self.lately))
        left = self.weekdays[day], *(one for pair in zip(self.means, self.sizes, strict=True) for one in pair)
        usual = _of_ranks(self.rising_BPW[:, None], torch.tensor([[known]], device=regular_BP.device))
        known = self.before, self.scores_before, self.last_week[day], regular_BP, *left
        return _with_usual(known, [value[:, 0] for value in usual])

    def leave(self, residual_BP: Tensor, regular_BP: Tensor) -> None:
        """Update the state with the next token."""
        day, scores_BP = self.count % self.week, residual_BP + regular_BP
        self.before, self.scores_before, self.last_week[day] = residual_BP, scores_BP, residual_BP
        self.weekdays[day] = torch.lerp(self.weekdays[day], residual_BP, WEEKLY)
        for i, rate in enumerate(_rates(self.week)):
            self.means[i] = torch.lerp(self.means[i], residual_BP, rate)
            self.sizes[i] = torch.lerp(self.sizes[i], residual_BP.abs() - MEAN_SIZE, rate)
        # Remove the token that leaves the window from the sorted values and insert the new one, without sorting.
        place, rising = self.count % len(self.lately), self.rising_BPW
        others = rising[..., 1:].where(rising[..., :-1] >= self.lately[place][..., None], rising[..., :-1])
        low, high = F.pad(others, (1, 0), value=-torch.inf), F.pad(others, (0, 1), value=torch.inf)
        self.rising_BPW, self.lately[place] = scores_BP[..., None].clamp(low, high), scores_BP
        self.count += 1


def _rates(week: int) -> list[float]:
    """Return the weight of the newest token in the exponential average of each half-life."""
    return [1 - 0.5 ** (1 / (weeks * week)) for weeks in HALF_LIVES]


def _sorted(x: Tensor) -> Tensor:
    """Return the values in rising order along the last axis; not differentiable."""
    if x.device.type == "cpu":  # numpy takes a tenth of the time on a CPU
        return torch.from_numpy(np.sort(x.detach().numpy()))
    return x.sort(dim=-1).values


def _of_ranks(rising_BNPW: Tensor, count_BN: Tensor) -> tuple[Tensor, ...]:
    """Return the quantiles (B, N, P) at the levels of `USUAL` of the first ``count_BN`` values of each sorted window.

    They are 0 where the count is 0. Counts of shape (1, N) hold for all series.
    """
    shares = torch.tensor(USUAL, device=count_BN.device)
    rank_BNQ = ((count_BN[..., None] - 1).clamp(min=0) * shares).round().long()
    usual_BNPQ = rising_BNPW.gather(-1, rank_BNQ[:, :, None].expand(*rising_BNPW.shape[:3], -1))
    return usual_BNPQ.where(count_BN[..., None, None] > 0, 0.0).unbind(-1)


def _at(x_BNP: Tensor, at_BN: Tensor, beyond: float = 0.0) -> Tensor:
    """Return the tokens at indices ``at_BN``, and ``beyond`` for negative indices."""
    return tokens_at(x_BNP, at_BN.clamp(min=0)).where(at_BN[..., None] >= 0, beyond)
