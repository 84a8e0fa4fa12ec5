"""The hierarchical copula, the bar to beat: models the kind of household and the order of its values in the year.

Its functions have the signature of a rival (see `rivals`).

Axis letters: n training series, m drawn series, C channels, L time steps, D days, S steps of a day, W = C * S values of
a day, F features, Q points of a quantile function, J functions of the calendar.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rival_tools import (
    DAY_SECONDS,
    day_steps,
    draw_gaussian,
    fill_gaps,
    fit_pca,
    from_scores,
    group_by_kmeans,
    normal_scores,
)
from scipy.special import expit, logit, ndtri

YEAR_SECONDS = 365.2425 * DAY_SECONDS
GROUP_SIZE = 30
"""Mean number of series in a k-means group; none is smaller than half of it."""
QUANTILE_POINTS, QUANTILE_COMPONENTS, SEASON_COMPONENTS = 65, 8, 20
LAGS = (1, 2, 7, 14)
"""Lags, in days, of the hierarchical copula's autoregression, which also uses the mean of `MEMORY` days."""
MEMORY = 28
HARMONICS = 2
MAX_SEASON = 0.95
"""Largest share of the variance of a household's scores that its season takes."""


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
            # Far beyond the values of any stable household: keeps an unlucky draw of persistence from diverging.
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
        # Scores have variance 1, so the season determines the variance of the rest; drawn apart, they would not fit.
        share = 1 - np.minimum(course.var(axis=2, keepdims=True), MAX_SEASON)
        course += rest * np.sqrt(share / (rest**2).mean(axis=2, keepdims=True))
        ranks = course.argsort(axis=2).argsort(axis=2)
        laws = np.clip(self.law_pca.inverse_transform(drawn["law"]), *self.law_range)
        # Drawn components need not give an ascending function; sorting leaves fewer plateaus than a running maximum.
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
            # Otherwise a steep law with a high level would draw more power than any connection carries.
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
