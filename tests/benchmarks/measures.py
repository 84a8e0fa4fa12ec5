"""Measures of the benchmarks beside `evaluate`: the band of real halves, and two classifiers without their floors."""

import numpy as np
from ladder import FIGURES, Split

from ttsgan.evaluation.classifiers import boosting, ridge, tell_apart
from ttsgan.evaluation.distances import Pool, Sampler
from ttsgan.evaluation.features import copy_gaps, extract, histogram_edges
from ttsgan.evaluation.judged import Judged, joined
from ttsgan.evaluation.manifold import feature_space
from ttsgan.evaluation.random_features import convolve, share_gaps, whole_days

BANDED = ("log_peak", "load_factor", "ramp")
"""Figures that are compared with the distance of one real half from another."""
BAND_DRAWS, BAND = 200, 0.95
CLASSIFIER_SERIES, CLASSIFIER_SEEDS = 400, 5


def pool_of(train: Judged, holdout: Judged, third: Judged, rng: np.random.Generator) -> Pool:
    """Return the features of three sets, scaled by the first two, as `evaluate` makes them."""
    real = np.concatenate([train.filled(), holdout.filled()])
    edges, smallest = histogram_edges(real), max(1e-4 * float(np.median(np.abs(real).mean(-1))), 1e-9)
    return Pool(tuple(extract(part, edges, smallest) for part in (train, holdout, third)), edges, rng)


def real_band(parts: Split, seed: int) -> dict[str, float]:
    """Return the distance of `BANDED` figures below which 95 % of random pairs of disjoint real halves stay."""
    rng = np.random.default_rng([seed, 11])
    sets = (parts.train, parts.holdout, parts.holdout.take(np.arange(4)))
    pool = pool_of(*sets, rng)
    sampler = Sampler(sets, min(1000, len(parts.train), len(parts.holdout)), rng)
    draws = [
        pool.distances(*(sampler.without_replacement(half) for half in sampler.halves()), rng)
        for _ in range(BAND_DRAWS)
    ]
    limits = dict(zip([metric.name for metric in pool.metrics], np.quantile(draws, BAND, axis=0), strict=True))
    return {column: float(limits[FIGURES[column][0]]) for column in BANDED}


def told_apart(parts: Split, synthetic: Judged, seed: int) -> dict[str, float]:
    """Return the accuracy - 0.5 of boosting and convolution, synthetic against holdout, without floors.

    These are classifiers of `evaluate`, on other draws; they cost a tenth of its whole set of classifiers.
    """
    rng = np.random.default_rng([seed, 13])
    num = min(CLASSIFIER_SERIES, len(parts.holdout), len(synthetic))
    few = [part.sample_entities(num, rng) for part in (parts.train, parts.holdout, synthetic)]
    few[2] = copy_gaps(few[2], few[1], rng)
    sampler = Sampler(tuple(few), num, rng)
    space = feature_space(pool_of(*few, rng))
    real, other = share_gaps(joined(*few[:2]), few[2], sampler.holdout, rng)
    scores = {
        "boosting": boosting(space),
        "convolution": ridge(convolve(whole_days(joined(real, other), len(real)), len(real), seed), sampler.real),
    }
    rows = np.concatenate([sampler.holdout, sampler.synthetic])
    labels = np.repeat([False, True], [len(sampler.holdout), len(sampler.synthetic)])
    return {
        name: tell_apart(score, labels, sampler.codes[rows], rows, seed=seed, seeds=CLASSIFIER_SEEDS).accuracy
        for name, score in scores.items()
    }
