"""Fidelity: how close synthetic series are to real ones, each distance beside its floor.

Every metric is a triple: the distance between synthetic and holdout series, the *floor* (the distance between two
samples of real series), and their ratio (1 = as close as another sample of real homes). All samples have the same size
n, because the distance between finite samples shrinks with n. The floor is the geometric mean over random
entity-disjoint halves of train and holdout pooled, so that a few households do not decide it by chance. The
synthetic-to-holdout distance is likewise the geometric mean over random draws of n series from each set.

Where a quantity belongs to one series, its distance is in units of the *real spread*: the 5 % to 95 % range of the
quantity over real series, divided by 3.29, which is the standard deviation for a Gaussian. ``ratio = (distance +
EPSILON) / (floor + EPSILON)`` keeps 0 / 0 at 1: a difference of 1 % of the real spread counts as no difference.
Quantities and distances are clipped at 8 spreads (`distances.CEILING`), so that neither one odd home nor one absurd
metric dominates the mean of all.

Beside the distances stand nearest-neighbour scores (`manifold`), classifier two-sample tests (`classifiers`), and the
loss from training on synthetic series instead of real ones (`utility`).

A good value says nothing about privacy: a copy of the training set scores best of all. Read it beside the audit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ttsgan.errors import DataError
from ttsgan.evaluation.blocks import Blocks, ParallelMap, do_part, gather, in_turn, survey
from ttsgan.evaluation.classifiers import classifier_entries
from ttsgan.evaluation.distances import Pool, Sampler
from ttsgan.evaluation.features import copy_gaps, curves, extract, histogram_edges
from ttsgan.evaluation.judged import Judged, check_comparable, sample_rows
from ttsgan.evaluation.manifold import feature_space, flat_map, neighbour_entries
from ttsgan.evaluation.stats import jsonable
from ttsgan.evaluation.utility import utility_entries

SCHEMA_VERSION = 2
EPSILON = 0.01
NUM_DRAWS = 32
"""Random draws per distance and floor. With 100 households, 8 draws leave 5 % noise in the headline, 32 leave 2 %."""


def _prepare(
    sets: dict[str, Judged | Blocks], max_series: int, parallel_map: ParallelMap, rng: np.random.Generator
) -> tuple[tuple[Judged, ...], dict]:
    """Set empty series aside, draw the series to compare, and copy the holdout's gaps into the synthetic series."""
    seen = {name: survey(series, parallel_map) for name, series in sets.items()}
    check_comparable(**{name: of.like for name, of in seen.items()})
    sizes: dict = {}
    rows = {}
    for name, of in seen.items():
        rows[name] = np.flatnonzero(~of.empty)
        if len(rows[name]) < 4:
            raise DataError(f"{name} has {len(rows[name])} series with readings; at least 4 are needed")
        sizes[name] = {
            "series": len(of.empty), "entities": of.num_entities, "set_aside_empty": int(of.empty.sum()),
            "constant": int(of.constant.sum()),
            "missing_share": float(of.missing[rows[name]].mean() / of.like.values.size),
        }  # fmt: skip
    num = min(max_series, *(len(of) for of in rows.values()))
    sizes["compared"] = num
    chosen = []
    for name, limit in (("train", max_series), ("holdout", max_series), ("synthetic", max(2 * num, max_series))):
        some = rows[name][sample_rows(seen[name].entities[rows[name]], limit, rng)]
        chosen.append(gather(sets[name], seen[name].sizes, some))
    # Gaps of the holdout, the set synthetic series are compared with: gaps of training series could set the two apart.
    return (*chosen[:2], copy_gaps(chosen[2], chosen[1], rng)), sizes


@dataclass(frozen=True)
class _Field:
    """Shared input of all parts of an evaluation; sent to every worker that runs a part."""

    sets: tuple[Judged, ...]
    pool: Pool
    space: np.ndarray
    seed: int
    num: int
    bootstrap: int
    classifier_series: int
    classifier_seeds: int


def _classifiers(field: _Field) -> list[dict]:
    series, seeds = field.classifier_series, field.classifier_seeds
    return classifier_entries(*field.sets, field.space, seed=field.seed, max_series=series, seeds=seeds)


def _utility(field: _Field) -> list[dict]:
    return utility_entries(*field.sets, seed=field.seed, max_series=field.classifier_series)


def _distances(field: _Field, *, rng: np.random.Generator) -> tuple[dict, list[dict]]:
    """Return the headline and the entries of all distances and nearest-neighbour scores."""
    pool, bootstrap = field.pool, field.bootstrap
    sampler = Sampler(field.sets, field.num, rng)

    def to_holdout() -> np.ndarray:
        return pool.distances(
            sampler.without_replacement(sampler.synthetic), sampler.without_replacement(sampler.holdout), rng
        )

    def between_halves() -> np.ndarray:
        return pool.distances(*(sampler.without_replacement(half) for half in sampler.halves()), rng)

    # Average logarithms on both sides: a single draw compared with the log of a mean would look closer than it is.
    above, below = (
        np.mean([np.log(draw() + EPSILON) for _ in range(NUM_DRAWS)], axis=0) for draw in (to_holdout, between_halves)
    )
    distance, floor, log_ratio = np.exp(above) - EPSILON, np.exp(below) - EPSILON, above - below
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
    return headline, metrics + neighbour_entries(field.space, sampler, bootstrap)


def evaluate(
    train: Judged | Blocks,
    holdout: Judged | Blocks,
    synthetic: Judged | Blocks,
    *,
    seed: int = 0,
    max_series: int = 1000,
    bootstrap: int = 200,
    classifier_series: int = 400,
    classifier_seeds: int = 5,
    parallel_map: ParallelMap = in_turn,
) -> dict:
    """Measure how close synthetic series are to holdout series, each distance beside its floor.

    Parameters
    ----------
    train, holdout, synthetic : Judged or Blocks
        Sets with the same channels, length, step and unit; train and holdout share no entity. NaN is allowed. Series
        without any reading are set aside and counted; constant ones stay, so that a frozen generator is seen. Of
        blocks, memory holds only the series that are compared, plus one block.
    seed : int
        Seed of draws, splits and bootstrap.
    max_series : int
        Largest number of series compared per set (>= 4).
    bootstrap : int
        Bootstrap resamples of entities behind the intervals; 0 gives no intervals.
    classifier_series : int
        Largest number of series per side in classifiers and utility tasks (>= 4); 0 leaves both out.
    classifier_seeds : int
        Trainings of each classifier, each tested on its own fold of entities (>= 1).
    parallel_map : ParallelMap
        Runs the parts; by default one after the other in this process. The result does not depend on it.

    Returns
    -------
    dict
        JSON-serialisable content of evaluation.json:

        - ``schema_version``: 2.
        - ``headline``: ``value``, geometric mean (> 0) of the ratios of all metrics with ``in_headline``; ``low``
          and ``high``, its 95 % bootstrap interval over entities, None without bootstrap; ``floor_is``, the meaning
          of 1; ``metrics``, their number. The interval is centred on the value. Resampling adds sampling noise a
          second time: it inflates both distances of a ratio near 1, but only the floor of a large ratio, so the
          uncentred interval would lie too low.
        - ``metrics``: list, each with ``family`` (as in `distances.METRICS`; also "neighbours", "classifier" and
          those of `utility.utility_entries`), ``name`` (unique), ``distance`` and ``floor`` (>= 0, in ``unit``),
          ``ratio`` (> 0, 1 = as close as another sample of real series), ``low`` and ``high`` (95 % interval of the
          ratio, None where there is none), ``unit``, ``sees``, ``blind_to`` (words) and ``in_headline`` (bool).
          Metrics whose floor is near 0, or that move in coarse steps, are reported but kept out of the headline.
          Further keys by family:

          - neighbours: ``value``, ``value_floor``, the score itself (1 is best; share of series, density >= 0);
            ``distance`` is its shortfall from 1.
          - classifier: ``distance`` is balanced accuracy - 0.5 (0 to 0.5; below 0 written as 0), ``error`` its
            standard error; ``auc``, ``auc_floor`` (0 to 1, 0.5 = cannot tell), ``auc_error``.
          - utility: ``distance`` is the test error of a model trained on synthetic series, ``floor`` that of one
            trained on real series; further keys in `utility.utility_entries`. Absent where the sets are too small or
            too short.
        - ``sizes``: for ``train``, ``holdout`` and ``synthetic`` the numbers of ``series`` and ``entities`` given,
          of series ``set_aside_empty`` and ``constant``, and ``missing_share`` (0 to 1) of the readings of non-empty
          series; ``compared``, the number of series on each side of a distance.
        - ``seed``; ``unit`` of the values; ``step_seconds``.
        - ``embedding``: ``train``, ``holdout``, ``synthetic``, at most 300 points [x, y] of each in random order, on
          the first two principal components of the features of real series (standardised, families of equal
          weight); ``explained``, share of the variance (0 to 1) along x and y.
        - ``curves``: for each set the output of `features.curves`.

    Raises
    ------
    DataError
        If the sets cannot be compared or one has fewer than 4 series.

    Notes
    -----
    Cost: about 40 CPU-seconds and 0.7 GB for sets of 1,000, 1,000 and 3,000 series of 2,190 points. Classifiers take 20
    of these seconds, utility tasks 10. Sets of 300, 300 and 900 series of 8,760 points cost the same.
    """
    rng = np.random.default_rng(seed)
    given = {"train": train, "holdout": holdout, "synthetic": synthetic}
    sets, sizes = _prepare(given, max_series, parallel_map, rng)
    real_values = np.concatenate([sets[0].filled(), sets[1].filled()])
    edges = histogram_edges(real_values)
    smallest = max(1e-4 * float(np.median(np.abs(real_values).mean(-1))), 1e-9)
    del real_values
    parts = tuple(extract(part, edges, smallest) for part in sets)
    pool = Pool(parts, edges, rng)
    space, (of_map,) = feature_space(pool), rng.spawn(1)
    field = _Field(sets, pool, space, seed, sizes["compared"], bootstrap, classifier_series, classifier_seeds)
    tasks: list[Callable[[_Field], Any]] = [partial(_distances, rng=rng)]
    tasks += [_classifiers, _utility] if classifier_series else []
    (headline, metrics), *others = parallel_map(do_part, field, tasks)
    metrics += [entry for entries in others for entry in entries]
    named = zip(("train", "holdout", "synthetic"), sets, parts, strict=True)
    return jsonable(
        {
            "schema_version": SCHEMA_VERSION,
            "headline": headline,
            "metrics": metrics,
            "sizes": sizes,
            "seed": seed,
            "unit": sets[0].unit,
            "step_seconds": sets[0].step_seconds,
            "embedding": flat_map(space, [len(part) for part in sets], of_map),
            "curves": {name: curves(judged, features) for name, judged, features in named},
        }
    )
