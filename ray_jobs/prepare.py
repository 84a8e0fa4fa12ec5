"""Stage prepare: sources to ``store/`` and ``splits.parquet``; the split comes before anything is fitted."""

import numpy as np
import pyarrow as pa

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ttsgan.config import RunConfig
from ttsgan.data.canaries import PREFIX, is_canary, make_canaries
from ttsgan.data.marginals import few_below
from ttsgan.data.prepare import check_patch, prepare
from ttsgan.data.simulate import simulate
from ttsgan.data.split import check_disjoint, check_enough, split_entities, write_splits
from ttsgan.data.storage import Location, one_line
from ttsgan.data.store import SeriesSet, concatenate, refuse_duplicates, write_store
from ttsgan.errors import DataError
from ttsgan.evaluation.privacy import MIN_ENTITIES, other_dates

LARGE_SHARE = 0.05
"""Share of the training series that one entity may own without a word."""


def sample_series(config: RunConfig) -> SeriesSet:
    """Return the simulated population."""
    sample = config.sample
    people = simulate(sample.households, sample.length, sample.seed)
    return SeriesSet(
        ids=people.ids.astype(object),
        entities=people.ids.astype(object),
        starts=people.starts,
        values=people.values,
        unit=people.unit,
        step_seconds=people.step_seconds,
        attributes=pa.table({"archetype": people.archetype.tolist()}),
        note="simulated",
    )


def run_prepare(folder: RunFolder, console: Console) -> dict:
    """Read, check, aggregate, set aside, split; return the summary."""
    config = folder.config
    simulated = None
    if config.data.is_sample:
        console.progress(f"simulating {config.sample.households} households")
        simulated = sample_series(config)
    series, report = prepare(config.data, None, simulated=simulated)
    check_patch(series, config.patch)
    summary = report.to_dict()
    fraction = config.data.holdout_fraction()
    if fraction is None:
        place = Location.parse(config.data.holdout)
        extra, extra_report = prepare(config.data, [place])
        check_disjoint(series.entities, extra.entities)
        holdout = np.arange(len(series) + len(extra)) >= len(series)
        both = [", ".join(config.data.source), str(place)]
        series = concatenate([series, extra], both)
        refuse_duplicates(series.ids, one_line(" and ".join(both), 160))
        summary["set_aside_of_holdout"] = extra_report.to_dict()["set_aside_by_reason"]
    else:
        holdout = split_entities(series.entities, fraction, config.seed, secret=series.fingerprint())
    if is_canary(series.entities).any():
        raise DataError(
            f"{', '.join(config.data.source)}: entities named {PREFIX}... are kept for planted series; rename"
        )
    check_enough(series.entities[~holdout], config.cluster.min_group_size)
    if folder.replaces:
        folder.start_over()
    if config.data.canaries:
        canaries, included = make_canaries(series.subset(~holdout), config.data.canaries, config.seed)
        write_store(canaries.subset(~included), folder.where / "canaries")
        names = [", ".join(config.data.source), "canaries"]
        series = concatenate([series, canaries.subset(included)], names)
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
    if report.joined:
        console.say(f"    joined: {report.joined}")
    few = few_below(np.nanmin(series.values, axis=2)[~holdout], series.entities[~holdout])
    for channel in np.flatnonzero(few):
        console.say(
            f"    values below 0 in channel {channel} are taken for zeros: {few[channel]} entities of the training half"
            " have any, and new series that have some would point at them"
        )
    _, owned = np.unique(series.entities[~holdout].astype(str), return_counts=True)
    if len(owned) > 1 and owned.max() > max(LARGE_SHARE * owned.sum(), 2 * np.median(owned)):
        console.say(
            f"    one entity owns {owned.max()} of {owned.sum()} series of the training half: new series will be like"
            " its own as often, though it is one of those to protect; keep fewer of its series, or leave it out"
        )
    labels = series.starts, series.entities.astype(str)
    dates = other_dates(*([of[half] for of in labels] for half in (~holdout, holdout)))
    if dates:
        console.say(f"    {dates}: the audit will say INVALID, so nothing of this run can be released")
    if summary["holdout_entities"] < MIN_ENTITIES:
        console.say(
            f"    holdout has {summary['holdout_entities']} entities; the audit needs {MIN_ENTITIES}, so nothing"
            " of this run can be released: add entities or change --holdout"
        )
    return summary
