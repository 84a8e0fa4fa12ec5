"""How close synthetic series are to real ones, each distance beside its floor.

Every metric is a triple: the distance of synthetic from holdout series, the *floor* (the distance between two
samples of real series), and their ratio (1 = as close as another sample of real homes). All samples are of
the same size n, because a distance between finite samples shrinks with n. The floor is averaged over random
entity-disjoint halves of train and holdout together, so that a few households do not decide it by luck; the
synthetic side is averaged over several draws where there are more series than n.

Distances are in units of the real spread (5 % to 95 % range of that quantity over real series, divided by
3.29, so that it is the standard deviation of a Gaussian) where the quantity belongs to one series. ``ratio =
(distance + EPSILON) / (floor + EPSILON)`` keeps 0 / 0 at 1: a difference of 1 % of the real spread is taken
to be no difference. Quantities and distances are cut at 8 spreads (`distances.CEILING`), so that neither one
odd home nor one absurd metric decides the mean of all.

A good value says nothing about privacy: a copy of the training set scores best of all. Read it beside the
audit.

"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from ttsgan.errors import DataError
from ttsgan.evaluation.distances import Pool, Sampler
from ttsgan.evaluation.features import copy_gaps, curves, extract, histogram_edges
from ttsgan.evaluation.judged import Judged, check_comparable
from ttsgan.evaluation.neighbours import nearest
from ttsgan.evaluation.stats import jsonable

SCHEMA_VERSION = 1
EPSILON = 0.01
NUM_DRAWS = 8
NUM_NEIGHBOURS = 5


def _neighbour_scores(reference: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, density and coverage as one value per series (Naeem et al. 2020, ICML, k = 5)."""
    k = min(NUM_NEIGHBOURS, len(reference) - 1, len(candidate) - 1)
    inside_reference = nearest(reference, reference, k, exclude=np.arange(len(reference)))[0][:, -1]
    inside_candidate = nearest(candidate, candidate, k, exclude=np.arange(len(candidate)))[0][:, -1]
    norms = (reference**2).sum(1)[:, None] + (candidate**2).sum(1) - 2 * reference @ candidate.T
    between = np.sqrt(np.maximum(norms, 0))
    in_ball = between <= inside_reference[:, None]
    return {
        "precision": in_ball.any(0).astype(float),
        "recall": (between <= inside_candidate).any(1).astype(float),
        "density": in_ball.sum(0) / k,
        "coverage": (between.min(1) <= inside_reference).astype(float),
    }


def _tell_apart(a: np.ndarray, a_codes: np.ndarray, b: np.ndarray, b_codes: np.ndarray, seed: int) -> float:
    """Return accuracy - 0.5 of gradient boosting between two samples, two-fold by entity, mean over two seeds."""
    x = np.concatenate([a, b]).astype(np.float32)
    labels = np.concatenate([np.zeros(len(a), int), np.ones(len(b), int)])
    codes = np.concatenate([a_codes, b_codes])
    accuracies = []
    for repeat in range(2):
        rng = np.random.default_rng([seed, repeat])
        entities, inverse = np.unique(codes, return_inverse=True)
        fold = (rng.permutation(len(entities)) % 2)[inverse]
        for test in range(2):
            train_rows, test_rows = np.flatnonzero(fold != test), np.flatnonzero(fold == test)
            if len(np.unique(labels[train_rows])) < 2 or not len(test_rows):
                continue
            model = HistGradientBoostingClassifier(
                max_iter=40, max_leaf_nodes=8, learning_rate=0.15, min_samples_leaf=5, max_bins=63,
                early_stopping=False, random_state=repeat,
            )  # fmt: skip
            right = model.fit(x[train_rows], labels[train_rows]).predict(x[test_rows]) == labels[test_rows]
            balanced = [right[labels[test_rows] == c].mean() for c in (0, 1) if (labels[test_rows] == c).any()]
            accuracies.append(float(np.mean(balanced)))
    return max(0.0, float(np.mean(accuracies)) - 0.5) if accuracies else 0.0


def _extra_metrics(pool: Pool, sampler: Sampler, seed: int, bootstrap: int) -> list[dict]:
    """Neighbour metrics and the classifier: reported, but kept out of the headline (see `evaluate`)."""
    width = np.concatenate([np.full(s.stop - s.start, (s.stop - s.start) ** -0.5) for s in pool.slices.values()])
    space = (np.clip(pool.scaled, -8, 8) * width).astype(np.float32)
    rng = sampler.rng
    draws = [
        tuple(
            np.flatnonzero(sampler.without_replacement(p))
            for p in (*sampler.halves(), sampler.holdout, sampler.synthetic)
        )
        for _ in range(4)
    ]
    floors = [_neighbour_scores(space[left], space[right]) for left, right, _, _ in draws]
    scores = [_neighbour_scores(space[holdout], space[synthetic]) for _, _, holdout, synthetic in draws]
    entries = []
    for name in scores[0]:
        value, floor = (float(np.mean([part[name].mean() for part in side])) for side in (scores, floors))
        # resampling within one draw: averaging over draws would hide the luck of the sample
        resampled = [rng.choice(scores[0][name], len(scores[0][name])).mean() for _ in range(bootstrap)]
        ends = np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled) if resampled else np.zeros(2)
        shortfall = [abs(1 - v) if name == "density" else max(0.0, 1 - v) for v in (value, *(value + ends), floor)]
        ratios = [(v + 0.05) / (shortfall[3] + 0.05) for v in shortfall[:3]]
        entries.append(
            {
                "family": "neighbours", "name": f"{name} (shortfall from 1)", "distance": shortfall[0],
                "floor": shortfall[3], "ratio": ratios[0], "low": min(ratios), "high": max(ratios),
                "unit": "share of series", "in_headline": False,
                "sees": "diversity" if name in ("recall", "coverage") else "implausible series", "blind_to": "copying",
                "value": value, "value_floor": floor,
            }
        )  # fmt: skip
    left, right, holdout, synthetic = draws[0]
    codes = sampler.codes
    distance = _tell_apart(space[holdout], codes[holdout], space[synthetic], codes[synthetic], seed)
    floor = _tell_apart(space[left], codes[left], space[right], codes[right], seed)
    error = 0.5 / np.sqrt(len(holdout) + len(synthetic)) * 1.96
    low, ratio, high = (
        (max(0.0, d) + 0.02) / (floor + 0.02) for d in (distance - error, distance, min(0.5, distance + error))
    )
    entries.append(
        {
            "family": "classifier", "name": "boosting accuracy - 0.5", "distance": distance, "floor": floor,
            "ratio": ratio, "low": low, "high": high, "unit": "accuracy", "in_headline": False,
            "sees": "any difference in the features", "blind_to": "copying, size of the difference",
        }
    )  # fmt: skip
    return entries


def _prepare(sets: dict[str, Judged], max_series: int, rng: np.random.Generator) -> tuple[tuple[Judged, ...], dict]:
    """Set empty series aside, choose at most what is compared, and give synthetic series the gaps of real ones."""
    sizes: dict = {}
    kept = {}
    for name, judged in sets.items():
        empty, constant = judged.usable()
        if (~empty).sum() < 4:
            raise DataError(f"{name} has {(~empty).sum()} series with readings; at least 4 are needed")
        kept[name] = judged.take(~empty) if empty.any() else judged
        sizes[name] = {
            "series": len(judged), "entities": int(judged.codes.max() + 1), "set_aside_empty": int(empty.sum()),
            "constant": int(constant.sum()), "missing_share": float(np.isnan(kept[name].values).mean()),
        }  # fmt: skip
    num = min(max_series, *(len(judged) for judged in kept.values()))
    sizes["compared"] = num
    real = [kept[name].sample_entities(max_series, rng) for name in ("train", "holdout")]
    synthetic = kept["synthetic"].sample_entities(max(2 * num, max_series), rng)
    donors = max(real, key=lambda part: np.isnan(part.values).mean())
    return (*real, copy_gaps(synthetic, donors, rng)), sizes


def evaluate(
    train: Judged,
    holdout: Judged,
    synthetic: Judged,
    *,
    seed: int = 0,
    max_series: int = 1000,
    bootstrap: int = 200,
) -> dict:
    """Compare synthetic series with holdout ones, each distance beside what another sample of real series would score.

    Parameters
    ----------
    train, holdout, synthetic : Judged
        Sets of the same channels, length, step and unit; train and holdout share no entity. NaN allowed;
        series without any reading are set aside and counted, constant ones stay (a frozen generator must be
        seen).
    seed : int
        Draws, splits and bootstrap.
    max_series : int
        Most series of each set that are compared (>= 4).
    bootstrap : int
        Resamplings of entities behind the intervals; 0 gives no intervals.

    Returns
    -------
    dict
        JSON-able. `headline.value` is the geometric mean of the ratios of `distances.METRICS` (those the data
        allow), `low` and `high` a 95 % bootstrap interval over entities, centred on the value (resampling
        twice inflates both distances of a ratio near 1, and only the floor of a large one, so the uncentred
        interval would lie too low). Neighbour and classifier metrics have a floor near 0 or a coarse step, so
        they are reported but kept out of the headline.

    Raises
    ------
    DataError
        If the sets cannot be compared or one has fewer than 4 series.
    """
    check_comparable(train=train, holdout=holdout, synthetic=synthetic)
    rng = np.random.default_rng(seed)
    sets, sizes = _prepare({"train": train, "holdout": holdout, "synthetic": synthetic}, max_series, rng)
    real_values = np.concatenate([sets[0].filled(), sets[1].filled()])
    edges = histogram_edges(real_values)
    smallest = max(1e-4 * float(np.median(np.abs(real_values).mean(-1))), 1e-9)
    del real_values
    parts = tuple(extract(part, edges, smallest) for part in sets)
    pool = Pool(parts)
    pool.setup(edges, rng)
    sampler = Sampler(sets, sizes["compared"], rng)

    def to_holdout() -> np.ndarray:
        return pool.distances(
            sampler.without_replacement(sampler.synthetic), sampler.without_replacement(sampler.holdout), rng
        )

    def between_halves() -> np.ndarray:
        return pool.distances(*(sampler.without_replacement(half) for half in sampler.halves()), rng)

    distance = np.mean([to_holdout() for _ in range(NUM_DRAWS)], axis=0)
    floor = np.mean([between_halves() for _ in range(NUM_DRAWS)], axis=0)
    log_ratio = np.log((distance + EPSILON) / (floor + EPSILON))
    replicates = []
    for _ in range(bootstrap):
        above = pool.distances(
            sampler.with_replacement(sampler.synthetic), sampler.with_replacement(sampler.holdout), rng
        )
        below = pool.distances(*(sampler.with_replacement(half) for half in sampler.halves()), rng)
        replicates.append(np.log((above + EPSILON) / (below + EPSILON)))
    low = high = np.full(len(log_ratio), np.nan)
    headline = {"value": float(np.exp(log_ratio.mean())), "low": None, "high": None}
    if replicates:
        sample = np.array(replicates)
        low, high = np.quantile(sample - np.median(sample, axis=0), [0.025, 0.975], axis=0) + log_ratio
        mean = sample.mean(1)
        ends = np.quantile(mean - np.median(mean), [0.025, 0.975]) + log_ratio.mean()
        headline |= {"low": float(np.exp(ends[0])), "high": float(np.exp(ends[1]))}
    headline |= {
        "floor_is": "1 = as close to the holdout as another sample of real series of the same size",
        "metrics": len(log_ratio),
    }
    metrics = [
        {
            "family": m.family, "name": m.name, "distance": distance[i], "floor": floor[i],
            "ratio": np.exp(log_ratio[i]), "low": np.exp(low[i]), "high": np.exp(high[i]), "unit": m.unit,
            "sees": m.sees, "blind_to": m.blind_to,
            "in_headline": True,
        }
        for i, m in enumerate(pool.metrics)
    ]  # fmt: skip
    metrics += _extra_metrics(pool, sampler, seed, bootstrap)
    named = zip(("train", "holdout", "synthetic"), sets, parts, strict=True)
    return jsonable(
        {
            "schema_version": SCHEMA_VERSION,
            "headline": headline,
            "metrics": metrics,
            "sizes": sizes,
            "seed": seed,
            "unit": train.unit,
            "step_seconds": train.step_seconds,
            "curves": {name: curves(judged, features) for name, judged, features in named},
        }
    )
