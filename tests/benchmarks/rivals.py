"""Simple generators of load series that a neural one has to beat, each in a page of numpy.

Every rival is a function ``fit_and_draw(values, starts, step_seconds, count, seed)``:

    values : ndarray (n, C, L), float32, physical units, NaN where missing: the training series
    starts : ndarray (n,), datetime64: when each begins; the drawn series i begins at ``starts[i % n]``
    step_seconds : int
    count : int, how many series to draw
    seed : int, the same seed gives the same series
    returns ndarray (count, C, L), float32, without gaps; at least 0 in channels that are so in training

Gaps are filled with the series' own typical day before anything else. A day is the steps that make 24 hours, or 24
steps where the step does not divide a day.

Axis letters: n training series, m drawn series, C channels, L time steps, D days, S steps of a day, W = C * S values of
a day, F features, Q points of a quantile function, J functions of the calendar.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

DAY_SECONDS = 86_400
YEAR_SECONDS = 365.2425 * DAY_SECONDS
NEIGHBOURS = 5
"""Series that lend their weeks to one another, the series itself among them."""
GROUP_SIZE = 30
"""Mean number of series in a k-means group; none is smaller than half of it."""
QUANTILE_POINTS, QUANTILE_COMPONENTS, SEASON_COMPONENTS = 65, 8, 20
LAGS = (1, 2, 7, 14)
"""Days back that the days of the hierarchical copula follow; the mean of `MEMORY` days joins them."""
MEMORY = 28
HARMONICS = 2
MAX_SEASON = 0.95
"""Largest share of the variance of a household's scores that its season takes."""

Rival = Callable[[NDArray, NDArray, int, int, int], NDArray]


# ---- what several rivals need -----------------------------------------------------------------------------------


def day_steps(step_seconds: int, length: int) -> int:
    """Return the steps of a day, never more than the length."""
    return min(DAY_SECONDS // step_seconds if DAY_SECONDS % step_seconds == 0 else 24, length)


def fill_gaps(values: NDArray, step_seconds: int) -> NDArray[np.float64]:
    """Return series (n, C, L) whose gaps hold the mean of the same step of the day; failing that, of the series."""
    steps = day_steps(step_seconds, values.shape[2])
    filled = values.astype(np.float64)
    for series in filled.reshape(-1, values.shape[2]):
        missing = np.isnan(series)
        if not missing.any():
            continue
        overall = series[~missing].mean() if not missing.all() else 0.0
        for step in range(steps):
            seen = series[step::steps][~missing[step::steps]]
            gaps = np.flatnonzero(missing[step::steps]) * steps + step
            series[gaps] = seen.mean() if len(seen) else overall
    return filled


@dataclass(frozen=True)
class LogScale:
    """log(1 + x / scale) for channels that are never negative, asinh(x / scale) for others."""

    scale: NDArray
    nonnegative: NDArray

    @classmethod
    def of(cls, values: NDArray) -> "LogScale":
        """Take the scale, the mean size of each channel, from series (n, C, L)."""
        scale = np.maximum(np.abs(values).mean(axis=(0, 2)), 1e-12)
        return cls(scale[:, None], (values.min(axis=(0, 2)) >= 0)[:, None])

    def apply(self, values: NDArray) -> NDArray:
        """Return the logs (n, C, L)."""
        ratio = values / self.scale
        return np.where(self.nonnegative, np.log1p(np.maximum(ratio, 0)), np.arcsinh(ratio))

    def undo(self, logs: NDArray) -> NDArray[np.float32]:
        """Return series (n, C, L) in physical units."""
        ratio = np.where(self.nonnegative, np.expm1(np.maximum(logs, 0)), np.sinh(logs))
        return (ratio * self.scale).astype(np.float32)


def normal_scores(columns: NDArray) -> NDArray:
    """Return the normal scores (n, F) of each column; ties share their mean rank."""
    return ndtri((rankdata(columns, axis=0) - 0.5) / len(columns))


def from_scores(scores: NDArray, columns: NDArray) -> NDArray:
    """Return values (m, F) that follow the empirical law of each column (n, F) and the order of scores (m, F)."""
    ordered, last = np.sort(columns, axis=0), len(columns) - 1
    position = np.clip(ndtr(scores) * len(columns) - 0.5, 0, last)
    low = np.minimum(position.astype(int), max(last - 1, 0))
    below = np.take_along_axis(ordered, low, axis=0)
    above = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=0)
    return below + (position - low) * (above - below)


def shrinkage(rows: NDArray) -> tuple[float, float]:
    """Return the weight of the identity and its size in the covariance of Ledoit and Wolf (2004, JMVA).

    ``rows`` (n, F) are centred. Everything follows from their Gram matrix, so that F may be a whole year.
    """
    count, width = rows.shape
    gram = rows @ rows.T
    size = np.trace(gram) / count / width
    square = (gram**2).sum() / count**2
    distance = square / width - size**2
    error = ((np.diag(gram) ** 2).sum() / count - square) / (width * count)
    return (float(np.clip(error / distance, 0, 1)) if distance > 0 else 1.0), float(size)


def draw_gaussian(rows: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """Draw ``count`` vectors with the mean and the shrunk covariance of ``rows`` (n, F)."""
    mean = rows.mean(axis=0)
    weight, size = shrinkage(rows - mean)
    shared = rng.standard_normal((count, len(rows))) @ (rows - mean) / np.sqrt(len(rows))
    return mean + np.sqrt(1 - weight) * shared + np.sqrt(weight * size) * rng.standard_normal((count, rows.shape[1]))


def fit_pca(rows: NDArray, components: int) -> PCA:
    """Fit at most so many principal components of ``rows`` (n, F)."""
    return PCA(min(components, len(rows) - 1, rows.shape[1]), svd_solver="full").fit(rows)


def group_by_kmeans(features: NDArray, groups: int, least: int, seed: int) -> NDArray[np.int64]:
    """Return a group (n,) for each row of ``features`` (n, F); groups below ``least`` join the nearest one."""
    fitted = KMeans(min(groups, len(features)), n_init=4, random_state=seed).fit(features)
    labels = fitted.labels_.astype(np.int64)
    while True:
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) == 1 or sizes.min() >= least:
            return np.searchsorted(names, labels)
        small = names[sizes.argmin()]
        others = names[names != small]
        rows = labels == small
        centres = fitted.cluster_centers_[others]
        labels[rows] = others[((features[rows][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)]


# ---- controls and simple rivals ---------------------------------------------------------------------------------


def copy_of_training(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return the training series themselves: the best fidelity that theft buys."""
    return fill_gaps(values, step_seconds)[np.arange(count) % len(values)].astype(np.float32)


def kmeans_centroids(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Return means of k-means groups of about 15 series, at least 5, each as often as its group is large."""
    filled = fill_gaps(values, step_seconds)
    features = LogScale.of(filled).apply(filled).reshape(len(filled), -1)
    labels = group_by_kmeans(features, max(2, len(filled) // 15), 5, seed)
    means = np.stack([filled[labels == group].mean(axis=0) for group in range(labels.max() + 1)])
    return means[labels[np.arange(count) % len(filled)]].astype(np.float32)


def swapped_weeks(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Take every week of a series from a random one of it and its nearest neighbours, the same week of the year."""
    rng = np.random.default_rng(seed)
    filled = fill_gaps(values, step_seconds)
    logs = LogScale.of(filled).apply(filled).reshape(len(filled), -1)
    squares = (logs**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * logs @ logs.T
    np.fill_diagonal(distances, -1)
    nearest = distances.argsort(axis=1)[:, :NEIGHBOURS]
    week = 7 * day_steps(step_seconds, filled.shape[2])
    drawn = filled[np.arange(count) % len(filled)]
    for row in range(count):
        for begin in range(0, filled.shape[2], week):
            donor = rng.choice(nearest[row % len(filled)])
            drawn[row, :, begin : begin + week] = filled[donor, :, begin : begin + week]
    return drawn.astype(np.float32)


def pca_mixture(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Draw 20 principal components of log values from a Gaussian mixture, whose size and form the BIC chooses."""
    filled = fill_gaps(values, step_seconds)
    logs = LogScale.of(filled)
    rows = logs.apply(filled).reshape(len(filled), -1)
    pca = fit_pca(rows, 20)
    scores = pca.transform(rows)
    size = max(float(scores[:, 0].std()), 1e-9)
    candidates = [
        GaussianMixture(parts, covariance_type=form, reg_covar=1e-4, random_state=seed).fit(scores / size)
        for form in ("full", "diag")
        for parts in range(1, min(6, len(rows)))
    ]
    best = min(candidates, key=lambda mixture: mixture.bic(scores / size))
    drawn = best.sample(count)[0][np.random.default_rng(seed).permutation(count)] * size
    return logs.undo(pca.inverse_transform(drawn).reshape(count, *filled.shape[1:]))


def gaussian_copula(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Keep the law of log values at every moment, and a shrunk Gaussian dependence between all moments."""
    filled = fill_gaps(values, step_seconds)
    logs = LogScale.of(filled)
    rows = logs.apply(filled).reshape(len(filled), -1)
    drawn = draw_gaussian(normal_scores(rows), count, np.random.default_rng(seed))
    return logs.undo(from_scores(drawn, rows).reshape(count, *filled.shape[1:]))


# ---- the hierarchical copula ------------------------------------------------------------------------------------


class Season:
    """The seasonal part of scores, step by step of the day: working day, Saturday, Sunday and harmonics of the year."""

    def __init__(self, step_seconds: int, length: int) -> None:
        self.step_seconds, self.length = step_seconds, length
        self.steps = day_steps(step_seconds, length)

    def _by_start(self, starts: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield the rows of each start and the functions (L, J) of its calendar."""
        for start in np.unique(starts):
            at = start.astype(np.int64) + self.step_seconds * np.arange(self.length)
            weekday, angle = (at // DAY_SECONDS + 3) % 7, 2 * np.pi * at / YEAR_SECONDS
            waves = [f(k * angle) for k in range(1, HARMONICS + 1) for f in (np.sin, np.cos)]
            yield np.flatnonzero(starts == start), np.stack([weekday >= 0, weekday == 5, weekday == 6, *waves], axis=1)

    def coefficients(self, scores: NDArray, starts: NDArray) -> NDArray:
        """Regress scores (n, C, L) on the calendar with a light ridge; return (n, C * S * J)."""
        functions = 3 + 2 * HARMONICS
        ridge = np.diag([0.0, *(3.0,) * (functions - 1)])
        table = np.empty((*scores.shape[:2], self.steps, functions))
        for rows, basis in self._by_start(starts):
            for step in range(self.steps):
                x, y = basis[step :: self.steps], scores[rows][:, :, step :: self.steps]
                table[rows, :, step] = (y @ x) @ np.linalg.inv(x.T @ x + ridge)
        return table.reshape(len(scores), -1)

    def course(self, coefficients: NDArray, starts: NDArray, channels: int) -> NDArray:
        """Return the course (m, C, L) that coefficients (m, C * S * J) say, from ``starts`` (m,)."""
        table = coefficients.reshape(len(coefficients), channels, self.steps, -1)
        out = np.empty((len(coefficients), channels, self.length))
        for rows, basis in self._by_start(starts):
            for step in range(self.steps):
                out[rows, :, step :: self.steps] = table[rows, :, step] @ basis[step :: self.steps].T
        return out


class Days:
    """Days of unit residuals as a vector autoregression whose coefficients depend on a household's persistence.

    r_d = sum over lags of (A + p1 B + p2 C) r_(d - lag) + e,  e ~ N(0, V + p1 V1 + p2 V2)

    with p1, p2 the household's correlations at one step and at one day, as normal scores. Only the first lag has B, C.
    """

    def __init__(self, days: NDArray, persistence: NDArray) -> None:
        count, self.width = days.shape[0], days.shape[2]
        self.memory = max(1, min(MEMORY, days.shape[1] // 4))
        self.lags = [lag for lag in LAGS if lag <= self.memory]
        x = np.concatenate([self._past(days, d, persistence) for d in range(self.memory, days.shape[1])])
        y = days[:, self.memory :].transpose(1, 0, 2).reshape(-1, self.width)
        gram = x.T @ x
        self.slope = np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y)
        rest = (y - x @ self.slope).reshape(-1, count, self.width)
        own = np.einsum("dnv,dnw->nvw", rest, rest).reshape(count, -1) / len(rest)
        design = np.column_stack([np.ones(count), persistence])
        ridge = np.diag([0.0, *(5.0,) * persistence.shape[1]])
        self.noise = np.linalg.solve(design.T @ design + ridge, design.T @ own)

    def _past(self, days: NDArray, day: int, persistence: NDArray) -> NDArray:
        last = days[:, day - 1]
        parts = [last, *(last * p[:, None] for p in persistence.T), *(days[:, day - lag] for lag in self.lags[1:])]
        return np.concatenate([*parts, days[:, day - self.memory : day].mean(axis=1)], axis=1)

    def draw(self, persistence: NDArray, num_days: int, rng: np.random.Generator) -> NDArray:
        """Return days (m, D, W); each value of the day has mean square 1 over the year."""
        count, run_in = len(persistence), 2 * self.memory
        design = np.column_stack([np.ones(count), persistence])
        values, vectors = np.linalg.eigh((design @ self.noise).reshape(count, self.width, self.width))
        factor = vectors * np.sqrt(np.maximum(values, 1e-6))[:, None]
        days = np.zeros((count, run_in + num_days, self.width))
        for day in range(days.shape[1]):
            noise = np.einsum("nvw,nw->nv", factor, rng.standard_normal((count, self.width)))
            mean = self._past(days, day, persistence) @ self.slope if day >= self.memory else 0.0
            # far beyond anything a stable household does: keeps an unlucky draw of persistence from exploding
            days[:, day] = np.clip(mean + noise, -8, 8)
        days = days[:, run_in:]
        return days / np.sqrt((days**2).mean(axis=1, keepdims=True) + 1e-9)


def _own_scores(filled: NDArray, rng: np.random.Generator) -> NDArray:
    """Return each series' normal scores (n, C, L) among its own values; equal values are ordered at random."""
    order = np.lexsort((rng.random(filled.shape), filled), axis=2)
    length = filled.shape[2]
    scores = np.empty(filled.shape)
    np.put_along_axis(scores, order, np.broadcast_to(_plotting(length), filled.shape), axis=2)
    return scores


def _plotting(length: int) -> NDArray:
    return ndtri((np.arange(length) + 0.5) / length)


def _correlation(days: NDArray, lag: int) -> NDArray:
    """Return each household's autocorrelation (n,) at ``lag`` steps, of unit residuals (n, C, L)."""
    if days.shape[2] <= lag:
        return np.zeros(len(days))
    return (days[:, :, lag:] * days[:, :, :-lag]).mean(axis=(1, 2)) / np.maximum((days**2).mean(axis=(1, 2)), 1e-9)


class HierarchicalCopula:
    """Two levels, apart: what kind of household it is, and the order of its values through the year.

    *Household*: log level, share of zeros, quantile function of the values over their mean (8 components), seasonal
    part of the normal scores (20 components), form of the spread of the rest over the steps of the day, persistence.
    These numbers keep their empirical laws and get a shrunk Gaussian dependence. *Year*: seasonal part and
    autoregressive days, of which only the order is used: the values come from the household's quantile function and
    level.
    """

    def __init__(self, values: NDArray, starts: NDArray, step_seconds: int, seed: int) -> None:
        filled = fill_gaps(values, step_seconds)
        self.channels, self.length = filled.shape[1:]
        self.starts = starts.astype("datetime64[s]")
        self.season = Season(step_seconds, self.length)
        self.nonnegative, self.limit = filled.min(axis=(0, 2)) >= 0, np.abs(filled).max(axis=(0, 2))
        self.grid = np.linspace(*_plotting(self.length)[[0, -1]], QUANTILE_POINTS)
        level = np.log(np.maximum(np.abs(filled).mean(axis=2), 1e-12))
        zeros = logit(((filled == 0).sum(axis=2) + 0.5) / (self.length + 1))
        laws = self._laws(filled / np.exp(level)[:, :, None])
        self.law_range = laws.min(axis=0), laws.max(axis=0)
        self.law_pca = fit_pca(laws, QUANTILE_COMPONENTS)
        scores = _own_scores(filled, np.random.default_rng(seed))
        coefficients = self.season.coefficients(scores, self.starts)
        self.season_pca = fit_pca(coefficients, SEASON_COMPONENTS)
        seasons = self.season_pca.transform(coefficients)
        rest = scores - self.season.course(self.season_pca.inverse_transform(seasons), self.starts, self.channels)
        days = self._days(rest)
        spread = np.sqrt((days**2).mean(axis=1) + 1e-6)
        days = days / spread[:, None]
        unit = self._steps(days)
        persistence = np.column_stack([_correlation(unit, lag) for lag in (1, self.season.steps)])
        self.numbers = {
            "level": level,
            "zeros": zeros,
            "law": self.law_pca.transform(laws),
            "season": seasons,
            "spread": np.log(spread) - 0.5 * np.log((spread**2).mean(axis=1, keepdims=True)),
            "persistence": persistence,
        }
        self.days = Days(days, normal_scores(persistence))

    def _laws(self, shapes: NDArray) -> NDArray:
        """Return the quantile functions (n, C * Q) of series (n, C, L), as log(1 + x) or asinh(x)."""
        at, ordered = _plotting(self.length), np.sort(shapes, axis=2)
        laws = [[np.interp(self.grid, at, channel) for channel in series] for series in ordered]
        flat = self.nonnegative[:, None]
        return np.where(flat, np.log1p(np.maximum(laws, 0)), np.arcsinh(laws)).reshape(len(shapes), -1)

    def _days(self, series: NDArray) -> NDArray:
        """Cut series (n, C, L) into whole days (n, D, W)."""
        steps = self.season.steps
        cut = series[:, :, : self.length // steps * steps].reshape(len(series), self.channels, -1, steps)
        return cut.transpose(0, 2, 1, 3).reshape(len(series), cut.shape[2], -1)

    def _steps(self, days: NDArray) -> NDArray:
        """Put days (n, D, W) together again, to (n, C, D * S)."""
        cut = days.reshape(*days.shape[:2], self.channels, self.season.steps)
        return cut.transpose(0, 2, 1, 3).reshape(len(days), self.channels, -1)

    def features(self) -> NDArray:
        """Return what makes households alike (n, F): level, law and season, the first component of each of size 1."""
        parts = [self.numbers[name] for name in ("level", "law", "season")]
        return np.concatenate([part / max(part[:, 0].std(), 1e-9) for part in parts], axis=1)

    def _by_name(self, joined: NDArray) -> dict[str, NDArray]:
        ends = np.cumsum([part.shape[1] for part in self.numbers.values()])[:-1]
        return dict(zip(self.numbers, np.split(joined, ends, axis=1), strict=True))

    def draw(self, starts: NDArray, seed: int) -> NDArray[np.float32]:
        """Draw one series (m, C, L) for each start (m,)."""
        rng, count = np.random.default_rng([seed, 1]), len(starts)
        columns = np.concatenate(list(self.numbers.values()), axis=1)
        scores = draw_gaussian(normal_scores(columns), count, rng)
        drawn, persistence = self._by_name(from_scores(scores, columns)), self._by_name(scores)["persistence"]
        course = self.season.course(self.season_pca.inverse_transform(drawn["season"]), starts, self.channels)
        days = self.days.draw(persistence, -(-self.length // self.season.steps), rng)
        rest = self._steps(days * np.exp(drawn["spread"])[:, None])[:, :, : self.length]
        # Scores have variance 1, so what the season leaves is known; drawn apart, the two would not fit each other.
        share = 1 - np.minimum(course.var(axis=2, keepdims=True), MAX_SEASON)
        course += rest * np.sqrt(share / (rest**2).mean(axis=2, keepdims=True))
        ranks = course.argsort(axis=2).argsort(axis=2)
        laws = np.clip(self.law_pca.inverse_transform(drawn["law"]), *self.law_range)
        # drawn components need not make an ascending function; sorting leaves fewer plateaus than a running maximum
        laws = np.sort(laws.reshape(count, self.channels, QUANTILE_POINTS), axis=2)
        at, out = _plotting(self.length), np.empty(course.shape)
        for row, channel in np.ndindex(count, self.channels):
            ordered = np.interp(at, self.grid, laws[row, channel])
            if self.nonnegative[channel]:
                ordered = np.maximum(np.expm1(ordered), 0)
                ordered[: round(float(expit(drawn["zeros"][row, channel])) * (self.length + 1) - 0.5)] = 0
            else:
                ordered = np.sinh(ordered)
            ordered *= np.exp(drawn["level"][row, channel]) / max(np.abs(ordered).mean(), 1e-12)
            # a steep law that meets a high level would otherwise draw more than any connection carries
            out[row, channel] = np.clip(ordered, -self.limit[channel], self.limit[channel])[ranks[row, channel]]
        return out.astype(np.float32)


def hierarchical_copula(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Draw from one `HierarchicalCopula` of all training series."""
    fitted = HierarchicalCopula(values, starts, step_seconds, seed)
    return fitted.draw(fitted.starts[np.arange(count) % len(values)], seed)


def grouped_copula(values: NDArray, starts: NDArray, step_seconds: int, count: int, seed: int) -> NDArray:
    """Draw from a `HierarchicalCopula` of each k-means group of households, as often as the group is large."""
    starts = starts.astype("datetime64[s]")
    features = HierarchicalCopula(values, starts, step_seconds, seed).features()
    labels = group_by_kmeans(features, max(2, len(values) // GROUP_SIZE), GROUP_SIZE // 2, seed)
    member = np.arange(count) % len(values)
    out = np.empty((count, *values.shape[1:]), dtype=np.float32)
    for group in range(labels.max() + 1):
        rows, wanted = labels == group, np.flatnonzero(labels[member] == group)
        if len(wanted):
            fitted = HierarchicalCopula(values[rows], starts[rows], step_seconds, seed)
            out[wanted] = fitted.draw(starts[member[wanted]], seed + group)
    return out


RIVALS: dict[str, Rival] = {
    "training set itself": copy_of_training,
    "k-means centroids": kmeans_centroids,
    "weeks swapped": swapped_weeks,
    "PCA and mixture": pca_mixture,
    "Gaussian copula": gaussian_copula,
    "hierarchical copula": hierarchical_copula,
    "hierarchical copula in groups": grouped_copula,
}
"""By the name that tables show."""
