"""``ttsgan judge``: fidelity and privacy of any synthetic series, from plain files, without a run folder."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import ray

from ray_jobs.blocks import RayMap
from ray_jobs.console import Console
from ray_jobs.evaluate import fidelity, judged, loosened_line, thresholds
from ray_jobs.folder import is_run
from ray_jobs.machines import start_ray
from ttsgan.config import RunConfig
from ttsgan.data.prepare import prepare
from ttsgan.data.series_set import refuse_untold_entities
from ttsgan.data.storage import Location, one_line
from ttsgan.errors import DataError
from ttsgan.evaluation.blocks import BLOCK_SERIES, Blocks, in_turn
from ttsgan.evaluation.figures import MAX_SERIES
from ttsgan.evaluation.judged import Judged, weekday
from ttsgan.evaluation.privacy import audit
from ttsgan.evaluation.report import Pictures, render

OTHER_SIZE = 5.0
"""Ratio of median sizes that sets of one unit and population do not exceed."""
FEWEST_PLAUSIBLE = 0.05
"""Precision below which the sets are as good as disjoint."""
RAY_SERIES = 4_000
"""More synthetic series than this are judged on Ray; fewer are judged in less time than Ray needs to start."""


def judge_files(
    train: str, holdout: str, synthetic: str, config: RunConfig, out: Location | None, address: str, console: Console
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Judge synthetic series; write ``evaluation.json``, ``audit.json`` and ``report.html`` into ``out`` if given.

    Each judgement into a folder is added to ``attempts`` in its ``audit.json``: judging until it passes is a leak.

    Returns
    -------
    evaluation, audit : dict

    Raises
    ------
    DataError
        If ``out`` is a run folder, whose own judgement would be lost, or holds another program's ``audit.json``.
    """
    if out is not None and is_run(out):
        raise DataError(f"--out {out} is a run folder, whose own judgement would be lost; choose another folder")
    earlier = _earlier_attempts(out)
    sets = []
    for name, path in (("train", train), ("holdout", holdout), ("synthetic", synthetic)):
        console.progress(f"reading {name}")
        options = config.data if name != "synthetic" else dataclasses.replace(config.data, entity="entity")
        like = sets[0] if sets else None
        sets.append(prepare(options, [Location.parse(path)], keep_all=True, like=like)[0])
    refuse_untold_entities({train: sets[0], holdout: sets[1]}, one_line(f"{train} and {holdout}", 160))
    fingerprints = {"train": sets[0].fingerprint(), "synthetic": sets[2].fingerprint()}
    sets = [judged(series) for series in sets]
    warnings = list(questions(*sets))
    for told in warnings:
        console.say(f"    {told}")
    # A synthetic series belongs to nobody, whoever made it, so each is its own entity.
    sets[2] = dataclasses.replace(sets[2], entities=np.arange(len(sets[2])).astype(str))
    large, parallel_map = len(sets[2]) > RAY_SERIES, in_turn
    if large:
        start_ray(config.runtime, address)
        parallel_map = RayMap()
    console.progress("measuring distances to the holdout")
    evaluation = fidelity(*sets, config, parallel_map)
    if told := apart_question(evaluation):
        warnings.append(told)
        console.say(f"    {told}")
    evaluation["warnings"] = warnings
    rng = np.random.default_rng(config.seed)
    pictures = Pictures(*(part.sample_entities(MAX_SERIES, rng) for part in sets))
    blocks = _shared(sets.pop()) if large else sets.pop()
    verdict = audit(
        *sets,
        blocks,
        thresholds=thresholds(config.audit, config.cluster),
        seed=config.seed,
        max_targets=config.audit.max_targets,
        parallel_map=parallel_map,
        progress=lambda share, text: console.progress(f"attacking: {text} ({share:.0%})"),
    )
    attempts = [*earlier, {"verdict": verdict["verdict"], **fingerprints}]
    verdict |= {"fingerprints": fingerprints, "attempts": attempts, "loosened": loosened_line(config)}
    if out is not None:
        facts = [("Training", train), ("Holdout", holdout), ("Synthetic", synthetic), ("Seed", str(config.seed))]
        facts += [("Warning", told) for told in warnings]
        page = render(
            title="Judgement of synthetic series", evaluation=evaluation, audit=verdict, pictures=pictures, facts=facts,
            first_line=verdict["loosened"],
        )  # fmt: skip
        (out / "evaluation.json").write_json(evaluation)
        (out / "audit.json").write_json(verdict)
        (out / "report.html").write_bytes(page.encode())
    return evaluation, verdict


def _earlier_attempts(out: Location | None) -> list[dict[str, Any]]:
    """Return the attempts recorded in a folder by earlier judgements."""
    if out is None or not (out / "audit.json").is_file():
        return []
    said = (out / "audit.json").read_json()
    if not isinstance(said, dict) or "verdict" not in said:
        raise DataError(
            f"{out / 'audit.json'} is not of a judgement and would be lost; choose another folder for --out"
        )
    return said.get("attempts", [])


def questions(train: Judged, holdout: Judged, synthetic: Judged) -> Iterator[str]:
    """Yield warnings of what the figures alone do not tell; they go into ``evaluation.json`` and the report as well."""
    for name, other in (("holdout", holdout), ("synthetic", synthetic)):
        if told := unit_question(train, other, name):
            yield told
    if told := start_question(train, synthetic):
        yield told
    empty, constant = synthetic.usable()
    held_out, varied = set(holdout.fingerprints()), synthetic.take(~(empty | constant))
    if same := sum(map(held_out.__contains__, varied.fingerprints())):
        yield (
            f"{same} of {len(synthetic)} synthetic series are series of the holdout: these are real, and no figure here"
            " is one of a synthetic set"
        )
    if empty.any():
        yield f"{empty.sum()} of {len(synthetic)} synthetic series hold no reading"


def apart_question(evaluation: dict[str, Any]) -> str:
    """Return a warning if fewer than `FEWEST_PLAUSIBLE` of the synthetic series lie among real ones, or ""."""
    precision = next((m["value"] for m in evaluation["metrics"] if m["name"].startswith("precision")), 1.0)
    if precision >= FEWEST_PLAUSIBLE:
        return ""
    return (
        f"only {precision:.0%} of the synthetic series lie among real ones (precision): the two sets are told apart by"
        " something, which a mean over all distances, such as fidelity, may hide"
    )


def unit_question(train: Judged, other: Judged, name: str) -> str:
    """Return a warning if the median sizes of two sets differ by a factor over `OTHER_SIZE` in a channel, or ""."""
    for channel, (size, size_of_other) in enumerate(zip(_sizes(train), _sizes(other), strict=False)):
        if size_of_other > OTHER_SIZE * size or size > OTHER_SIZE * size_of_other:
            return (
                f"the mean size of {name} series is {size_of_other:.3g} in channel {channel}, that of training series"
                f" {size:.3g} (medians): is one of them in another unit?"
            )
    return ""


def start_question(train: Judged, synthetic: Judged) -> str:
    """Return a warning if most synthetic series start at another time of the week than most training series, or ""."""
    (mine, often), (other, as_often) = (_usual_start(of) for of in (train, synthetic))
    if mine == other or min(often, as_often) <= 0.5:
        return ""
    return (
        f"most synthetic series start on a {other}, most training series on a {mine}, and weekdays and hours are"
        " compared: correct the start in the file, or set --start where it tells none, if they are meant to be the same"
    )


def _usual_start(of: Judged) -> tuple[str, float]:
    """Return the most frequent weekday and time of the starts, in words, and its share of the series."""
    days = of.starts.astype("datetime64[D]")
    moments = weekday(days) * np.timedelta64(1, "D") + (of.starts - days)
    found, counts = np.unique(moments, return_counts=True)
    # 1970-01-05 was a Monday.
    moment = np.datetime64("1970-01-05", "s") + found[counts.argmax()]
    return f"{moment.item():%A at %H:%M:%S}", counts.max() / len(of)


def _sizes(of: Judged) -> list[float]:
    """Return for each channel the median of the series' mean absolute values; series without readings are left out."""
    seen = (~np.isnan(of.values)).sum(axis=2)
    means = np.nansum(np.abs(of.values), axis=2) / np.maximum(seen, 1)
    return [
        float(np.median(mean[have])) if have.any() else np.nan for mean, have in zip(means.T, seen.T > 0, strict=True)
    ]


def _shared(series: Judged) -> Blocks:
    """Put a set into Ray's object store, block by block."""
    starts = range(0, len(series), BLOCK_SERIES)
    return Blocks(tuple(partial(_get, [ray.put(series.take(slice(i, i + BLOCK_SERIES)))]) for i in starts))


def _get(reference: list[ray.ObjectRef]) -> Judged:
    return ray.get(reference[0])
