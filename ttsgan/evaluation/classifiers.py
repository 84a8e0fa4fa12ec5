"""Classifier two-sample tests: three classifiers of fixed form try to separate synthetic from real series.

*Boosting* reads the features of whole series. The *convolution* slides kernels of nine taps over the values, dilated
from single steps to four weeks, and records how often each response exceeds a threshold. The *patch transformer* takes
one token per day, with its position in the week and in the series. Kernels and transformer weights are random and stay
fixed; thresholds are quantiles of the responses to a few real series (`random_features`). Only a ridge readout is
trained; its penalty is chosen by leave-one-entity-out validation on the training side. In trials, networks of the same
form that were trained by gradient descent needed twenty times the work and separated less with a few hundred series:
for a good copula of 100 London households they reached an AUC of 0.79 (convolution) and 0.64 (transformer), the fixed
random networks 0.93 and 0.88.

Every seed trains once and tests on its own fold of the entities. The folds are disjoint, so that k seeds test every
series once, with a classifier trained on all others. Two-fold cross-fitting with k / 2 seeds costs the same, but trains
on half of the series and tests the same ones repeatedly, which removes no sampling noise.

Only values may separate the sides: each side is given the gaps of the other before filling, all series begin at
midnight and, where their first days differ, on a Monday, and an entity is never on both sides of a split.

Axes: n series, F features, m series of two samples.

References
----------
Lopez-Paz, Oquab 2017, "Revisiting classifier two-sample tests", ICLR.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier

from ttsgan.evaluation.distances import Sampler
from ttsgan.evaluation.judged import Judged, joined, sample_rows
from ttsgan.evaluation.random_features import attend, convolve, share_gaps, whole_days

CLIP = 6.0
"""Standardised features are clipped at this many standard deviations of the real series."""
PENALTIES = np.geomspace(1e-3, 1e3, 13)
"""Ridge penalties, in units of the mean square of a standardised row."""
FLOOR_DRAWS = 4
"""Number of random splits of the real series into two halves behind a floor."""
INFLATION = 1.3
"""Factor on standard errors. Between random halves of real series, results vary 1.2 to 1.4 times as much as DeLong's
formula predicts for fixed classifiers, because the trainings of different folds share most of their series."""
EPSILON = 0.05
"""Accuracy that counts as no difference; ``ratio = (distance + EPSILON) / (floor + EPSILON)``."""
SIGHTS = {
    "boosting": ("any difference in the features of whole series", "what no feature measures, copying"),
    "convolution": ("local shapes and their frequency, from steps to weeks; marginals", "season, date, copying"),
    "patch transformer": ("shapes of days, their sequence in weeks, their place in the year", "single steps, copying"),
}

Score = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int], NDArray]
"""Maps ``(train_rows, test_rows, train_labels, train_codes, seed)`` to a score per test row, > 0 = second sample."""


@dataclass(frozen=True)
class Telling:
    """How well one classifier separates two samples on entities it was not trained on.

    Parameters
    ----------
    accuracy : float
        Balanced accuracy - 0.5, in -0.5..0.5. Below 0 by chance, or because series have a twin on the other side.
    accuracy_error : float
        Standard error, with entities as units.
    auc : float
        Area under the ROC curve in 0..1, mean over seeds.
    auc_error : float
        Standard error: the larger of DeLong's with entities as units and the spread over seeds.
    """

    accuracy: float
    accuracy_error: float
    auc: float
    auc_error: float


# ---- readouts ----------------------------------------------------------------------------------------------------


def boosting(space: NDArray) -> Score:
    """Return a scorer by gradient boosting of 40 small trees on rows of a feature space (n, F)."""
    space = space.astype(np.float32)

    def score(train: NDArray, test: NDArray, labels: NDArray, codes: NDArray, seed: int) -> NDArray:
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=8, learning_rate=0.15, min_samples_leaf=5, max_bins=63,
            early_stopping=False, random_state=seed,
        )  # fmt: skip
        return model.fit(space[train], labels).decision_function(space[test])

    return score


def ridge(space: NDArray, reference: NDArray[np.int64]) -> Score:
    """Return a scorer by ridge regression on rows of a space (n, F), standardised by the ``reference`` rows.

    The penalty minimises the leave-one-entity-out error on the training side (exact, from one eigenvalue
    decomposition), so that it suits 50 entities as well as 1,000.
    """
    mean, deviation = space[reference].mean(0), space[reference].std(0)
    rows = np.clip((space - mean) / np.where(deviation > 1e-6, deviation, np.inf), -CLIP, CLIP).astype(np.float64)
    products = rows @ rows.T
    # the added 1 is the square of a constant feature: an intercept
    products = products / max(float(np.diag(products)[reference].mean()), 1e-12) + 1

    def score(train: NDArray, test: NDArray, labels: NDArray, codes: NDArray, seed: int) -> NDArray:
        # equal total weight of both sides whatever their numbers of series, so that 0 separates them
        target = np.where(labels, 0.5 / labels.mean(), -0.5 / (1 - labels.mean()))
        values, vectors = np.linalg.eigh(products[np.ix_(train, train)])
        turned = vectors.T @ target
        entities = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        losses, solutions = [], []
        for penalty in PENALTIES:
            shrunk = 1 / (np.maximum(values, 0) + penalty)
            solution = vectors @ (shrunk * turned)
            if len(entities) == len(train):
                left_out = solution / ((vectors**2) @ shrunk)
            else:
                left_out = np.empty(len(train))
                for own in entities:
                    left_out[own] = np.linalg.solve((vectors[own] * shrunk) @ vectors[own].T, solution[own])
            losses.append((left_out**2).mean())
            solutions.append(solution)
        return products[np.ix_(test, train)] @ solutions[int(np.argmin(losses))]

    return score


# ---- the test ----------------------------------------------------------------------------------------------------


def tell_apart(score: Score, labels: NDArray, codes: NDArray, rows: NDArray, *, seed: int, seeds: int) -> Telling:
    """Train on some entities of two samples and test on the others, one fold of entities per seed.

    Parameters
    ----------
    score : callable
        `boosting` or `ridge` of a space.
    labels : ndarray of shape (m,), bool
        True for series of the second sample.
    codes : ndarray of shape (m,), int
        Entity numbers; equal numbers in the two samples count as different entities.
    rows : ndarray of shape (m,), int
        Row of each series in the space.
    seed : int
        Draws the folds.
    seeds : int
        Number of trainings, >= 1; limited to the number of entities of the smaller sample.

    Returns
    -------
    Telling
        Chance level, with errors of 0.5, where a sample has fewer than two entities.
    """
    labels = labels.astype(bool)
    codes = np.unique(2 * codes.astype(np.int64) + labels, return_inverse=True)[1]
    sides = [np.unique(codes[labels == side]) for side in (False, True)]
    fewest = min(len(side) for side in sides)
    if fewest < 2:
        return Telling(0.0, 0.5, 0.5, 0.5)
    rng = np.random.default_rng([seed, 2])
    num = min(max(2, seeds), fewest)
    fold_of = np.empty(codes.max() + 1, int)
    for side in sides:
        fold_of[rng.permutation(side)] = np.arange(len(side)) % num
    fold = fold_of[codes]
    scores, tested, aucs, right = np.zeros(len(rows)), fold < seeds, [], np.zeros(len(rows))
    beaten = np.zeros(len(rows))
    for number in range(min(num, seeds)):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        scores[test] = score(rows[train], rows[test], labels[train], codes[train], seed + number)
        for side in (False, True):
            own, other = test[labels[test] == side], test[labels[test] != side]
            sign = 1 if side else -1
            beaten[own] = _share_below(sign * scores[own], sign * scores[other])
            right[own] = sign * scores[own] > 0
        aucs.append(beaten[test[labels[test]]].mean())
    accuracy, accuracy_variance, auc_variance = 0.0, 0.0, 0.0
    for side in (False, True):
        own = tested & (labels == side)
        entities = len(np.unique(codes[own]))
        accuracy += right[own].mean() / 2
        shrunk = (right[own].mean() * entities + 2) / (entities + 4)
        least = shrunk * (1 - shrunk) / (entities + 4)
        accuracy_variance += max(_variance_of_mean(right[own], codes[own]), least) / 4
        auc_variance += max(_variance_of_mean(beaten[own], codes[own]), 1 / (12 * entities))
    spread = np.var(aucs, ddof=1) / len(aucs) if len(aucs) > 1 else 0.0
    accuracy_error = INFLATION * math.sqrt(accuracy_variance)
    auc_error = INFLATION * math.sqrt(max(auc_variance, spread))
    return Telling(float(accuracy) - 0.5, accuracy_error, float(np.mean(aucs)), auc_error)


def _share_below(values: NDArray, others: NDArray) -> NDArray:
    """Return the share of ``others`` below each value; ties count one half."""
    ranks = rankdata(np.concatenate([values, others]))[: len(values)]
    return (ranks - rankdata(values)) / len(others)


def _variance_of_mean(values: NDArray, codes: NDArray) -> float:
    """Return the variance of a mean whose independent units are entities."""
    sums = np.bincount(np.unique(codes, return_inverse=True)[1], values - values.mean())
    return float((sums**2).sum() / len(values) ** 2 * len(sums) / max(1, len(sums) - 1))


def classifier_entries(
    train: Judged, holdout: Judged, synthetic: Judged, space: NDArray, *, seed: int, max_series: int, seeds: int
) -> list[dict]:
    """Test how well classifiers separate synthetic from holdout series and, as the floor, two halves of real ones.

    Parameters
    ----------
    train, holdout, synthetic : Judged
        At least one reading per series; NaN allowed.
    space : ndarray of shape (n, F)
        Features of all series of the three sets, in this order.
    seed : int
        Seed of the draws of series, folds, kernels and weights.
    max_series : int
        Largest number of series per side, >= 4.
    seeds : int
        Number of trainings, >= 1, each tested on its own fold of entities.

    Returns
    -------
    list of dict
        Entries as in `fidelity.evaluate`, family "classifier". Cost: about 23 CPU-seconds for 400 series per side.
    """
    sets, rng = (train, holdout, synthetic), np.random.default_rng([seed, 3])
    num = min(max_series, len(holdout), len(synthetic))
    chosen, at = [], 0
    few = []
    for judged in sets:
        index = sample_rows(judged.entities, num, rng)
        few.append(judged.take(index))
        chosen.append(index + at)
        at += len(judged)
    sampler = Sampler(tuple(few), num, rng)
    real, other = share_gaps(joined(*few[:2]), few[2], sampler.holdout, rng)
    days = whole_days(joined(real, other), len(real))
    classifiers = {
        "boosting": boosting(space[np.concatenate(chosen)]),
        "convolution": ridge(convolve(days, len(real), seed), sampler.real),
        "patch transformer": ridge(attend(days, seed), sampler.real),
    }
    pairs = [(sampler.holdout, sampler.synthetic)]
    for _ in range(FLOOR_DRAWS):
        pairs.append(tuple(np.flatnonzero(sampler.without_replacement(half)) for half in sampler.halves()))
    entries = []
    for name, score in classifiers.items():
        told = []
        for first, second in pairs:
            rows, labels = np.concatenate([first, second]), np.repeat([False, True], [len(first), len(second)])
            told.append(tell_apart(score, labels, sampler.codes[rows], rows, seed=seed, seeds=seeds))
        entries.append(_entry(name, told[0], told[1:]))
    return entries


def _entry(name: str, told: Telling, floors: list[Telling]) -> dict:
    floor = max(0.0, float(np.mean([part.accuracy for part in floors])))
    floor_error = float(np.mean([part.accuracy_error for part in floors])) / math.sqrt(len(floors))
    distance, largest = max(0.0, told.accuracy), (0.5 + EPSILON) / EPSILON
    ratio = (distance + EPSILON) / (floor + EPSILON)
    # combine both errors on the scale of the log ratio
    factor = math.exp(1.96 * math.hypot(told.accuracy_error / (distance + EPSILON), floor_error / (floor + EPSILON)))
    return {
        "family": "classifier", "name": f"{name} accuracy - 0.5", "distance": distance, "floor": floor,
        "ratio": ratio, "low": max(1 / largest, ratio / factor), "high": min(largest, ratio * factor),
        "unit": "accuracy", "in_headline": False, "sees": SIGHTS[name][0], "blind_to": SIGHTS[name][1],
        "error": told.accuracy_error, "auc": told.auc, "auc_error": told.auc_error,
        "auc_floor": float(np.mean([part.auc for part in floors])),
    }  # fmt: skip
