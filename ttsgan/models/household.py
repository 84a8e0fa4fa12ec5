"""The household level: the law of a household's numbers given its condition.

Each number keeps the law it has among training households; their dependence on the condition and on each other is
Gaussian in normal scores: a ridge regression on the condition and a shrunk covariance of what is left (Ledoit and Wolf
2004). It has a closed form, so that a hundred households suffice and all workers find the same answer.

Axis letters: B series, H household numbers, Z latent dimensions of a condition, M training series.
"""

import math

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from ttsgan.config import HouseholdConfig
from ttsgan.errors import NotFittedError

MAX_KEPT = 512
"""Points kept of the law of each number; more training series are thinned to these quantiles."""
TAIL = 0.1
"""Share of the kept points from which the slope beyond the largest and the smallest is taken."""


class HouseholdModel(nn.Module):
    """Draws household numbers given conditions; fitted by `fit`, not by gradient.

    Parameters
    ----------
    config : HouseholdConfig
    num_numbers : int
        Household numbers H.
    latent_dim : int
        Dimensions Z of a condition.
    """

    def __init__(self, config: HouseholdConfig, num_numbers: int, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("law", torch.zeros(MAX_KEPT, num_numbers, dtype=torch.float64))
        self.register_buffer("slope", torch.zeros(latent_dim + 1, num_numbers, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(num_numbers, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def _grid(self) -> Tensor:
        return _scores_of_ranks(MAX_KEPT)

    def fit(self, numbers_MH: Tensor, cond_MZ: Tensor) -> "HouseholdModel":
        """Fit the law of ``numbers_MH`` given ``cond_MZ``, the conditions of the groups that the series belong to."""
        numbers, cond = numbers_MH.double().cpu(), cond_MZ.double().cpu()
        count = len(numbers)
        ordered, order = numbers.sort(dim=0)
        at = torch.linspace(0, count - 1, MAX_KEPT, dtype=torch.float64)
        self.law.copy_(_interpolate(at[:, None].expand(-1, numbers.shape[1]), ordered))
        ranks = order.argsort(dim=0)
        scores = _scores_of_ranks(count)[ranks]
        # Equal numbers (a zero share of nothing, say) share the mean of their scores, or they would be noise.
        for h in range(numbers.shape[1]):
            _, tied, size = numbers[:, h].unique(return_inverse=True, return_counts=True)
            total = torch.zeros(len(size), dtype=torch.float64).index_add_(0, tied, scores[:, h])
            scores[:, h] = (total / size)[tied]
        design = torch.cat([torch.ones(count, 1, dtype=torch.float64), cond], dim=1)
        ridge = self.config.ridge * torch.eye(design.shape[1], dtype=torch.float64)
        ridge[0, 0] = 0
        self.slope.copy_(torch.linalg.solve(design.T @ design + ridge, design.T @ scores))
        rest = scores - design @ self.slope
        covariance = torch.from_numpy(ledoit_wolf(rest.numpy())[0])
        tiny = 1e-9 * torch.eye(len(covariance), dtype=torch.float64)
        self.factor.copy_(torch.linalg.cholesky(covariance + tiny))
        self.fitted.fill_(True)
        return self

    def sample(self, cond_BZ: Tensor, generator: torch.Generator) -> Tensor:
        """Draw household numbers (B, H), float32, for conditions (B, Z).

        ``generator`` lives on the CPU.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        if not self.fitted:
            raise NotFittedError("the household model has not been fitted; train the run first")
        normal = torch.randn(len(cond_BZ), self.law.shape[1], generator=generator, dtype=torch.float64)
        normal = normal.to(cond_BZ.device)
        mean = self.slope[0] + cond_BZ.double() @ self.slope[1:]
        return self._to_numbers(mean + normal @ self.factor.T).float()

    def _to_numbers(self, scores_BH: Tensor) -> Tensor:
        """Map normal scores through each number's law; beyond its ends follow the slope of its outer tenth."""
        grid = self._grid.to(scores_BH.device)
        tail = int(TAIL * MAX_KEPT)
        position = torch.searchsorted(grid, scores_BH.contiguous()).clamp(1, MAX_KEPT - 1)
        low, high = grid[position - 1], grid[position]
        share = (scores_BH.clamp(grid[0], grid[-1]) - low) / (high - low)
        numbers = self.law.gather(0, position - 1) * (1 - share) + self.law.gather(0, position) * share
        for end, inner, sign in ((-1, -tail, 1.0), (0, tail - 1, -1.0)):
            slope = (self.law[end] - self.law[inner]) / (grid[end] - grid[inner])
            numbers = numbers + slope * sign * (sign * (scores_BH - grid[end])).clamp(min=0)
        return numbers


def _scores_of_ranks(count: int) -> Tensor:
    """Return the normal scores of ranks 0 to ``count`` - 1."""
    probability = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return math.sqrt(2.0) * torch.erfinv(2 * probability - 1)


def _interpolate(at_KH: Tensor, ordered_MH: Tensor) -> Tensor:
    low = at_KH.floor().long()
    high = (low + 1).clamp(max=len(ordered_MH) - 1)
    share = at_KH - low
    return ordered_MH.gather(0, low) * (1 - share) + ordered_MH.gather(0, high) * share
