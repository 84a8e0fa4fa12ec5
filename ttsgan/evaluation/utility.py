"""Utility: models trained on synthetic series and tested on real ones, beside models trained on real series.

Every task is learned twice with the same recipe and the same numbers of series and examples: once from synthetic
series (*TSTR*, train on synthetic, test on real), once from real training series (*TRTR*). Both are tested on the same
examples of holdout entities, which neither has seen. The ratio of the test errors is the loss from not having the real
series. A second real sample would not give exactly 1 either: ``ratio_noise`` measures how far the ratio varies between
two halves of the real training series.

A forecast sees the past week divided by its own mean absolute value, so the size of homes, which other metrics judge,
does not enter. Inputs and targets are compressed by asinh: least squares then aims near the median, which is what
minimises a mean absolute error, and no single odd home dominates the fit.

Axes: n series, C channels, L time steps, D days, S slots of a day (at most 24), N examples (one day of one series),
F inputs, Y targets, E entities.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor

from ttsgan.evaluation.judged import Judged, check_comparable, draw_rows

PAST_DAYS = 7
EXAMPLES, TESTED = 8192, 16_384
"""Largest number of examples per channel to train on, and to test a forecast on, spread over the series."""
NUM_DRAWS = 3
"""Number of draws of series, days and starting values over which errors are averaged."""
MIN_ENTITIES, MIN_EXAMPLES = 8, 64
PEAK_SHARE = 0.1
RESAMPLES = 1000
SMALLEST_ERROR = 1e-3
"""Errors below this count as equal, so that 0 / 0 is 1."""

_STEEPNESS, _LARGEST = 2.0, 6.0
_LEAST_SCALE = 0.25
_HELD_SHARE = 0.2
_RIDGE_PENALTIES = (3.0, 30.0, 300.0, 3000.0)
_EPOCHS, _PATIENCE = 25, 3

Predict = Callable[[NDArray[np.float32]], NDArray]


def _compress(x: NDArray) -> NDArray:
    return np.arcsinh(_STEEPNESS * x)


def _expand(z: NDArray) -> NDArray:
    return np.sinh(np.clip(z, -_LARGEST, _LARGEST)) / _STEEPNESS


# ---- examples ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One channel of a set, cut into days.

    ``days`` (n, D, S) with gaps and ``filled`` without, physical units; ``own`` (n,) mean absolute value; ``calendar``
    (n, D, 9): weekday one-hot, and the month as a point on a circle; ``codes`` (n,) number of the entity.
    """

    days: NDArray[np.float32]
    filled: NDArray[np.float32]
    own: NDArray[np.float32]
    calendar: NDArray[np.float32]
    codes: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.days)

    def halves(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Split rows in two so that no entity is in both."""
        entities, inverse = np.unique(self.codes[rows], return_inverse=True)
        half = (rng.permutation(len(entities)) % 2)[inverse]
        return [rows[half == 0], rows[half == 1]]


@dataclass(frozen=True)
class _Examples:
    """Inputs (N, F), truth (N, Y) in physical units or as 0 / 1, naive prediction, and centre and scale to undo."""

    inputs: NDArray[np.float32]
    truth: NDArray[np.float32]
    naive: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    rows: NDArray[np.int64]
    entities: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> "_Examples":
        return _Examples(**{name: value[index] for name, value in vars(self).items()})


_Sides = list[_Side]


def _channels(judged: Judged) -> _Sides:
    days, filled = judged.days(judged.values), judged.days(judged.filled())
    weekday, month = judged.calendar(days.shape[2])
    angle = 2 * np.pi * (month[..., None] + 0.5) / 12
    calendar = np.concatenate([np.eye(7)[weekday], np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)
    own = np.abs(filled).mean(axis=(2, 3))
    return [_Side(days[:, c], filled[:, c], own[:, c], calendar, judged.codes) for c in range(days.shape[1])]


def _after_a_week(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which days (n, D) follow `PAST_DAYS` days in which at least half of the slots are known."""
    share = sliding_window_view(known.mean(axis=2), PAST_DAYS, axis=1).mean(axis=-1)
    return np.pad(share[:, :-1] >= 0.5, ((0, 0), (PAST_DAYS, 0)))


def _positions(allowed: NDArray[np.bool_], each: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Choose at most `each` of the allowed days (n, D) of every series; return rows and days, both (N,)."""
    days = np.argsort(np.where(allowed, rng.random(allowed.shape), 2.0), axis=1)[:, :each]
    chosen = np.take_along_axis(allowed, days, axis=1)
    return np.nonzero(chosen)[0], days[chosen]


def _forecast_examples(
    horizon: int, side: _Side, rows: NDArray, each: int, rng: np.random.Generator, testing: bool = False
) -> _Examples:
    """Past week -> slots of the next day (horizon 1), or mean of each of the next `horizon` days.

    Training examples have a complete truth; test examples have at least one known value, NaN elsewhere.
    """
    known = side.known[rows]
    asked = sliding_window_view(known if horizon == 1 else known.all(axis=2, keepdims=True), horizon, axis=1)
    enough = asked.any(axis=(2, 3)) if testing else asked.all(axis=(2, 3))
    allowed = _after_a_week(known) & np.pad(enough, ((0, 0), (0, horizon - 1)))
    place, day = _positions(allowed, each, rng)
    at = rows[place]
    past = side.filled[at[:, None], day[:, None] + np.arange(-PAST_DAYS, 0)]
    # otherwise a home that returns after an empty week would count a hundredfold
    scale = np.maximum(np.abs(past).mean(axis=(1, 2)), np.maximum(_LEAST_SCALE * side.own[at], 1e-12))[:, None]
    shape = _compress(past / scale[:, :, None])
    future = side.days[at[:, None], day[:, None] + np.arange(horizon)]
    if horizon == 1:
        truth, naive, centre = future[:, 0], past[:, 0], shape.mean(axis=1)
    else:
        truth, naive = future.mean(axis=2), past.mean(axis=2)[:, :horizon]
        centre = _compress(naive / scale).mean(axis=1, keepdims=True)
    inputs = np.concatenate([shape.reshape(len(at), PAST_DAYS * shape.shape[2]), side.calendar[at, day]], axis=1)
    return _Examples(inputs, truth, naive, centre, scale, at, side.codes[at])


def _peak_examples(side: _Side, rows: NDArray, each: int, rng: np.random.Generator, testing: bool = False) -> _Examples:
    """Past week over the series' own mean -> is the day's peak among the highest of its series? Tests use every day."""
    complete = side.known.all(axis=2)
    peaks, means = np.abs(side.filled).max(axis=2), np.abs(side.filled).mean(axis=2)
    ordered = np.sort(np.where(complete, peaks, -1.0), axis=1)
    highest = np.ceil(PEAK_SHARE * complete.sum(axis=1)).astype(int)[:, None]
    label = peaks > np.take_along_axis(ordered, np.maximum(ordered.shape[1] - highest - 1, 0), axis=1)
    allowed = (_after_a_week(side.known) & complete)[rows]
    place, day = _positions(allowed, allowed.shape[1] if testing else each, rng)
    at = rows[place]
    week = at[:, None], day[:, None] + np.arange(-PAST_DAYS, 0)
    scale = np.maximum(side.own[at], 1e-12)[:, None]
    past = np.concatenate([peaks[week], means[week], side.filled[at, day - 1]], axis=1)
    inputs = np.concatenate([_compress(past / scale), side.calendar[at, day]], axis=1)
    truth, naive = label[at, day, None].astype(np.float32), peaks[at, day - PAST_DAYS, None]
    return _Examples(inputs, truth, naive, np.zeros_like(scale), scale, at, side.codes[at])


# ---- models: (inputs, targets, mask of held-out examples, seed) -> prediction -----------------------------------


def _ridge(x: NDArray, y: NDArray, held: NDArray[np.bool_], seed: int) -> Predict:
    """Linear model; its penalty is chosen on held-out entities of its own side."""
    fits = [Ridge(penalty).fit(x[~held], y[~held]) for penalty in _RIDGE_PENALTIES]
    errors = [np.abs(fit.predict(x[held]) - y[held]).mean() for fit in fits]
    return Ridge(_RIDGE_PENALTIES[int(np.argmin(errors))]).fit(x, y).predict


def _mlp(x: NDArray, y: NDArray, held: NDArray[np.bool_], seed: int) -> Predict:
    """Neural network with one hidden layer, early-stopped on held-out entities of its own side.

    It is hardly regularised, so it suffers from a lack of variety that a well-chosen ridge penalty hides.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0) + 0.05
    z = (x - mean) / spread
    batch = min(256, int((~held).sum()))
    model = MLPRegressor(
        hidden_layer_sizes=(32,), activation="tanh", alpha=0.1, batch_size=batch, learning_rate_init=3e-3,
        random_state=seed,
    )  # fmt: skip
    best, waited, kept = np.inf, 0, ([], [])
    for _ in range(_EPOCHS):
        model.partial_fit(z[~held], y[~held])
        error, waited = np.abs(model.predict(z[held]) - y[held]).mean(), waited + 1
        if error < best:
            best, waited, kept = error, 0, tuple([a.copy() for a in w] for w in (model.coefs_, model.intercepts_))
        if waited == _PATIENCE:
            break
    model.coefs_, model.intercepts_ = kept
    return lambda inputs: model.predict((inputs - mean) / spread)


def _logistic(x: NDArray, y: NDArray, held: NDArray[np.bool_], seed: int) -> Predict:
    """Log odds of a peak day; where a side has only one class, nothing can be learned and all days score alike."""
    labels = y[:, 0] > 0.5
    if labels.all() or not labels.any():
        return lambda inputs: np.zeros((len(inputs), 1))
    model = LogisticRegression(C=0.1, max_iter=500).fit(x, labels)
    return lambda inputs: model.decision_function(inputs)[:, None]


# ---- errors, (n,), NaN where a series could not be tested -------------------------------------------------------


def _forecast_errors(test: _Examples, answer: NDArray, own: NDArray) -> NDArray[np.float64]:
    """Return each series' mean absolute error over its own mean absolute value; missing readings do not enter."""
    miss = np.abs(answer - test.truth).astype(np.float64)
    known = ~np.isnan(miss)
    total = np.bincount(test.rows, np.where(known, miss, 0).sum(axis=1), len(own))
    readings = np.bincount(test.rows, known.sum(axis=1), len(own))
    divisor = readings * own.astype(np.float64)
    return np.where(divisor > 0, total, np.nan) / np.where(divisor > 0, divisor, 1)


def _ranking_errors(test: _Examples, answer: NDArray, own: NDArray) -> NDArray[np.float64]:
    """Return 1 - AUC of each series, over its own days."""
    errors = np.full(len(own), np.nan)
    rows, first = np.unique(test.rows, return_index=True)
    for row, part in zip(rows, np.split(np.arange(len(test.rows)), first[1:]), strict=True):
        label = test.truth[part, 0] > 0.5
        positive, pairs = int(label.sum()), int(label.sum() * (~label).sum())
        if pairs:
            errors[row] = 1 - (rankdata(answer[part, 0])[label].sum() - positive * (positive + 1) / 2) / pairs
    return errors


# ---- tasks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """A task: its examples, the models that learn from them, and the error of their predictions."""

    name: str
    min_days: int
    examples: Callable[..., _Examples]
    models: dict[str, Callable[..., Predict]]
    errors: Callable[..., NDArray[np.float64]]
    unit: str
    sees: str
    blind_to: str

    def answers(self, model: str, source: _Examples, test: _Examples, rng: np.random.Generator) -> NDArray:
        """Train on one set of examples, some of its entities held out, and return predictions (N, Y) for another."""
        entities, inverse = np.unique(source.entities, return_inverse=True)
        held = rng.permutation(len(entities))[inverse] < max(1, round(_HELD_SHARE * len(entities)))
        forecast = self.errors is _forecast_errors
        targets = _compress(source.truth / source.scale) - source.centre if forecast else source.truth
        raw = self.models[model](source.inputs, targets, held, int(rng.integers(2**31)))(test.inputs)
        return _expand(raw + test.centre) * test.scale if forecast else raw


_FORECASTERS = {"ridge": _ridge, "MLP": _mlp}
TASKS = (
    _Task(
        "day ahead", 15, partial(_forecast_examples, 1), _FORECASTERS, _forecast_errors, "share of the mean",
        "what the past week says of the next day, slot by slot", "size of homes, copying",
    ),
    _Task(
        "week ahead", 21, partial(_forecast_examples, PAST_DAYS), _FORECASTERS, _forecast_errors, "share of the mean",
        "memory of daily energy from week to week", "slots of the day, size of homes, copying",
    ),
    _Task(
        "peak day", 30, _peak_examples, {"logistic": _logistic}, _ranking_errors, "1 - AUC",
        "what announces the highest days of a home", "height of the peaks, copying",
    ),
)  # fmt: skip
"""Week ahead predicts the mean of each day: seven days of slots would mostly repeat the day-ahead task."""


def _run(task: _Task, train: _Sides, holdout: _Sides, synthetic: _Sides, rng: np.random.Generator) -> list[dict]:
    """Train and test one task on all channels; return one entry per model, or none where examples are too few."""
    codes = holdout[0].codes
    each = max(1, TESTED // len(codes))
    tests = [task.examples(side, np.arange(len(codes)), each, rng, testing=True) for side in holdout]
    num = min(len(train[0].codes), len(synthetic[0].codes))
    errors = {model: np.empty((NUM_DRAWS, 4, len(holdout), len(codes))) for model in task.models}
    for draw in range(NUM_DRAWS):
        real = draw_rows(train[0].codes, num, rng)
        sources = [(synthetic, draw_rows(synthetic[0].codes, num, rng)), (train, real)]
        sources += [(train, half) for half in train[0].halves(real, rng)]
        for c, test in enumerate(tests):
            sets = [task.examples(sides[c], rows, max(1, EXAMPLES // num), rng) for sides, rows in sources]
            sizes = np.repeat([min(len(a.rows), len(b.rows)) for a, b in (sets[:2], sets[2:])], 2)
            if sizes.min() < MIN_EXAMPLES or min(len(np.unique(p.entities)) for p in sets) < MIN_ENTITIES // 2:
                return []
            sets = [part.take(rng.permutation(len(part.rows))[:size]) for part, size in zip(sets, sizes, strict=True)]
            for model, table in errors.items():
                answers = [task.answers(model, part, test, rng) for part in sets]
                table[draw, :, c] = [task.errors(test, answer, holdout[c].own) for answer in answers]
    naive = np.stack([task.errors(test, test.naive, side.own) for test, side in zip(tests, holdout, strict=True)])
    tested = ~np.isnan(naive)
    kept = tested.any(axis=0)
    entities = np.unique(codes[kept], return_inverse=True)[1]
    if len(np.unique(entities)) < MIN_ENTITIES:
        return []
    weight = tested / np.maximum(tested.sum(axis=0), 1)
    members = np.eye(entities.max() + 1)[entities]
    members /= members.sum(axis=0)

    def by_entity(values: NDArray) -> NDArray:
        """Average errors (..., C, n) over channels, then over the series of each entity: (..., E)."""
        return (np.where(tested, values, 0) * weight).sum(axis=-2)[..., kept] @ members

    return [_entry(task, model, by_entity(values), by_entity(naive), rng) for model, values in errors.items()]


def _entry(task: _Task, model: str, errors: NDArray, naive: NDArray, rng: np.random.Generator) -> dict:
    """Summarise errors (draws, 4, E) of models trained on synthetic, on real and on two halves of the real series."""
    pair, num = errors[:, :2].mean(axis=0), errors.shape[2]
    resampled = rng.multinomial(num, np.full(num, 1 / num), RESAMPLES) @ pair.T / num
    distance, floor, bar = (float(values.mean()) for values in (*pair, naive))

    def ratios(values: NDArray) -> NDArray:
        values = np.maximum(values, SMALLEST_ERROR)
        return values[..., 0] / values[..., 1]

    between_halves = np.log(ratios(errors[:, 2:].mean(axis=2)))
    ratio, noise = float(ratios(np.array([distance, floor]))), float(np.sqrt((between_halves**2).mean()))
    # sampling noise of the tested homes, joined with that of the training homes
    ends = np.log(np.quantile(ratios(resampled), [0.025, 0.975]) / ratio)
    low, high = ratio * np.exp(np.hypot(ends, 1.96 * noise) * [-1, 1])
    return {
        "family": "utility", "name": f"{task.name}, {model}", "distance": distance, "floor": floor,
        "ratio": ratio, "low": float(low), "high": float(high),
        "unit": task.unit, "in_headline": False, "sees": task.sees, "blind_to": task.blind_to,
        "naive": bar, "beats_naive": floor < bar, "ratio_noise": noise,
    }  # fmt: skip


def utility_entries(train: Judged, holdout: Judged, synthetic: Judged, *, seed: int, max_series: int) -> list[dict]:
    """Compare models trained on synthetic series with models trained on real ones, on holdout entities.

    Parameters
    ----------
    train, holdout, synthetic : Judged
        Values (n, C, L), of the same channels, length, step and unit; train and holdout share no entity. NaN is
        allowed: inputs are filled with the typical day, and missing readings are never targets.
    seed : int
        Seed of the choice of series and days, the starting values of models and resampling; >= 0.
    max_series : int
        Largest number of series used of each set, >= 1.

    Returns
    -------
    list of dict
        One entry per task and model, plain Python values. ``distance`` is the test error of the model trained on
        synthetic series, ``floor`` that of the model trained on real series, ``naive`` that of the prediction "as a
        week before". All are averaged over channels, then series of an entity, then entities. ``ratio`` is distance
        over floor; ``low`` to ``high`` is its 95 % interval (paired bootstrap over holdout entities, combined with
        ``ratio_noise``). ``ratio_noise`` is the root mean square of the log ratio between models trained on halves of
        the real training series; it overstates the noise of whole sets. Where ``beats_naive`` is False, a model
        learns nothing useful even from real series, and its ratio is meaningless. The list is empty where the step
        does not divide a day, or a set has fewer than 8 entities or 15 days. A task that needs more days, or finds
        too few days without gaps, is left out.

    Raises
    ------
    DataError
        If the sets cannot be compared.

    Notes
    -----
    Cost: about 10 CPU-seconds per channel for 400 series per side of 2,190 points, 17 for 8,760 points.
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
        sides.append(_channels(judged.take(usable).sample_entities(max_series, rng)))
    num_days = min(side[0].days.shape[1] for side in sides)
    return [entry for task in TASKS if num_days >= task.min_days for entry in _run(task, *sides, rng)]
