"""The household level: the law of a household's numbers given its condition.

Each number keeps the law it has among training households. Their dependence on the condition and on each other is a
mixture of Gaussians over normal scores and condition together: as many as there are `MEMBERS` households for, up to
`HouseholdConfig.mixtures`. The density of households kept apart is no judge of that number: it asks for one Gaussian
where the series of eight are closer to real ones. It is fitted by expectation and maximisation, not by gradient. Only
the mixture's dependence is used: a drawn score is ranked by its own law of that number, and the rank looked up in the
law of training households, so that no number comes out too wide or too narrow. Conditions choose among the Gaussians
so that over all training households each is chosen as often as its weight says: they move households, not their law.

Households drawn together fill their law evenly. A hundred independent draws have as much luck of their own as the
hundred training households, which alone sets them further from other real households than those are.

Axis letters: B series, H household numbers, Z latent dimensions of a condition, D = H + Z, K components, M rows,
G points of a grid.
"""

import math

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from ttsgan.config import HouseholdConfig
from ttsgan.errors import NotFittedError
from ttsgan.extremes import bounds

MAX_KEPT = 2048
"""Points kept of the law of each number; more training series are thinned to these quantiles."""
MAX_FITTED = 20_000
"""Households that the dependence of the numbers is fitted on; of more, a random part."""
TAIL = 0.1
"""Share of the kept points from which the slope beyond the largest and the smallest is taken."""
UNUSED = -1e30
"""Log weight of a component that is not in use."""
SHRINKAGE = 0.01
"""Share that correlations lose. Ledoit and Wolf's share, a third for a hundred households, costs more than it saves;
.05 costs load factors where level and peak are nearly one, as under weather."""
MEMBERS = 160
"""Households for each component of the mixture, on average: with half as many, those of training can be told by it."""
MIN_KIND = 15
"""Households that a kind of them must have for components of its own."""
PRIOR = 0.5
"""Weight of the pooled covariance in each component: households for each dimension."""
CONDITION_NOISE = 0.05
"""Variance added to conditions: new series get means of other groups than those that the law was fitted on."""
NO_WEIGHT = 1e-12
"""Share of a row in a component below which it is left out: in so many dimensions most rows belong to one alone."""
ITERATIONS = 5
"""Rounds of expectation and maximisation; 1 to 50 give series equally close to real ones."""
BALANCINGS = 100
"""Rounds of balancing what conditions choose; weights are met to a few thousandths by then."""
UNCORRELATED = 0.5
"""Directions of the dependence drawn without correlation by luck, of the widest on, as a share of the draws."""
GRID, REACH = 257, 6.0
"""Points at which an expected law is tabulated, and how many standard deviations beyond its outermost centres."""


class HouseholdModel(nn.Module):
    """Draws household numbers given conditions; fitted by `fit`.

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
        self.config, self.num_numbers = config, num_numbers
        k, d = config.mixtures, num_numbers + latent_dim
        self.register_buffer("law", torch.zeros(MAX_KEPT, num_numbers, dtype=torch.float64))
        self.register_buffer("log_weight", torch.full((k,), UNUSED, dtype=torch.float64))
        self.register_buffer("log_prior", torch.full((k,), UNUSED, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(k, d, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(d, dtype=torch.float64).repeat(k, 1, 1))

    def fit(
        self, numbers_MH: Tensor, cond_GMZ: Tensor, owners_M: Tensor, seed: int, kinds_M: Tensor | None = None
    ) -> "HouseholdModel":
        """Fit the law of household numbers given conditions.

        Parameters
        ----------
        numbers_MH : Tensor (M, H)
        cond_GMZ : Tensor (G, M, Z)
            Condition of each series under G groupings, standardised.
        owners_M : Tensor (M,), int
            Household of each series: a building of many meters is one.
        seed : int
            Of the first guess of the components.
        kinds_M : Tensor (M,), int, optional
            Kind of each series: no component starts with two kinds, where each has `MIN_KIND` households.
        """
        numbers = numbers_MH.double().cpu()
        low, high = bounds(numbers.numpy(), owners_M.cpu().numpy())
        law = np.quantile(numbers.numpy(), np.linspace(0, 1, MAX_KEPT), axis=0).clip(low, high)
        self.law.copy_(torch.from_numpy(law))
        scores = _normal_scores(numbers)
        few = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))[:MAX_FITTED].sort()[0]
        rows = torch.cat([torch.cat([scores[few], cond[few].double().cpu()], dim=1) for cond in cond_GMZ])
        kinds_M = torch.zeros_like(owners_M) if kinds_M is None else kinds_M
        owners, kinds = (of_series[few].cpu().repeat(len(cond_GMZ)) for of_series in (owners_M, kinds_M))
        first = _first_guess(rows, owners, kinds, self.config.mixtures, seed)
        k = first.shape[1]
        self.log_weight.fill_(UNUSED)
        self.log_weight[:k], self.mean[:k], self.covariance[:k] = _mixture(rows, first, len(cond_GMZ))
        self.covariance[:k].diagonal(dim1=1, dim2=2)[:, self.num_numbers :] += CONDITION_NOISE
        self.log_prior.fill_(UNUSED)
        cond = rows[:, self.num_numbers :].to(self.mean.device)
        self.log_prior[:k] = _balanced(self._log_density_of(cond), self.log_weight[:k])
        return self

    def _log_density_of(self, cond_BZ: Tensor) -> Tensor:
        """Return the log density (B, K) of conditions under each component."""
        k, h = self.components, self.num_numbers
        return _log_density(cond_BZ, self.mean[:k, h:], self.covariance[:k, h:, h:])

    @property
    def components(self) -> int:
        """Components in use."""
        return int((self.log_weight > UNUSED).sum())

    def sample(self, cond_BZ: Tensor, generator: torch.Generator) -> Tensor:
        """Draw household numbers (B, H), float32, for conditions (B, Z).

        The B households are drawn together: each number of theirs fills the law expected of them evenly, so that one
        depends on how many others there are and on their conditions. ``generator`` lives on the CPU.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        k, h = self.components, self.num_numbers
        if k == 0:
            raise NotFittedError("the household model has not been fitted; train the run first")
        cond = cond_BZ.double()
        mean, covariance = self.mean[:k], self.covariance[:k]
        choice = (self.log_prior[:k] + self._log_density_of(cond)).softmax(1)
        uniform = _even(len(cond), generator).to(cond.device)
        pick = (choice.cumsum(1) < uniform[:, None]).sum(1).clamp(max=k - 1)
        gain = torch.linalg.solve(covariance[:, h:, h:], covariance[:, h:, :h]).mT
        rest = covariance[:, :h, :h] - gain @ covariance[:, h:, :h]
        spread_BH = rest.diagonal(dim1=1, dim2=2).clamp(min=1e-9).sqrt()[pick]
        centre_BH = mean[pick, :h] + torch.einsum("bhz,bz->bh", gain[pick], cond - mean[pick, h:])
        normal = _uncorrelated_normal(len(cond), h, generator).to(cond.device)
        scores_BH = centre_BH + torch.einsum("bij,bj->bi", _widest_first(rest)[pick], normal)
        return self._to_numbers(_evenly(scores_BH, centre_BH, spread_BH)).float()

    def _to_numbers(self, scores_BH: Tensor) -> Tensor:
        """Map scores to the numbers of the same rank; beyond the ends follow the slope of the outer tenth."""
        k, h = self.components, self.num_numbers
        spread_KH = self.covariance[:k].diagonal(dim1=1, dim2=2)[:, :h].sqrt()
        below_KBH = torch.special.ndtr((scores_BH - self.mean[:k, None, :h]) / spread_KH[:, None])
        rank_BH = torch.einsum("k,kbh->bh", self.log_weight[:k].exp(), below_KBH).clamp(1e-9, 1 - 1e-9)
        scores_BH = torch.special.ndtri(rank_BH)
        grid = _scores_of_ranks(MAX_KEPT).to(scores_BH.device)
        tail = int(TAIL * MAX_KEPT)
        numbers = _interpolate(scores_BH, grid[:, None].expand(-1, h), self.law)
        for end, inner, sign in ((-1, -tail, 1.0), (0, tail - 1, -1.0)):
            slope = (self.law[end] - self.law[inner]) / (grid[end] - grid[inner])
            numbers = numbers + slope * sign * (sign * (scores_BH - grid[end])).clamp(min=0)
        return numbers


def _balanced(log_density_MK: Tensor, log_weight_K: Tensor) -> Tensor:
    """Return log prior weights (K,) by which M rows choose each component, on average, as often as its weight says."""
    log_prior = log_weight_K
    for _ in range(BALANCINGS):
        log_choice = (log_prior + log_density_MK).log_softmax(1)
        log_prior = log_prior + log_weight_K - (log_choice.logsumexp(0) - math.log(len(log_density_MK)))
    return log_prior


def _even(count: int, generator: torch.Generator) -> Tensor:
    """Return uniform numbers (count,) in random order, one in every ``count``-th of the unit interval."""
    order = torch.rand(count, generator=generator, dtype=torch.float64).argsort()
    return (order + torch.rand(count, generator=generator, dtype=torch.float64)) / count


def _uncorrelated_normal(count: int, dims: int, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers (count, dims), the first columns without mean or correlation by luck."""
    normal = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    free = min(dims, int(UNCORRELATED * count))
    if free:
        lead = normal[:, :free] - normal[:, :free].mean(0)
        factor = torch.linalg.cholesky(lead.T @ lead / count)
        normal[:, :free] = torch.linalg.solve_triangular(factor, lead.T, upper=False).T
    return normal


def _widest_first(covariance_KHH: Tensor) -> Tensor:
    """Return factors F of covariances F F', their columns the principal axes from the widest on."""
    variance, axes = torch.linalg.eigh(0.5 * (covariance_KHH + covariance_KHH.mT))
    # The sign of an axis is free, and not the same on every machine.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return (axes * largest.sign() * variance.clamp(min=0).sqrt()[:, None]).flip(-1)


def _evenly(scores_BH: Tensor, centre_BH: Tensor, spread_BH: Tensor) -> Tensor:
    """Move drawn scores so that each number fills the law expected of the B households, one in every B-th of it.

    Expected of them is the mean of their normal laws, given by centre and spread. A score keeps its rank among the
    others and its place within the B-th part, so that one household alone stays as it was drawn.
    """
    count = len(scores_BH)
    low, high = (centre_BH - REACH * spread_BH).amin(0), (centre_BH + REACH * spread_BH).amax(0)
    share_G = torch.linspace(0, 1, GRID, dtype=scores_BH.dtype, device=scores_BH.device)
    grid_GH = low + share_G[:, None] * (high - low)
    expected_GH = torch.stack([torch.special.ndtr((at - centre_BH) / spread_BH).mean(0) for at in grid_GH])
    place = count * _interpolate(scores_BH, grid_GH, expected_GH)
    rank = scores_BH.argsort(dim=0).argsort(dim=0)
    return _interpolate((rank + place - place.floor()) / count, expected_GH, grid_GH)


Mixture = tuple[Tensor, Tensor, Tensor]
"""Log weights (K,), means (K, D) and covariances (K, D, D)."""


def _first_guess(rows_MD: Tensor, owners_M: Tensor, kinds_M: Tensor, most: int, seed: int) -> Tensor:
    """Return the share (M, K), 0 or 1, that components have of rows at first: k-means within each kind."""
    households = [len(owners_M[kinds_M == kind].unique()) for kind in kinds_M.unique()]
    if min(households) < MIN_KIND or len(households) > most:
        kinds_M = torch.zeros_like(kinds_M)
    labels_M, k = torch.zeros(len(rows_MD), dtype=torch.long), 0
    kinds = kinds_M.unique()
    for later, kind in zip(range(len(kinds) - 1, -1, -1), kinds, strict=True):
        at = torch.nonzero(kinds_M == kind)[:, 0]
        count = min(most - k - later, max(1, len(owners_M[at].unique()) // MEMBERS))
        if count > 1:
            found = KMeans(count, n_init=3, random_state=seed % 2**32).fit_predict(rows_MD[at].numpy())
            labels_M[at] = torch.from_numpy(found).long()
        labels_M[at] += k
        k += count
    return torch.nn.functional.one_hot(labels_M, k).to(rows_MD.dtype)


def _mixture(rows_MD: Tensor, resp_MK: Tensor, repeats: int) -> Mixture:
    """Fit a mixture by expectation and maximisation, each covariance drawn towards the pooled one.

    ``resp_MK`` says what share rows have in components at first. ``repeats`` rows stand for one household, so that they
    weigh as one; the pooled covariance counts as `PRIOR` D households more in every component, and its correlations are
    `SHRINKAGE` smaller than those found.
    """
    mixture = _maximise(rows_MD, resp_MK, repeats)
    for _ in range(ITERATIONS - 1 if resp_MK.shape[1] > 1 else 0):
        log_weight, mean, covariance = mixture
        resp_MK = (log_weight + _log_density(rows_MD, mean, covariance)).softmax(1)
        mixture = _maximise(rows_MD, resp_MK, repeats)
    return mixture


def _maximise(rows_MD: Tensor, resp_MK: Tensor, repeats: int) -> Mixture:
    """Return the mixture in which rows have the shares ``resp_MK`` of the components."""
    (count, dims), k = rows_MD.shape, resp_MK.shape[1]
    size = resp_MK.sum(0)
    mean = (resp_MK.T @ rows_MD) / size[:, None].clamp(min=1e-9)
    spread = torch.stack([_scatter(rows_MD, r, m) for m, r in zip(mean, resp_MK.T, strict=True)])
    pooled = spread.sum(0) / count
    # A direction without any spread (a number that all share) keeps a trace of it, or nothing could be inverted.
    alone = torch.diag(pooled.diagonal() + 1e-6)
    pooled = (1 - SHRINKAGE) * pooled + SHRINKAGE * alone
    log_weight = (size / count).clamp(min=1e-12).log()
    if k == 1:
        return log_weight, mean, pooled[None]
    prior = PRIOR * dims
    return log_weight, mean, (spread / repeats + prior * pooled) / (size[:, None, None] / repeats + prior)


def _scatter(rows_MD: Tensor, weight_M: Tensor, mean_D: Tensor) -> Tensor:
    """Return the weighted scatter (D, D) of rows about their weighted mean; rows without weight cost nothing."""
    near = torch.nonzero(weight_M > NO_WEIGHT)[:, 0]
    centred = rows_MD[near] - mean_D
    return (centred * weight_M[near, None]).T @ centred


def _log_density(rows_MD: Tensor, mean_KD: Tensor, covariance_KDD: Tensor) -> Tensor:
    """Return the log density (M, K) of rows under each Gaussian, up to no constant."""
    dims = rows_MD.shape[1]
    tiny = 1e-9 * torch.eye(dims, dtype=rows_MD.dtype, device=rows_MD.device)
    factor_KDD = torch.linalg.cholesky(covariance_KDD + tiny)
    log_volume_K = factor_KDD.diagonal(dim1=1, dim2=2).log().sum(1)
    unit = torch.eye(dims, dtype=rows_MD.dtype, device=rows_MD.device).expand_as(factor_KDD)
    whiten_KDD = torch.linalg.solve_triangular(factor_KDD, unit, upper=False)
    # One Gaussian after the other: rows times Gaussians times dimensions would be gigabytes.
    parts = [((rows_MD - m) @ w.T).square().sum(1) for m, w in zip(mean_KD, whiten_KDD, strict=True)]
    return -0.5 * torch.stack(parts, dim=1) - log_volume_K - 0.5 * dims * math.log(2 * math.pi)


def _normal_scores(numbers_MH: Tensor) -> Tensor:
    """Return the normal scores of each column; equal numbers share the mean of theirs, or they would be noise."""
    scores = _scores_of_ranks(len(numbers_MH))[numbers_MH.argsort(dim=0).argsort(dim=0)]
    for h in range(numbers_MH.shape[1]):
        _, tied, size = numbers_MH[:, h].unique(return_inverse=True, return_counts=True)
        total = torch.zeros(len(size), dtype=torch.float64).index_add_(0, tied, scores[:, h])
        scores[:, h] = (total / size)[tied]
    return scores


def _scores_of_ranks(count: int) -> Tensor:
    """Return the normal scores of ranks 0 to ``count`` - 1."""
    probability = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return math.sqrt(2.0) * torch.erfinv(2 * probability - 1)


def _interpolate(at_BH: Tensor, x_GH: Tensor, y_GH: Tensor) -> Tensor:
    """Return, column by column, y where rising x is ``at``, on straight lines; the outermost y beyond the ends."""
    x_HG = x_GH.T.contiguous()
    upper = torch.searchsorted(x_HG, at_BH.T.contiguous()).clamp(1, len(x_GH) - 1).T
    low, high = x_GH.gather(0, upper - 1), x_GH.gather(0, upper)
    share = ((at_BH - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    return y_GH.gather(0, upper - 1) * (1 - share) + y_GH.gather(0, upper) * share
