"""Stages evaluate, audit and report: read the run folder, call the library's judges, write the results."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from ray_jobs.blocks import RayMap
from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.model_attacks import read_inside
from ray_jobs.run_series import Stored, open_half, open_series, read_rows
from ttsgan import recipes
from ttsgan.config import AuditConfig, ClusterConfig, RunConfig
from ttsgan.data.canaries import is_canary
from ttsgan.data.series_set import SeriesSet, concatenate
from ttsgan.data.storage import Location
from ttsgan.data.store import read_store
from ttsgan.evaluation.blocks import BLOCK_SERIES, Blocks, ParallelMap, in_turn
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.figures import MAX_SERIES
from ttsgan.evaluation.judged import Judged, sample_rows
from ttsgan.evaluation.privacy import Canaries, Thresholds, audit
from ttsgan.evaluation.report import Pictures, render


def judged(series: SeriesSet) -> Judged:
    """Convert series to the form that the judges read."""
    return Judged(
        values=series.values,
        entities=series.entities.astype(str),
        starts=series.starts,
        step_seconds=series.step_seconds,
        unit=series.unit,
    )


def open_three(where: Location) -> tuple[Stored, Stored, Stored]:
    """Open the training, held-out and synthetic series of a run folder, without the planted ones (canaries)."""
    halves = (open_half(where, holdout, planted=False) for holdout in (False, True))
    return *halves, open_series(where / "synthetic")


def blocks_of(series: Stored) -> Blocks:
    """Divide series of a store into blocks, each of as many whole parts as fit into `BLOCK_SERIES` series, or one."""
    blocks, size = [[]], 0
    for part in series.parts():
        if size and size + len(part[1]) > BLOCK_SERIES:
            blocks, size = [*blocks, []], 0
        blocks[-1].append(part)
        size += len(part[1])
    return Blocks(tuple(partial(_read_parts, series.nothing, block) for block in blocks))


def _read_parts(nothing: SeriesSet, parts: list[tuple[Location, np.ndarray]]) -> Judged:
    """Read rows of parts; ``nothing`` says what length, step and unit all parts of the store must have."""
    held = [nothing, *(read_rows(file, rows) for file, rows in parts)]
    return judged(concatenate(held, ["the first part", *(str(file) for file, _ in parts)]))


def thresholds(config: AuditConfig, cluster: ClusterConfig) -> Thresholds:
    """Return the audit's limits from a configuration."""
    limits = dataclasses.asdict(config)
    limits.pop("max_targets")
    return Thresholds(**limits, min_group_size=cluster.min_group_size, max_dominance=cluster.max_dominance)


def loosened_line(config: RunConfig) -> str:
    """Return a sentence that names the audit limits looser than the usual ones, or "" where none is."""
    usual = dataclasses.asdict(thresholds(AuditConfig(), ClusterConfig()))
    limits = dataclasses.asdict(thresholds(config.audit, config.cluster))
    looser = [
        f"{'audit' if hasattr(config.audit, name) else 'cluster'}.{name} = {limit:g}, usually {usual[name]:g}"
        for name, limit in limits.items()
        if (limit < usual[name] if name == "min_group_size" else limit > usual[name])
    ]
    return f"LIMITS OF THE AUDIT WERE LOOSENED: {', '.join(looser)}." if looser else ""


def fidelity(
    train: Judged | Blocks,
    holdout: Judged | Blocks,
    synthetic: Judged | Blocks,
    config: RunConfig,
    parallel_map: ParallelMap = in_turn,
) -> dict[str, Any]:
    """Evaluate fidelity with the settings of a configuration."""
    limits = config.evaluate
    return evaluate(
        train,
        holdout,
        synthetic,
        seed=config.seed,
        max_series=limits.max_series,
        bootstrap=limits.bootstrap,
        classifier_series=limits.classifier_series,
        classifier_seeds=limits.classifier_seeds,
        parallel_map=parallel_map,
    )


def run_evaluate(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Write ``evaluation.json``; return the summary."""
    console.progress("measuring distances to the holdout")
    result = fidelity(*map(blocks_of, open_three(folder.where)), folder.config, RayMap())
    (folder.where / "evaluation.json").write_json(result)
    return {"headline": result["headline"]}


def run_audit(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Write ``audit.json`` and record the attempt in the manifest; return the summary."""
    config, where = folder.config, folder.where
    of_train, holdout, synthetic = open_three(where)
    train = of_train.read()
    fingerprints = {"train": train.fingerprint(), "synthetic": synthetic.fingerprint()}
    result = audit(
        judged(train),
        blocks_of(holdout),
        blocks_of(synthetic),
        thresholds=thresholds(config.audit, config.cluster),
        seed=config.seed,
        max_targets=config.audit.max_targets,
        inside=read_inside(where),
        canaries=read_canaries(where),
        parallel_map=RayMap(),
        progress=lambda share, text: console.progress(f"attacking: {text} ({share:.0%})"),
    )
    folder.manifest["audit_attempts"].append({"verdict": result["verdict"], **fingerprints})
    folder.save()
    result |= {"fingerprints": fingerprints, "attempts": folder.manifest["audit_attempts"]}
    result |= {"loosened": loosened_line(config)}
    (where / "audit.json").write_json(result)
    return {name: result[name] for name in ("verdict", "reasons", "loosened")}


def read_canaries(where: Location) -> Canaries | None:
    """Return a run folder's canaries, those planted and those left out, or None where it has none."""
    if not (where / "canaries").is_dir():
        return None
    train = open_half(where, holdout=False)
    planted = train.read(np.flatnonzero(is_canary(train.entities)))
    return Canaries(judged(planted), judged(read_store(where / "canaries")))


def run_report(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Write ``report.html``; return the summary."""
    console.progress("drawing the report")
    page = report_page(folder, first_line=loosened_line(folder.config) if folder.done("audit") else "")
    (folder.where / "report.html").write_bytes(page.encode())
    return {"bytes": len(page)}


def report_page(folder: RunFolder, first_line: str, show_real: bool = True) -> str:
    """Return the report of a run folder, with ``first_line`` at its very top.

    Without ``show_real`` (for a release made from real households) it shows no single household, no name of a file or
    column, and no fingerprint of the training data, which would confirm a correct guess of them.
    """
    where, config = folder.where, folder.config
    rng = np.random.default_rng(config.seed)
    few = [judged(part.read(sample_rows(part.entities, MAX_SERIES, rng))) for part in open_three(where)]
    prepared = folder.summary("prepare")
    audited = (where / "audit.json").read_json() if folder.done("audit") else None
    if audited and not show_real:
        audited["attempts"] = [{"verdict": attempt["verdict"]} for attempt in audited["attempts"]]
    return render(
        title=f"Synthetic series from {source_name(config)}" if show_real else "Synthetic series",
        # The file of an earlier synthetic set stays until evaluate runs again, and must not be shown.
        evaluation=(where / "evaluation.json").read_json() if folder.done("evaluate") else None,
        audit=audited,
        pictures=Pictures(*few),
        facts=_facts(folder, show_real),
        first_line=first_line,
        simulated=prepared["simulated"],
        show_real=show_real,
    )


def source_name(config: RunConfig) -> str:
    """Return the names of the sources, without their folders, which only the owner needs to know."""
    if config.data.is_sample:
        return "simulated households"
    return ", ".join(text.rstrip("/").rpartition("/")[2] for text in config.data.source)


def _facts(folder: RunFolder, show_data: bool) -> list[tuple[str, str]]:
    prepared, groups = folder.summary("prepare"), folder.summary("cluster")
    return [
        ("Recipe", folder.config.recipe),
        ("Entities in training / held out", f"{prepared['train_entities']} / {prepared['holdout_entities']}"),
        ("Series set aside", ", ".join(f"{n} {why}" for why, n in prepared["set_aside_by_reason"].items()) or "none"),
        ("Points, step, unit", f"{prepared['length']}, {prepared['step_seconds']} s, {prepared['unit']}"),
        ("Missing values in the input", f"{prepared['missing_share']:.2%}"),
        ("Groups, smallest group", f"{groups['groups']}, {groups['smallest']} entities"),
        ("Synthetic series", str(folder.summary("generate")["series"])),
        ("Series seen in training", str(folder.summary("train")["series_seen"])),
        ("Seed", str(folder.config.seed)),
        ("Versions", ", ".join(f"{name} {number}" for name, number in folder.manifest["versions"].items())),
        ("Changed from the recipe", ", ".join(_changes(folder.config, show_data)) or "nothing"),
    ]


def _changes(config: RunConfig, show_data: bool) -> list[str]:
    changed = recipes.changes(config).items()
    return [f"{name} = {value}" for name, value in changed if show_data or not name.startswith("data.")]
