"""The household model: the distribution of household numbers given the condition.

Each household number keeps its marginal distribution among training households. The dependence of the numbers on each
other and on the condition is a mixture of Gaussians over their normal scores and the condition jointly. It has one
component for every `MEMBERS` households, up to `HouseholdConfig.mixtures`. Held-out likelihood cannot choose this
number: it prefers one Gaussian where eight give series closer to real ones. The mixture is fitted by EM, not by
gradient descent.

Only the mixture's dependence (its copula) is used: a drawn score is converted to its rank under the mixture's own
marginal, and the rank to the training households' quantile, so that no number comes out too wide or too narrow. The
prior weights with which a condition chooses a component are balanced: averaged over all training households, each
component is chosen as often as its mixture weight says. So conditions move single households, but not the overall
distribution.

Households drawn together fill their distribution evenly (stratified sampling). A hundred independent draws have as much
sampling error of their own as the hundred training households; that alone would put them further from other real
households than the training households are.

Axis letters: B series, H household numbers, Z latent dimensions of a condition, D = H + Z, K components, M rows,
G points of a grid (in `cond_GMZ`: groupings).
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ttsgan.config import HouseholdConfig
from ttsgan.errors import NotFittedError
from ttsgan.extremes import bounds

MAX_KEPT = 2048
"""Quantiles stored of the marginal distribution of each household number."""
MAX_FITTED = 20_000
"""Most series that the mixture is fitted on; of more, a random subset."""
TAIL = 0.1
"""Share of the stored quantiles at each end that gives the slope of the extrapolation beyond it."""
UNUSED = -1e30
"""Log weight of a component that is not in use."""
SHRINKAGE = 0.01
"""Shrinkage of correlations towards 0. Ledoit and Wolf's shrinkage, a third for a hundred households, costs more than
it saves; 0.05 costs load factors where level and peak are almost perfectly correlated, as under weather."""
MEMBERS = 160
"""Households per component of the mixture, on average; with half as many, training households can be identified by
it."""
MIN_KIND = 15
"""Households that each kind must have for kinds to get components of their own."""
PRIOR = 0.5
"""Weight of the pooled covariance in each component, in households per dimension."""
CONDITION_NOISE = 0.05
"""Variance added to conditions, because new series get means of other groups than those used in the fit."""
NO_WEIGHT = 1e-12
"""Responsibility below which a row is left out of a component's covariance, to save time: in high dimensions most rows
belong to a single component."""
ROWS_AT_ONCE = 256
"""Rows whose densities under all components are computed at once: few enough to stay in the cache."""
ITERATIONS = 5
"""EM iterations; 1 to 50 give series equally close to real ones."""
BALANCINGS = 100
"""Iterations that balance the prior weights of components; the error is then a few thousandths."""
UNCORRELATED = 0.5
"""Leading (widest) principal axes whose draws are made exactly uncorrelated, as a share of the number of draws."""
GRID, REACH = 257, 6.0
"""Grid points of a tabulated distribution function, and its reach in standard deviations beyond the outermost means."""


class HouseholdModel(nn.Module):
    """Distribution of household numbers given conditions; fitted by `fit`.

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
        self.register_buffer("quantiles", torch.zeros(MAX_KEPT, num_numbers, dtype=torch.float64))
        self.register_buffer("log_weight", torch.full((k,), UNUSED, dtype=torch.float64))
        self.register_buffer("log_prior", torch.full((k,), UNUSED, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(k, d, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(d, dtype=torch.float64).repeat(k, 1, 1))

    def fit(
        self, numbers_MH: Tensor, cond_GMZ: Tensor, owners_M: Tensor, seed: int, kinds_M: Tensor | None = None
    ) -> "HouseholdModel":
        """Fit the distribution of household numbers given conditions.

        Parameters
        ----------
        numbers_MH : Tensor (M, H)
        cond_GMZ : Tensor (G, M, Z)
            Condition of each series under G groupings, standardised.
        owners_M : Tensor (M,), int
            Household of each series: a building with many meters is one household.
        seed : int
            Seed of the random subset and of the initial components.
        kinds_M : Tensor (M,), int, optional
            Kind of each series. No initial component mixes two kinds, provided that each has `MIN_KIND` households and
            there are at most ``config.mixtures`` kinds.
        """
        numbers = numbers_MH.double().cpu()
        low, high = bounds(numbers.numpy(), owners_M.cpu().numpy())
        quantiles = np.quantile(numbers.numpy(), np.linspace(0, 1, MAX_KEPT), axis=0).clip(low, high)
        self.quantiles.copy_(torch.from_numpy(quantiles))
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
        """Return the marginal log density (B, K) of conditions under each component."""
        k, h = self.components, self.num_numbers
        return _log_density(cond_BZ, self.mean[:k, h:], self.covariance[:k, h:, h:])

    @property
    def components(self) -> int:
        """Number of components in use."""
        return int((self.log_weight > UNUSED).sum())

    def sample(self, cond_BZ: Tensor, generator: torch.Generator) -> Tensor:
        """Draw household numbers (B, H), float32, for conditions (B, Z).

        The B households are drawn jointly: each number fills its expected distribution evenly, so that a household
        depends on how many others there are and on their conditions. ``generator`` is a CPU generator.

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
        """Map scores to the numbers of the same rank; extrapolate beyond the ends with the slope of the outer tenth."""
        k, h = self.components, self.num_numbers
        spread_KH = self.covariance[:k].diagonal(dim1=1, dim2=2)[:, :h].sqrt()
        below_KBH = torch.special.ndtr((scores_BH - self.mean[:k, None, :h]) / spread_KH[:, None])
        rank_BH = torch.einsum("k,kbh->bh", self.log_weight[:k].exp(), below_KBH).clamp(1e-9, 1 - 1e-9)
        scores_BH = torch.special.ndtri(rank_BH)
        grid = _scores_of_ranks(MAX_KEPT).to(scores_BH.device)
        tail = int(TAIL * MAX_KEPT)
        numbers = _interpolate(scores_BH, grid[:, None].expand(-1, h), self.quantiles)
        for end, inner, sign in ((-1, -tail, 1.0), (0, tail - 1, -1.0)):
            slope = (self.quantiles[end] - self.quantiles[inner]) / (grid[end] - grid[inner])
            numbers = numbers + slope * sign * (sign * (scores_BH - grid[end])).clamp(min=0)
        return numbers


def _balanced(log_density_MK: Tensor, log_weight_K: Tensor) -> Tensor:
    """Return log prior weights (K,) for which the mean choice of the M rows equals the weight of each component."""
    log_prior = log_weight_K
    for _ in range(BALANCINGS):
        log_choice = (log_prior + log_density_MK).log_softmax(1)
        log_prior = log_prior + log_weight_K - (log_choice.logsumexp(0) - math.log(len(log_density_MK)))
    return log_prior


def _even(count: int, generator: torch.Generator) -> Tensor:
    """Return stratified uniform numbers in random order (count,): one in each of ``count`` equal parts of [0, 1]."""
    order = torch.rand(count, generator=generator, dtype=torch.float64).argsort()
    return (order + torch.rand(count, generator=generator, dtype=torch.float64)) / count


def _uncorrelated_normal(count: int, dims: int, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers (count, dims); the leading columns have zero sample mean and correlation."""
    normal = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    free = min(dims, int(UNCORRELATED * count))
    if free:
        lead = normal[:, :free] - normal[:, :free].mean(0)
        factor = torch.linalg.cholesky(lead.T @ lead / count)
        normal[:, :free] = torch.linalg.solve_triangular(factor, lead.T, upper=False).T
    return normal


def _widest_first(covariance_KHH: Tensor) -> Tensor:
    """Return factors F of covariances F F'; their columns are the scaled principal axes, widest first."""
    variance, axes = torch.linalg.eigh(0.5 * (covariance_KHH + covariance_KHH.mT))
    # The sign of an eigenvector is arbitrary and differs between machines.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return (axes * largest.sign() * variance.clamp(min=0).sqrt()[:, None]).flip(-1)


def _evenly(scores_BH: Tensor, centre_BH: Tensor, spread_BH: Tensor) -> Tensor:
    """Move drawn scores so that each number fills its expected distribution evenly: one score per B-th of probability.

    The expected distribution is the mean of the B normal distributions given by centre and spread. A score keeps its
    rank among the others and its relative position within the B-th part, so that a single household stays as drawn.
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
    """Return initial responsibilities (M, K), 0 or 1, from k-means within each kind."""
    from sklearn.cluster import KMeans  # imported late: it takes two seconds, and only fitting needs it

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
    """Fit a mixture by EM, with each covariance shrunk towards the pooled one.

    ``resp_MK`` holds the initial responsibilities. ``repeats`` rows stand for one household and count as one. The
    pooled covariance counts as `PRIOR` * D additional households in every component; its correlations are reduced by
    the share `SHRINKAGE`.
    """
    mixture = _maximise(rows_MD, resp_MK, repeats)
    for _ in range(ITERATIONS - 1 if resp_MK.shape[1] > 1 else 0):
        log_weight, mean, covariance = mixture
        resp_MK = (log_weight + _log_density(rows_MD, mean, covariance)).softmax(1)
        mixture = _maximise(rows_MD, resp_MK, repeats)
    return mixture


def _maximise(rows_MD: Tensor, resp_MK: Tensor, repeats: int) -> Mixture:
    """Return the mixture that the responsibilities ``resp_MK`` give (M step)."""
    (count, dims), k = rows_MD.shape, resp_MK.shape[1]
    size = resp_MK.sum(0)
    mean = (resp_MK.T @ rows_MD) / size[:, None].clamp(min=1e-9)
    spread = torch.stack([_scatter(rows_MD, r, m) for m, r in zip(mean, resp_MK.T, strict=True)])
    pooled = spread.sum(0) / count
    # A number that is equal for all households keeps a tiny variance, or the covariance would be singular.
    alone = torch.diag(pooled.diagonal() + 1e-6)
    pooled = (1 - SHRINKAGE) * pooled + SHRINKAGE * alone
    log_weight = (size / count).clamp(min=1e-12).log()
    if k == 1:
        return log_weight, mean, pooled[None]
    prior = PRIOR * dims
    return log_weight, mean, (spread / repeats + prior * pooled) / (size[:, None, None] / repeats + prior)


def _scatter(rows_MD: Tensor, weight_M: Tensor, mean_D: Tensor) -> Tensor:
    """Return the weighted scatter matrix (D, D) of rows about their weighted mean; rows without weight are skipped."""
    near = torch.nonzero(weight_M > NO_WEIGHT)[:, 0]
    centred = rows_MD[near] - mean_D
    return (centred * weight_M[near, None]).T @ centred


def _log_density(rows_MD: Tensor, mean_KD: Tensor, covariance_KDD: Tensor) -> Tensor:
    """Return the log density (M, K) of rows under each Gaussian, constants included."""
    dims = rows_MD.shape[1]
    tiny = 1e-9 * torch.eye(dims, dtype=rows_MD.dtype, device=rows_MD.device)
    factor_KDD = torch.linalg.cholesky(covariance_KDD + tiny)
    log_volume_K = factor_KDD.diagonal(dim1=1, dim2=2).log().sum(1)
    unit = torch.eye(dims, dtype=rows_MD.dtype, device=rows_MD.device).expand_as(factor_KDD)
    whiten_KDD = torch.linalg.solve_triangular(factor_KDD, unit, upper=False)
    whitened_mean = torch.einsum("kde,ke->kd", whiten_KDD, mean_KD).flatten()
    # Few rows at a time: a tensor of all rows x Gaussians x dimensions would take gigabytes.
    parts = [
        torch.addmm(-whitened_mean, few_MD, whiten_KDD.flatten(0, 1).T).unflatten(1, (-1, dims)).square().sum(2)
        for few_MD in rows_MD.split(ROWS_AT_ONCE)
    ]
    return -0.5 * torch.cat(parts) - log_volume_K - 0.5 * dims * math.log(2 * math.pi)


def _normal_scores(numbers_MH: Tensor) -> Tensor:
    """Return the normal scores of each column; ties get the mean of their scores, which would otherwise be noise."""
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
    """Interpolate y linearly at ``at``, column by column; x rises, and beyond its ends the outermost y is returned."""
    x_HG = x_GH.T.contiguous()
    upper = torch.searchsorted(x_HG, at_BH.T.contiguous()).clamp(1, len(x_GH) - 1).T
    low, high = x_GH.gather(0, upper - 1), x_GH.gather(0, upper)
    share = ((at_BH - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    return y_GH.gather(0, upper - 1) * (1 - share) + y_GH.gather(0, upper) * share
