"""The invertible scaler: a series as a short vector of household numbers and a residual of unit size.

    values  --ranks-->  normal scores  =  habit + loading * common course + spread * residual
            --sort--->  zero share, and level and quantile function of the non-zero values

The *household numbers* (level, quantile function, peak, habit, loading, spread, rhythm) describe a series except for
the order of its days; the *residual* holds that order. A new series is made from drawn numbers and a drawn residual.
The way back uses only the rank order of the scores, so level, peaks and load factor are right by construction. The
spectrum is right because values are reordered until they have it (`ttsgan.data.spectrum`). Everything is fitted on
training series. The *common course* is what all training series of the same dates share (weather, holidays); new series
get a guess of it that hides its members (`ttsgan.data.common_course`).

Axis letters: B series, C channels, T time steps, S slots of a day, F coefficients, H household numbers,
Q points of a quantile function.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ttsgan.config import HouseholdConfig
from ttsgan.data import calendar, low_times, marginals, quantiles, readings, spectrum
from ttsgan.data.common_course import common_courses
from ttsgan.data.habits import Habits
from ttsgan.errors import DataError, NotFittedError
from ttsgan.extremes import bounds
from ttsgan.seeds import digest_of, seed_of

STATE = frozenset(
    (
        *("shape", "signs", "grid", "resolution", "most_repeats", "most_zeros", "peak_low", "peak_high", "peak_over"),
        *("lowest", "highest", "least_rise", "logq_low", "logq_high", "usual_level", "usual_above", "usual_logq"),
        *(f"{name}_{part}" for name in ("quantile", "habit", "spread") for part in ("mean", "axes")),
        *("common_start", "common_course", "common_guess"),
    )
)
"""Names of the fitted arrays; ``low_times`` is optional and not listed."""
SPREAD_COMPONENTS = 4
MAX_REGULAR = 0.95
"""Largest share of a new series' score variance for habit and common course; the residual keeps at least the rest, or
its drawn variance if that is smaller."""


@dataclass(frozen=True)
class Scaled:
    """Series in the scaled space.

    Attributes
    ----------
    scores : ndarray (B, C, T), float32
        Normal scores; 0 where a value is missing; all zeros of a series (`marginals.is_zero`) have one score.
    residual : ndarray (B, C, T), float32
        (score - habit - loading * common course) / spread; gaps are interpolated linearly.
    regular : ndarray (B, C, T), float32
        (habit + loading * common course) / spread: the regular part, on the scale of the residual.
    observed : ndarray (B, C, T), bool
        True where a value is observed.
    numbers : ndarray (B, H), float32
        Household numbers; `SeriesScaler.layout` gives the position of each kind.
    """

    scores: NDArray[np.float32]
    residual: NDArray[np.float32]
    regular: NDArray[np.float32]
    observed: NDArray[np.bool_]
    numbers: NDArray[np.float32]


class SeriesScaler:
    """Scaler that is fitted on training series and turns series into `Scaled` and back.

    Parameters
    ----------
    config : HouseholdConfig
        Numbers of components to keep.
    step_seconds : int
        Spacing of the points, seconds.
    """

    def __init__(self, config: HouseholdConfig, step_seconds: int) -> None:
        self.config = config
        self.step_seconds = step_seconds
        self.num_slots = calendar.slots_per_day(step_seconds)
        self.state: dict[str, NDArray] = {}

    # ---- fitting ---------------------------------------------------------------------------------------------------

    def fit(
        self, values: NDArray[np.float32], starts: NDArray, seed: int = 0, entities: NDArray | None = None
    ) -> "SeriesScaler":
        """Fit on training series.

        Parameters
        ----------
        values : ndarray (B, C, T), float32, physical units, NaN where missing
        starts : ndarray (B,), datetime64
        seed : int
            Seed of the order of tied values and of the distributions drawn for absent parts. The noise on the common
            course depends on the values alone.
        entities : ndarray (B,), str, optional
            Entity of each series; by default each series is its own. An entity counts once in the common course,
            however many series it has.

        Raises
        ------
        DataError
            If there are fewer than 3 series, one cannot be used (`quantiles.informative`), or a channel is always zero.
        """
        if len(values) < 3:
            raise DataError(f"the scaler was given {len(values)} training series; at least 3 are needed")
        usable = quantiles.informative(values)
        if not usable.all():
            row = int(np.flatnonzero(~usable)[0])
            raise DataError(f"training series {row} is constant or wholly missing in a channel; set it aside first")
        if not (used := quantiles.used_channels(values)).all():
            raise DataError(f"channel {int(np.argmin(used))} is zero in every training series; leave it out")
        channels, length = values.shape[1:]
        owners = np.arange(len(values)) if entities is None else entities
        signs = marginals.find_signs(values, owners)
        self.state = {
            "grid": quantiles.score_grid(length),
            "signs": signs,
            "shape": np.array([channels, length]),
        }
        if (low := low_times.find(values, signs, starts, owners, self.step_seconds)).any():
            self.state["low_times"] = low
        self.state["resolution"] = np.array([readings.find_resolution(values[:, c]) for c in range(channels)])
        self.state["most_repeats"] = bounds(readings.repeat_share(values), owners)[1]
        self.state["lowest"], self.state["highest"] = marginals.find_caps(values, signs, owners)
        found = marginals.measure(values, signs, self.state["grid"])
        self.state |= marginals.limits(found, owners, self.state["grid"])
        self._fit_components("quantile", self._marginals(values, seed).log_quantiles, self.config.quantile_components)
        observed = ~np.isnan(values)
        scores = np.where(observed, self._scores(values, seed), 0.0)
        habit_BF = self._habits.coefficients(scores, observed, starts)
        self._fit_components("habit", habit_BF, self.config.habit_components)
        rest = scores - self._habit(self._project("habit", habit_BF), starts)
        # The noise is seeded by the series: nobody without them can redraw and subtract it, and runs with other seeds
        # do not average it away.
        hidden = seed_of("common course", digest_of(np.ascontiguousarray(values)))
        for name, of_dates in common_courses(rest, observed, starts, owners, hidden).items():
            self.state[f"common_{name}"] = of_dates
        rest -= self._loading(rest, observed, starts)[..., None] * self._common(starts)
        self._fit_components("spread", self._log_spread(rest, observed, starts), SPREAD_COMPONENTS)
        return self

    def _fit_components(self, name: str, rows_BF: NDArray, count: int) -> None:
        from sklearn.decomposition import PCA  # imported late: it takes two seconds, and only fitting needs it

        count = min(count, *rows_BF.shape, len(rows_BF) - 1)
        # With one-minute slots and a few hundred series, the covariance matrix would take gigabytes.
        solver = "covariance_eigh" if rows_BF.shape[1] <= 4 * len(rows_BF) else "full"
        pca = PCA(n_components=count, svd_solver=solver).fit(rows_BF)
        self.state[f"{name}_mean"] = pca.mean_
        # Memory layout of a loaded state: products in another layout differ in the last digit, which may break ties.
        self.state[f"{name}_axes"] = np.ascontiguousarray(pca.components_)

    # ---- there and back --------------------------------------------------------------------------------------------

    @property
    def layout(self) -> dict[str, slice]:
        """Position of each kind of household number in the vector of them."""
        if not self.state:
            raise NotFittedError("the scaler has not been fitted; call fit first")
        channels = int(self.state["shape"][0])
        sizes = dict.fromkeys(("level", "zero_share", "peak"), len(marginals.whole(self.state["signs"])))
        sizes |= {"repeats": channels}
        sizes |= {name: len(self.state[f"{name}_axes"]) for name in ("quantile", "habit", "spread")}
        sizes |= {"loading": channels, "contrast": channels, "jump": channels}
        sizes |= {"density": channels * self._bands.shape[1]}
        ends = np.cumsum(list(sizes.values()))
        return {name: slice(int(end - size), int(end)) for (name, size), end in zip(sizes.items(), ends, strict=True)}

    @property
    def num_numbers(self) -> int:
        """Length H of the vector of household numbers."""
        return self.layout["density"].stop

    def transform(self, values: NDArray[np.float32], starts: NDArray, seed: int = 0) -> Scaled:
        """Return the scaled form of series (B, C, T) in physical units.

        Raises
        ------
        DataError
            If the channels or the length differ from the fitted ones.
        """
        layout = self.layout
        if tuple(values.shape[1:]) != tuple(self.state["shape"]):
            wanted = tuple(int(n) for n in self.state["shape"])
            raise DataError(f"series have {values.shape[1:]} (channels, points); the scaler was fitted on {wanted}")
        observed = ~np.isnan(values)
        found = self._marginals(values, seed)
        scores = np.where(observed, self._scores(values, seed), 0.0)
        numbers = np.zeros((len(values), self.num_numbers))
        numbers[:, layout["level"]], numbers[:, layout["zero_share"]] = found.level, found.zero_share
        numbers[:, layout["peak"]] = found.peak - self.state["peak_over"] * found.level
        numbers[:, layout["repeats"]] = np.log(readings.repeat_share(values))
        numbers[:, layout["quantile"]] = self._project("quantile", found.log_quantiles)
        numbers[:, layout["habit"]] = self._project("habit", self._habits.coefficients(scores, observed, starts))
        rest = scores - self._habit(numbers[:, layout["habit"]], starts)
        numbers[:, layout["loading"]] = self._loading(rest, observed, starts)
        rest -= numbers[:, layout["loading"], None] * self._common(starts)
        numbers[:, layout["spread"]] = self._project("spread", self._log_spread(rest, observed, starts))
        spread = self._spread(numbers[:, layout["spread"]], starts)
        residual, regular = rest / spread, (scores - rest) / spread
        complete = spectrum.fill_by_week(values, self.step_seconds)
        for start in np.unique(starts):
            rows = starts == start
            rhythm = spectrum.measure(complete[rows], self._bands, self._dates(start))
            numbers[rows, layout["contrast"]], numbers[rows, layout["jump"]] = rhythm.contrast, rhythm.jump
            numbers[rows, layout["density"]] = rhythm.log_density.reshape(rows.sum(), -1)
        _bridge_gaps(residual, observed)
        years = (year.astype(np.float32) for year in (scores, residual, regular))
        return Scaled(*years, observed, numbers.astype(np.float32))

    def regular(self, numbers: NDArray, starts: NDArray, before: int = 0) -> NDArray[np.float32]:
        """Return the regular part (B, C, ``before`` + T), as in `Scaled`, of new series with these numbers (B, H).

        The common course is the one for new series; it is taken as 0 in the ``before`` points before each series.
        """
        numbers = np.asarray(numbers, dtype=np.float64)
        course = self._course(numbers, starts, before)
        return (course / self._spread(numbers[:, self.layout["spread"]], starts, before)).astype(np.float32)

    def compose_scores(self, residual: NDArray, numbers: NDArray, starts: NDArray) -> NDArray[np.float32]:
        """Return the scores (B, C, T) of new series from drawn residuals (B, C, T) and drawn numbers (B, H).

        Residuals and numbers that are drawn separately do not match. So the residual is rescaled to the score variance
        that habit and common course leave; the total is about 1 for series without zeros. Then the scores are moved
        until the values in their order have the rhythm in the numbers. The common course is the one for new series.
        """
        layout, numbers = self.layout, np.asarray(numbers, dtype=np.float64)
        course = self._course(numbers, starts)
        rest = residual * self._spread(numbers[:, layout["spread"]], starts)
        sorted_BCT = self._sorted_values(numbers)
        normal_BCT = quantiles.with_one_score(quantiles.plotting_scores(rest.shape[2]), self._zero(sorted_BCT))
        whole, regular, drawn = (np.var(x, axis=2, keepdims=True) for x in (normal_BCT, course, rest))
        left = np.maximum(whole - regular, np.minimum((1 - MAX_REGULAR) * whole, drawn))
        scores = course + rest * np.sqrt(left / np.maximum(drawn, 1e-9))
        density = numbers[:, layout["density"]].reshape(*scores.shape[:2], -1)
        wanted = spectrum.Rhythm(numbers[:, layout["contrast"]], numbers[:, layout["jump"]], density)
        for start in np.unique(starts):
            rows = starts == start
            part = spectrum.Rhythm(*(figure[rows] for figure in wanted))
            settled = partial(self._settled, sorted_BCT=sorted_BCT[rows], start=start)
            scores[rows] = spectrum.with_rhythm(
                scores[rows], sorted_BCT[rows], part, self._bands, self._dates(start), settled
            )
        return quantiles.place(scores, normal_BCT).astype(np.float32)

    def _settled(self, scores_BCT: NDArray, sorted_BCT: NDArray, start: np.datetime64) -> NDArray:
        """Return the scores of series that begin at ``start``, moved so that low values fall in their cells."""
        if "low_times" not in self.state:
            return scores_BCT
        cell_T = low_times.cells_of(start, scores_BCT.shape[2], self.step_seconds)
        when_CT = self.state["low_times"][:, cell_T]
        return low_times.low_first(scores_BCT, sorted_BCT, self.state["signs"], when_CT)

    def _course(self, numbers: NDArray, starts: NDArray, before: int = 0) -> NDArray:
        """Return habit and common course (B, C, ``before`` + T) of new households with these numbers."""
        course = self._habit(numbers[:, self.layout["habit"]], starts, before)
        course[..., before:] += numbers[:, self.layout["loading"], None] * self._common(starts, "common_guess")
        return course

    def inverse(self, scores: NDArray, numbers: NDArray) -> NDArray[np.float32]:
        """Return series (B, C, T) in physical units: the values that ``numbers`` give, in the order of ``scores``."""
        values = quantiles.place(scores, self._sorted_values(np.asarray(numbers, dtype=np.float64)))
        share = np.exp(numbers[:, self.layout["repeats"]].astype(np.float64))
        count = np.rint(np.minimum(share, self.state["most_repeats"]) * values.shape[2] - 0.5).astype(np.int64)
        for c, step in enumerate(self.state["resolution"]):
            values[:, c] = readings.with_repeats(readings.rounded(values[:, c], step), count[:, c])
        return values.astype(np.float32)

    def _sorted_values(self, numbers: NDArray) -> NDArray[np.float64]:
        """Return the values (B, C, T) that ``numbers`` give, in physical units and rising order."""
        layout, state = self.layout, self.state
        logq_BF = numbers[:, layout["quantile"]] @ state["quantile_axes"] + state["quantile_mean"]
        level_BP, zero_BP, peak_BP = (numbers[:, layout[name]] for name in ("level", "zero_share", "peak"))
        peak_BP = peak_BP + state["peak_over"] * level_BP
        return marginals.rising(marginals.Marginals(level_BP, zero_BP, peak_BP, logq_BF), state)

    def level(self, numbers: NDArray) -> NDArray:
        """Return the mean absolute value (B,), averaged over channels, that household numbers give."""
        level_BP, zero_BP = numbers[:, self.layout["level"]], numbers[:, self.layout["zero_share"]]
        return marginals.mean_size(level_BP, zero_BP, self.state).mean(axis=1)

    def kinds(self, numbers: NDArray) -> NDArray[np.int64]:
        """Return a code (B,) for the kind of household: whether its channels have values above and below zero.

        Only channels of kind `marginals.BOTH` count; without any, the code is 0 for all.
        """
        return marginals.kinds(numbers[:, self.layout["zero_share"]], self.state)

    def to_bytes(self) -> bytes:
        """Return the fitted state as a safetensors file."""
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in self.state.items()})

    @classmethod
    def from_bytes(cls, data: bytes, config: HouseholdConfig, step_seconds: int) -> "SeriesScaler":
        """Return the scaler that `to_bytes` wrote; `DataError` if another version of ttsgan wrote it."""
        scaler = cls(config, step_seconds)
        scaler.state = safetensors.numpy.load(data)
        if other := STATE.symmetric_difference(scaler.state) - {"low_times"}:
            raise DataError(f"the scaler is of another version of ttsgan ({', '.join(sorted(other))}); train again")
        return scaler

    # ---- the parts -------------------------------------------------------------------------------------------------

    def _marginals(self, values: NDArray, seed: int) -> marginals.Marginals:
        found = marginals.measure(values, self.state["signs"], self.state["grid"])
        return marginals.completed(found, values, self.state, seed)

    def _scores(self, values: NDArray, seed: int) -> NDArray[np.float64]:
        flat = quantiles.normal_scores(values.reshape(-1, values.shape[2]), seed)
        return quantiles.with_one_score(flat.reshape(values.shape).astype(np.float64), self._zero(values))

    def _zero(self, values: NDArray) -> NDArray[np.bool_]:
        return marginals.is_zero(values, self.state["signs"])

    def _project(self, name: str, rows_BF: NDArray) -> NDArray:
        return (rows_BF - self.state[f"{name}_mean"]) @ self.state[f"{name}_axes"].T

    @property
    def _habits(self) -> Habits:
        return Habits(int(self.state["shape"][1]), self.step_seconds, self.num_slots)

    def _habit(self, components: NDArray, starts: NDArray, before: int = 0) -> NDArray:
        """Return the course (B, C, ``before`` + T) of habits given by their components."""
        channels = int(self.state["shape"][0])
        table = components @ self.state["habit_axes"] + self.state["habit_mean"]
        return self._habits.course(table.reshape(len(components), channels, self.num_slots, -1), starts, before)

    @property
    def _bands(self) -> NDArray[np.float64]:
        return spectrum.bands(int(self.state["shape"][1]), self.step_seconds)

    def _dates(self, start: np.datetime64) -> spectrum.Dates:
        return spectrum.Dates.of(start, int(self.state["shape"][1]), self.step_seconds)

    def _common(self, starts: NDArray, which: str = "common_course") -> NDArray:
        """Return the common course (B, C, T) for the start of each series; zero for a start without a course."""
        seconds = starts.astype("datetime64[s]").astype(np.int64)
        known, course = self.state["common_start"], self.state[which]
        out = np.zeros((len(starts), *self.state["shape"]))
        for index, first in enumerate(known):
            out[seconds == first] = course[index]
        return out

    def _loading(self, rest: NDArray, observed: NDArray, starts: NDArray) -> NDArray:
        common = self._common(starts) * observed
        size = (common * common).sum(axis=2)
        return (rest * common).sum(axis=2) / (size + 1e-3 * rest.shape[2])

    def _log_spread(self, rest: NDArray, observed: NDArray, starts: NDArray) -> NDArray:
        """Return the log standard deviation of ``rest`` in each slot of the day (B, C*S)."""
        out = np.empty((*rest.shape[:2], self.num_slots))
        for start in np.unique(starts):
            rows, slot_T = starts == start, self._habits.slots(start)
            for s in range(self.num_slots):
                seen = observed[rows][:, :, slot_T == s]
                square = (np.square(rest[rows][:, :, slot_T == s]) * seen).sum(axis=2)
                out[rows, :, s] = 0.5 * np.log((square + 0.1) / (seen.sum(axis=2) + 1))
        return out.reshape(len(rest), -1)

    def _spread(self, components: NDArray, starts: NDArray, before: int = 0) -> NDArray:
        table = np.exp(components @ self.state["spread_axes"] + self.state["spread_mean"])
        channels, length = (int(n) for n in self.state["shape"])
        table = table.reshape(len(components), channels, self.num_slots)
        out = np.empty((len(components), channels, before + length))
        for start in np.unique(starts):
            rows = starts == start
            out[rows] = table[rows][:, :, self._habits.slots(start, before)]
        return out


def _bridge_gaps(residual: NDArray, observed: NDArray) -> None:
    """Replace missing residuals by linear interpolation between observed ones, in place."""
    for b, c in zip(*np.nonzero(~observed.all(axis=2)), strict=True):
        seen = np.flatnonzero(observed[b, c])
        residual[b, c] = np.interp(np.arange(residual.shape[2]), seen, residual[b, c, seen])
