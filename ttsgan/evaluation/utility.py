"""What synthetic series are good for: models trained on them and tested on real ones, beside models trained on real ones.

Every task is learned twice with the same recipe and the same numbers of series and examples: once from synthetic
series (*TSTR*, train on synthetic, test on real), once from real training series (*TRTR*). Both are tested on the same
examples of holdout entities, which neither has seen. The ratio of the errors is what a user loses by not having the
real series. A second real sample would not give exactly 1 either: ``ratio_noise`` says how far the ratio strays
between two halves of the real training series.

A forecast sees the past week divided by its own mean absolute value, so the size of homes, which other metrics judge,
does not enter. Inputs and targets are compressed by asinh: least squares then aims near the median, which is what a
mean absolute error asks for, and no single odd home decides the fit.

Axes: n series, C channels, D days, S slots of a day (at most 24), N examples (one day of one series), F inputs,
Y targets, E entities.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor

from ttsgan.evaluation.judged import Judged, check_comparable

PAST_DAYS = 7
EXAMPLES = 8192
"""Most training examples of a side and channel, spread over its series."""
TESTED = 16_384
"""Most holdout examples of a forecast and channel, spread over the series."""
NUM_DRAWS = 3
"""Draws of series, days and starting values that errors are averaged over."""
MIN_ENTITIES = 8
MIN_EXAMPLES = 64
PEAK_SHARE = 0.1
RESAMPLES = 1000
SMALLEST_ERROR = 1e-3
"""Errors below this count as equal, so that 0 / 0 is 1."""

_STEEPNESS, _LARGEST = 2.0, 6.0
_LEAST_SCALE = 0.25
_RIDGE_ALPHAS = (3.0, 30.0, 300.0, 3000.0)
_HIDDEN, _EPOCHS, _PATIENCE = 32, 25, 3
_HELD_SHARE = 0.2

Predict = Callable[[NDArray[np.float32]], NDArray]


def _compress(x: NDArray) -> NDArray:
    return np.arcsinh(_STEEPNESS * x)


def _expand(z: NDArray) -> NDArray:
    return np.sinh(np.clip(z, -_LARGEST, _LARGEST)) / _STEEPNESS


# ---- examples ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Days:
    """A set cut into days, (n, C, D, S) with gaps and with gaps filled; calendar (n, D, 9); own mean size (n, C)."""

    known: NDArray[np.float32]
    filled: NDArray[np.float32]
    own: NDArray[np.float32]
    calendar: NDArray[np.float32]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, judged: Judged) -> _Days:
        known = judged.days(judged.values)
        filled = judged.days(judged.filled())
        weekday, month = judged.calendar(known.shape[2])
        angle = 2 * np.pi * (month + 0.5) / 12
        year = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        calendar = np.concatenate([np.eye(7)[weekday], year], axis=-1).astype(np.float32)
        return cls(known, filled, np.abs(filled).mean(axis=(2, 3)), calendar, judged.codes)

    def rows(self, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose at most `limit` series, whole entities as far as possible."""
        rank = rng.permutation(self.codes.max() + 1)[self.codes]
        return np.sort(np.argsort(rank, kind="stable")[:limit])

    def halves(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Split rows in two so that no entity is on both sides."""
        entities, inverse = np.unique(self.codes[rows], return_inverse=True)
        side = (rng.permutation(len(entities)) % 2)[inverse]
        return [rows[side == 0], rows[side == 1]]


@dataclass(frozen=True)
class _Examples:
    """Inputs (N, F); truth (N, Y) in physical units or as a label; the naive answer; what undoes the scaling."""

    inputs: NDArray[np.float32]
    truth: NDArray[np.float32]
    naive: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    rows: NDArray[np.int64]
    entities: NDArray[np.int64]

    def take(self, index: NDArray) -> _Examples:
        return _Examples(**{name: value[index] for name, value in vars(self).items()})


def _positions(
    allowed: NDArray[np.bool_], rows: NDArray[np.int64], each: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose at most `each` of the allowed days (n, D) of each of the rows; return rows and days, both (N,)."""
    order = np.where(allowed[rows], rng.random((len(rows), allowed.shape[1])), 2.0)
    days = np.argsort(order, axis=1)[:, :each]
    chosen = np.take_along_axis(allowed[rows], days, axis=1)
    return np.repeat(rows, chosen.sum(axis=1)), days[chosen]


def _enough_past(known: NDArray[np.bool_], horizon: int) -> NDArray[np.bool_]:
    """Days (n, D) with `PAST_DAYS` before them, of which at least half is known, and `horizon` days from them on."""
    count = known.shape[1]
    allowed = np.zeros(known.shape[:2], bool)
    share = np.lib.stride_tricks.sliding_window_view(known.mean(axis=2), PAST_DAYS, axis=1).mean(axis=-1)
    last = count - horizon + 1
    allowed[:, PAST_DAYS:last] = share[:, : last - PAST_DAYS] >= 0.5
    return allowed


def _forecast_examples(
    horizon: int,
    side: _Days,
    channel: int,
    rows: NDArray[np.int64],
    each: int,
    rng: np.random.Generator,
    testing: bool = False,
) -> _Examples:
    """Past week -> slots of the next day (horizon 1), or mean of each of the next `horizon` days.

    An example to learn from has a complete truth; one to be tested on has at least one reading, NaN elsewhere.
    """
    x, filled, own = side.known[:, channel], side.filled[:, channel], side.own[:, channel]
    known = ~np.isnan(x)
    readings = known if horizon == 1 else known.all(axis=2, keepdims=True)
    ahead = np.lib.stride_tricks.sliding_window_view(readings, horizon, axis=1)
    allowed = _enough_past(known, horizon)
    allowed[:, : ahead.shape[1]] &= ahead.any(axis=(2, 3)) if testing else ahead.all(axis=(2, 3))
    if testing:
        allowed[own == 0] = False
    at, day = _positions(allowed, rows, each, rng)
    past = filled[at[:, None], day[:, None] + np.arange(-PAST_DAYS, 0)]
    # an empty house has almost no past week: its return must not count a hundredfold
    scale = np.maximum(np.abs(past).mean(axis=(1, 2)), np.maximum(_LEAST_SCALE * own[at], 1e-12))
    shape = _compress(past / scale[:, None, None])
    future = x[at[:, None], day[:, None] + np.arange(horizon)]
    if horizon == 1:
        truth, naive, centre = future[:, 0], past[:, 0], shape.mean(axis=1)
    else:
        truth, naive = future.mean(axis=2), past.mean(axis=2)[:, :horizon]
        centre = _compress(naive / scale[:, None]).mean(axis=1, keepdims=True)
    inputs = np.concatenate([shape.reshape(len(at), -1), side.calendar[at, day]], axis=1)
    return _Examples(inputs, truth, naive, centre, scale[:, None], at, side.codes[at])


def _peak_examples(
    side: _Days,
    channel: int,
    rows: NDArray[np.int64],
    each: int,
    rng: np.random.Generator,
    testing: bool = False,
) -> _Examples:
    """Past week, over the series' own mean -> whether the day's peak is among its series' highest; tested on all days."""
    x, filled, own = side.known[:, channel], side.filled[:, channel], side.own[:, channel]
    known = ~np.isnan(x)
    complete = known.all(axis=2)
    peaks = np.abs(filled).max(axis=2)
    ordered = np.sort(np.where(complete, peaks, -1.0), axis=1)
    above = np.minimum(np.ceil(PEAK_SHARE * complete.sum(axis=1)).astype(int) + 1, ordered.shape[1])
    label = peaks > np.take_along_axis(ordered, ordered.shape[1] - above[:, None], axis=1)
    at, day = _positions(_enough_past(known, 1) & complete, rows, x.shape[1] if testing else each, rng)
    week = day[:, None] + np.arange(-PAST_DAYS, 0)
    scale = np.maximum(own[at], 1e-12)[:, None]
    past = [peaks[at[:, None], week], np.abs(filled).mean(axis=2)[at[:, None], week], filled[at, day - 1]]
    inputs = np.concatenate([*(_compress(part / scale) for part in past), side.calendar[at, day]], axis=1)
    truth, naive = label[at, day].astype(np.float32), peaks[at, day - PAST_DAYS]
    return _Examples(inputs, truth[:, None], naive[:, None], np.zeros_like(scale), scale, at, side.codes[at])


# ---- models ------------------------------------------------------------------------------------------------------


def _ridge(x: NDArray, y: NDArray, held: NDArray[np.bool_], seed: int) -> Predict:
    """Linear model whose penalty is chosen on held-out entities of its own side."""
    errors = [np.abs(Ridge(alpha).fit(x[~held], y[~held]).predict(x[held]) - y[held]).mean() for alpha in _RIDGE_ALPHAS]
    return Ridge(_RIDGE_ALPHAS[int(np.argmin(errors))]).fit(x, y).predict


def _mlp(x: NDArray, y: NDArray, held: NDArray[np.bool_], seed: int) -> Predict:
    """One hidden layer, stopped where held-out entities of its own side are forecast best."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 0.05
    inside, outside = (x[~held] - mean) / spread, (x[held] - mean) / spread
    model = MLPRegressor(
        hidden_layer_sizes=(_HIDDEN,), alpha=0.1, batch_size=128, learning_rate_init=1e-3, random_state=seed
    )
    best, waited, kept = np.inf, 0, None
    for _ in range(_EPOCHS):
        model.partial_fit(inside, y[~held])
        error = np.abs(model.predict(outside) - y[held]).mean()
        waited += 1
        if error < best:
            best, waited, kept = error, 0, ([w.copy() for w in model.coefs_], [b.copy() for b in model.intercepts_])
        if waited == _PATIENCE:
            break
    model.coefs_, model.intercepts_ = kept
    return lambda inputs: model.predict((inputs - mean) / spread)


def _logistic(x: NDArray, y: NDArray, held: NDArray[np.bool_], seed: int) -> Predict:
    """Score of a peak day; without both kinds of day nothing can be learned, and all days score alike."""
    labels = y[:, 0] > 0.5
    if labels.all() or not labels.any():
        return lambda inputs: np.zeros(len(inputs))
    return LogisticRegression(C=0.1, max_iter=500).fit(x, labels).decision_function


# ---- errors ------------------------------------------------------------------------------------------------------


def _forecast_error(test: _Examples, answer: NDArray, own: NDArray) -> NDArray[np.float64]:
    """Mean absolute error of each series over its own mean absolute value, (n,); NaN where nothing was tested."""
    count = len(own)
    miss = np.abs(answer - test.truth).astype(np.float64)
    known = ~np.isnan(miss)
    total = np.bincount(test.rows, np.where(known, miss, 0).sum(axis=1), count)
    readings = np.bincount(test.rows, known.sum(axis=1), count)
    return np.where(readings > 0, total, np.nan) / np.maximum(readings, 1) / np.where(own > 0, own, 1)


def _ranking_error(test: _Examples, answer: NDArray, own: NDArray) -> NDArray[np.float64]:
    """1 - AUC of each series among its own days, (n,); NaN where all tested days are of one kind."""
    errors = np.full(len(own), np.nan)
    for row in np.unique(test.rows):
        inside = test.rows == row
        label = test.truth[inside, 0] > 0.5
        positive, negative = label.sum(), (~label).sum()
        if positive and negative:
            ranks = rankdata(answer[inside])
            errors[row] = 1 - (ranks[label].sum() - positive * (positive + 1) / 2) / (positive * negative)
    return errors


# ---- tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """What is asked of a model: examples, the recipes that learn from them, and whether an answer is a forecast."""

    name: str
    min_days: int
    examples: Callable[..., _Examples]
    models: dict[str, Callable[..., Predict]]
    forecast: bool
    unit: str
    sees: str
    blind_to: str

    def learn(self, fit: Callable[..., Predict], examples: _Examples, rng: np.random.Generator) -> Predict:
        """Fit a model; some of the side's own entities are held out for its settings."""
        entities, inverse = np.unique(examples.entities, return_inverse=True)
        held = rng.permutation(len(entities))[inverse] < max(1, round(_HELD_SHARE * len(entities)))
        targets = examples.truth
        if self.forecast:
            targets = _compress(targets / examples.scale) - examples.centre
        return fit(examples.inputs, targets, held, int(rng.integers(2**31)))

    def answer(self, predict: Predict, test: _Examples) -> NDArray:
        """Return forecasts (N, Y) in physical units, or scores (N,)."""
        raw = predict(test.inputs)
        return _expand(raw + test.centre) * test.scale if self.forecast else raw

    def errors(self, test: _Examples, answer: NDArray, own: NDArray) -> NDArray[np.float64]:
        """Return the error of each series (n,), NaN where nothing could be tested."""
        return (_forecast_error if self.forecast else _ranking_error)(test, answer, own)

    def naive_errors(self, test: _Examples, own: NDArray) -> NDArray[np.float64]:
        """Return the error of each series (n,) of the answer "as a week before"."""
        return self.errors(test, test.naive if self.forecast else test.naive[:, 0], own)


TASKS = (
    _Task(
        "day ahead", 15, partial(_forecast_examples, 1), {"ridge": _ridge, "MLP": _mlp}, True, "share of the mean",
        "what the past week says of the next day, hour by hour", "size of homes, copying",
    ),
    _Task(
        "week ahead", 21, partial(_forecast_examples, PAST_DAYS), {"ridge": _ridge, "MLP": _mlp}, True,
        "share of the mean", "memory of daily energy from week to week", "hours of the day, size of homes, copying",
    ),
    _Task(
        "peak day", 30, _peak_examples, {"logistic": _logistic}, False, "1 - AUC",
        "what announces the highest days of a home", "height of the peaks, copying",
    ),
)  # fmt: skip
"""Week ahead asks for daily energy, since 7 days of slots would mostly repeat the day-ahead task."""


def _run(task: _Task, train: _Days, holdout: _Days, synthetic: _Days, rng: np.random.Generator) -> list[dict]:
    """Learn and test one task on all channels; return one entry per model, none where examples are too few."""
    count, channels = len(holdout.codes), holdout.known.shape[1]
    everyone = np.arange(count)
    each = max(1, TESTED // count)
    tests = [task.examples(holdout, c, everyone, each, rng, testing=True) for c in range(channels)]
    num = min(len(train.codes), len(synthetic.codes))
    errors = {model: np.empty((NUM_DRAWS, 4, channels, count)) for model in task.models}
    for draw in range(NUM_DRAWS):
        rows = train.rows(num, rng)
        sources = [(synthetic, synthetic.rows(num, rng)), (train, rows), *((train, h) for h in train.halves(rows, rng))]
        for c, test in enumerate(tests):
            sets = [task.examples(side, c, chosen, max(1, EXAMPLES // num), rng) for side, chosen in sources]
            sizes = np.repeat([min(len(a.rows), len(b.rows)) for a, b in (sets[:2], sets[2:])], 2)
            if sizes.min() < MIN_EXAMPLES:
                return []
            sets = [part.take(rng.permutation(len(part.rows))[:size]) for part, size in zip(sets, sizes, strict=True)]
            for (model, fit), (i, part) in itertools.product(task.models.items(), enumerate(sets)):
                answer = task.answer(task.learn(fit, part, rng), test)
                errors[model][draw, i, c] = task.errors(test, answer, holdout.own[:, c])
    naive = np.stack([task.naive_errors(test, holdout.own[:, c]) for c, test in enumerate(tests)])
    tested = ~np.isnan(naive)
    weight = tested / np.maximum(tested.sum(axis=0), 1)
    kept = tested.any(axis=0)
    entities = np.unique(holdout.codes[kept], return_inverse=True)[1]
    if len(np.unique(entities)) < MIN_ENTITIES:
        return []

    def by_entity(per_channel: NDArray) -> NDArray:
        """Average errors (..., C, n) over channels, then over the series of each entity: (..., E)."""
        per_series = (np.where(tested, per_channel, 0) * weight).sum(axis=-2)[..., kept]
        sums = np.eye(entities.max() + 1)[entities]
        return per_series @ sums / sums.sum(axis=0)

    return [_entry(task, model, by_entity(e), float(by_entity(naive).mean()), rng) for model, e in errors.items()]


def _entry(task: _Task, model: str, errors: NDArray[np.float64], naive: float, rng: np.random.Generator) -> dict:
    """Turn errors (draws, 4, E) of models trained on synthetic, real and two halves of real series into an entry."""
    pair = errors[:, :2].mean(axis=0)
    num = pair.shape[1]
    resampled = rng.multinomial(num, np.full(num, 1 / num), RESAMPLES) @ pair.T / num

    def ratio(values: NDArray) -> NDArray:
        return np.divide(*np.moveaxis(np.maximum(values, SMALLEST_ERROR), -1, 0))

    low, high = np.quantile(ratio(resampled), [0.025, 0.975])
    between_halves = np.log(ratio(errors[:, 2:].mean(axis=2)))
    distance, floor = (float(value) for value in pair.mean(axis=1))
    return {
        "family": "utility", "name": f"{task.name}, {model}", "distance": distance, "floor": floor,
        "ratio": float(ratio(pair.mean(axis=1))), "low": float(low), "high": float(high), "unit": task.unit,
        "in_headline": False, "sees": task.sees, "blind_to": task.blind_to, "naive": naive,
        "beats_naive": floor < naive, "ratio_noise": float(np.sqrt((between_halves**2).mean())),
    }  # fmt: skip


def utility_entries(
    train: Judged, holdout: Judged, synthetic: Judged, *, seed: int, max_series: int
) -> list[dict[str, object]]:
    """Compare models trained on synthetic series with models trained on real ones, on holdout entities.

    Parameters
    ----------
    train, holdout, synthetic : Judged
        Sets of the same channels, length, step and unit; train and holdout share no entity. NaN allowed.
    seed : int
        Choice of series and days, starting values of models, bootstrap.
    max_series : int
        Most series of each set that are used, >= 1.

    Returns
    -------
    list of dict
        One entry per task and model, of plain Python values. ``distance`` is the error of the model trained on
        synthetic, ``floor`` that of the one trained on real series, ``naive`` that of the answer "as a week
        before", all averaged over channels, then series of an entity, then entities; ``ratio`` is distance over
        floor with its 95 % interval ``low`` to ``high`` (paired bootstrap over holdout entities), and
        ``ratio_noise`` the root mean square of the log ratio between models trained on two halves of the real
        training series. Where ``beats_naive`` is False, the model learns nothing of use even from real series,
        and its ratio says nothing. Empty where a set has no clock, fewer than 8 entities or less than 15 days;
        a task that needs more days, or finds too few days without gaps, is left out.

    Raises
    ------
    DataError
        If the sets cannot be compared.

    Notes
    -----
    Cost: about ?? CPU-seconds for 400 series a side of 2,190 points, and ?? of 8,760 points.
    """
    check_comparable(train=train, holdout=holdout, synthetic=synthetic)
    if not train.has_clock:
        return []
    rng = np.random.default_rng([seed, 7])
    sides = []
    for judged in (train, holdout, synthetic):
        usable = ~judged.usable()[0]
        if len(np.unique(judged.entities[usable])) < MIN_ENTITIES:
            return []
        sides.append(_Days.of(judged.take(usable).sample_entities(max_series, rng)))
    num_days = min(side.known.shape[2] for side in sides)
    entries = []
    for task in TASKS:
        if num_days >= task.min_days:
            entries += _run(task, *sides, rng)
    return entries
