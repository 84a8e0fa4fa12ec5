"""Stage prepare: read the sources into ``store/`` and ``splits.parquet``; the split comes before anything is fitted."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ray_jobs.console import Console
from ray_jobs.evaluate import judged, thresholds
from ray_jobs.folder import RunFolder
from ttsgan.config import RunConfig
from ttsgan.data.canaries import PREFIX, is_canary, make_canaries
from ttsgan.data.marginals import few_below
from ttsgan.data.prepare import day_points, prepare
from ttsgan.data.series_set import SeriesSet, concatenate, refuse_duplicates, refuse_untold_entities
from ttsgan.data.simulate import simulate
from ttsgan.data.split import check_disjoint, check_enough, split_entities, write_splits
from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import write_store
from ttsgan.errors import DataError
from ttsgan.evaluation.gate import least_for_pass
from ttsgan.evaluation.privacy import MIN_ENTITIES, other_dates

LARGE_SHARE = 0.05
"""Share of the training series that one entity may own without a remark."""


def run_prepare(folder: RunFolder, console: Console) -> dict:
    """Read, check, aggregate, set aside, split; return the summary."""
    config = folder.config
    source = ", ".join(config.data.source)
    series, holdout, summary = _read_halves(config, console)
    if is_canary(series.entities).any():
        raise DataError(f"{source}: entities named {PREFIX}... are kept for planted series; rename")
    check_enough(series.entities[~holdout], config.cluster.min_group_size)
    if folder.replaces:
        folder.start_over()
    if config.data.canaries:
        canaries, included = make_canaries(series.subset(~holdout), config.data.canaries, config.seed)
        write_store(canaries.subset(~included), folder.where / "canaries")
        series = concatenate([series, canaries.subset(included)], [source, "canaries"])
        holdout = np.concatenate([holdout, np.zeros(included.sum(), bool)])
    write_store(series, folder.where / "store")
    write_splits(folder.where / "splits.parquet", series.ids, series.entities, holdout)
    summary |= {
        "simulated": series.note == "simulated",
        "fingerprint": series.fingerprint(),
        "train_series": int((~holdout).sum()),
        "holdout_series": int(holdout.sum()),
        "train_entities": len(np.unique(series.entities[~holdout].astype(str))),
        "holdout_entities": len(np.unique(series.entities[holdout].astype(str))),
    }
    for remark in _remarks(series, holdout, config):
        console.say(f"    {remark}")
    return summary


def _read_halves(config: RunConfig, console: Console) -> tuple[SeriesSet, NDArray[np.bool_], dict]:
    """Return all series, which of them are held out, and a summary of how they were read."""
    simulated = None
    if config.data.is_sample:
        console.progress(f"simulating {config.sample.households} households")
        sample = config.sample
        simulated = simulate(sample.households, sample.length, sample.seed)
    series, report = prepare(config.data, None, simulated=simulated)
    day_points(series.step_seconds, config.patch)  # a step that gives no tokens is refused before training
    if report.joined:
        console.say(f"    joined: {report.joined}")
    summary = report.to_dict()
    fraction = config.data.holdout_fraction()
    if fraction is not None:
        series, told = one_entity_of_twins(series, _courses(series))
        if told:
            console.say(f"    {told}")
        return series, split_entities(series.entities, fraction, config.seed, secret=series.fingerprint()), summary
    place = Location.parse(config.data.holdout)
    extra, extra_report = prepare(config.data, [place])
    both = [", ".join(config.data.source), str(place)]
    if not config.data.is_sample:
        refuse_untold_entities(dict(zip(both, (series, extra), strict=True)), one_line(" and ".join(both), 160))
    check_disjoint(series.entities, extra.entities)
    whole = concatenate([series, extra], both)
    refuse_duplicates(whole.ids, one_line(" and ".join(both), 160))
    summary["set_aside_of_holdout"] = extra_report.to_dict()["set_aside_by_reason"]
    holdout = np.arange(len(whole)) >= len(series)
    course = _courses(whole)
    refuse_twins(whole, course, holdout)
    whole, told = one_entity_of_twins(whole, course)
    if told:
        console.say(f"    {told}")
    return whole, holdout, summary


def one_entity_of_twins(series: SeriesSet, course: NDArray[np.int64]) -> tuple[SeriesSet, str]:
    """Merge entities that share an identical series into one, named as the first; return a remark too, or "".

    Series (n,) are identical if their number ``course`` is. Otherwise a home that was exported twice could be trained
    on and held out at once.
    """
    names, owner = np.unique(series.entities.astype(str), return_inverse=True)
    size = len(names) + course.max() + 1
    links = coo_array((np.ones(len(series)), (owner, len(names) + course)), shape=(size, size))
    one = connected_components(links, directed=False)[1][owner]
    _, first, member = np.unique(one, return_index=True, return_inverse=True)
    if len(first) == len(names):
        return series, ""
    # For each series, the first one with the same values; the example is the first pair of different entities.
    earlier = np.unique(course, return_index=True)[1][course]
    at = int(np.argmax(owner[earlier] != owner))
    told = f"{series.ids[earlier[at]]} and {series.ids[at]} are the same series; they are protected as one"
    if (others := len(names) - len(first) - 1) > 0:
        told += f", and so are {others} more entities"
    return dataclasses.replace(series, entities=series.entities[first[member]]), told


def refuse_twins(series: SeriesSet, course: NDArray[np.int64], holdout: NDArray[np.bool_]) -> None:
    """Raise `DataError` if the same series, by its number ``course`` (n,), is in both halves; ``holdout`` is (n,)."""
    shared, at, there = np.intersect1d(course[~holdout], course[holdout], return_indices=True)
    if len(shared):
        raise DataError(
            f"data.holdout: {len(shared)} of its series are in the training data as well, such as"
            f" {series.ids[holdout][there[0]]!r}, which is {series.ids[~holdout][at[0]]!r} there; remove them from one"
            " side"
        )


def _courses(series: SeriesSet) -> NDArray[np.int64]:
    """Return a number for each series (n,), equal for series with equal values."""
    return np.unique(np.array(judged(series).fingerprints(), dtype="V32"), return_inverse=True)[1]


def _remarks(series: SeriesSet, holdout: NDArray[np.bool_], config: RunConfig) -> Iterator[str]:
    """Yield remarks on the two halves that the owner should read before hours of training."""
    entities = series.entities.astype(str)
    few = few_below(np.nanmin(series.values, axis=2)[~holdout], series.entities[~holdout])
    for channel in np.flatnonzero(few):
        yield (
            f"values below 0 in channel {channel} are taken for zeros: {few[channel]} entities of the training half"
            " have any, and new series that have some would point at them"
        )
    owned = np.unique(entities[~holdout], return_counts=True)[1]
    if len(owned) > 1 and owned.max() > max(LARGE_SHARE * owned.sum(), 2 * np.median(owned)):
        yield (
            f"one entity owns {owned.max()} of {owned.sum()} series of the training half: new series will be like"
            " its own as often, though it is one of those to protect; keep fewer of its series, or leave it out"
        )
    wanted, num = config.generate.series, len(owned)
    if 0 < wanted < MIN_ENTITIES:
        yield (
            f"generate.series is {wanted}; the audit needs {MIN_ENTITIES} synthetic series, so nothing of this run can"
            " be released: raise --series"
        )
    least_series, least_entities = least_for_pass(thresholds(config.audit, config.cluster))
    missing = []
    if least_series and (wanted or num) < least_series:
        missing.append(f"{least_series:,} synthetic series (here {wanted or num:,}; --series)")
    if least_entities and num < least_entities:
        missing.append(f"{least_entities:,} training entities (here {num:,})")
    if missing:
        yield f"the audit can say UNPROVEN at best: a PASS needs about {' and '.join(missing)}"
    if dates := other_dates(*((series.starts[half], entities[half]) for half in (~holdout, holdout))):
        yield f"{dates}: the audit will say INVALID, so nothing of this run can be released"
    if (kept := len(np.unique(entities[holdout]))) < MIN_ENTITIES:
        share = math.ceil(100 * MIN_ENTITIES / len(np.unique(entities))) / 100
        more = f", or hold out more, such as --holdout {share:g}" if share <= 0.5 else ""
        yield (
            f"holdout has {kept} entities; the audit needs {MIN_ENTITIES}, so nothing of this run can be released:"
            f" add entities{more}"
        )
