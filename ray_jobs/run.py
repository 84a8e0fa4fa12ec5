"""Run one stage, or all stages in order, and show the result of a finished run."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ray_jobs.console import Console
from ray_jobs.encode import run_encode
from ray_jobs.evaluate import run_audit, run_evaluate, run_report, source_name
from ray_jobs.export import check_release, run_export
from ray_jobs.folder import STAGES, RunFolder
from ray_jobs.generate import run_generate
from ray_jobs.groups import run_cluster
from ray_jobs.machines import check_resources, check_this_machine, check_visible, start_ray
from ray_jobs.prepare import run_prepare
from ray_jobs.train import PROFILE_FOLDER, run_train
from ttsgan.errors import ReleaseRefused, TtsganError

STAGE_FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": run_prepare,
    "train": run_train,
    "encode": run_encode,
    "cluster": run_cluster,
    "generate": run_generate,
    "evaluate": run_evaluate,
    "audit": run_audit,
    "report": run_report,
    "export": run_export,
}
ON_RAY = ("train", "encode", "cluster", "generate", "evaluate", "audit")
ON_ACTORS = ("encode", "generate")
"""Stages that run on as many actors as there is room for, and wait for ever if there is room for none."""
SHOWN_REASONS = 5
"""Most reasons of a verdict that a table shows."""
DONE, NOT_PASSED = 0, 3
"""Exit statuses."""


def run_stage(folder: RunFolder, stage: str, console: Console, address: str, **options: bool) -> None:
    """Run one stage, even if it is done already; later stages then count as not done.

    ``options`` are passed to the stage's function in `STAGE_FUNCTIONS`.
    """
    position = STAGES.index(stage)
    for earlier in STAGES[:position]:
        if stage != "report" or earlier not in ("evaluate", "audit"):
            folder.require(earlier, stage)
    with console.working(f"[{position + 1}/{len(STAGES)}] {stage}"):
        try:
            _make_ready(folder, stage, address, **options)
            again = stage == "train" and folder.done("train")
            if stage != "report" and not folder.replaces and (folder.where / "release").is_dir():
                console.say(f"    {folder.where / 'release'} is removed: it is of what is made anew now")
            folder.begin(stage)
            if again:
                console.say(f"    {folder.where / 'checkpoints'} is removed: training starts over")
                for made in ("checkpoints", "tensorboard", PROFILE_FOLDER):
                    (folder.where / made).remove()
            started = time.monotonic()
            summary = STAGE_FUNCTIONS[stage](folder, console, **options)
        except TtsganError:
            if stage == "prepare" and not folder.replaces:
                # Nothing of value was made yet, and a corrected command must not find remains of this one.
                folder.withdraw()
            raise
        folder.finish(stage, time.monotonic() - started, summary)


def _make_ready(folder: RunFolder, stage: str, address: str, **options: bool) -> None:
    """Check machines and Ray, and start or join Ray, before a stage reads or removes anything."""
    runtime = folder.config.runtime
    # Stages on actors need room for one worker only.
    needed = dataclasses.replace(runtime, num_workers=1, min_workers=0) if stage in ON_ACTORS else runtime
    # Also for prepare, since its data are to be trained on here.
    if stage in ("prepare", "train", *ON_ACTORS) and address == "local":
        check_this_machine(needed)
    # What is wrong with a cluster is told before anything is read, too.
    joins = stage == "prepare" and address != "local"
    if joins or (stage in ON_RAY and (stage != "train" or runtime.num_workers)):
        start_ray(runtime, address)
    if joins:
        check_visible(folder.where)
        if not runtime.scale_up_seconds:
            check_resources(runtime)
    if stage == "export":
        check_release(folder, **options)
    if (stage == "train" and runtime.num_workers) or stage in ON_ACTORS:
        check_resources(needed)


def run_all(folder: RunFolder, console: Console, address: str, accept_unproven: bool) -> int:
    """Run the stages that are not done, show the result, and return the exit status."""
    if all(folder.done(stage) for stage in STAGES):
        console.say(f"{folder.where} is finished; nothing to do")
        show_result(folder, console)
        return DONE
    open_stages = [stage for stage in STAGES[:-1] if not folder.done(stage)]
    if not open_stages:
        console.say(f"{folder.where} is finished but for its release")
    for stage in open_stages:
        run_stage(folder, stage, console, address)
    refusal = None
    # Export may be done although an earlier stage was not: rebuilding the report keeps the release.
    if not folder.done("export"):
        try:
            run_stage(folder, "export", console, address, accept_unproven=accept_unproven)
        except ReleaseRefused as error:
            refusal = str(error)
    show_result(folder, console)

    if refusal:
        console.say(f"no release: {refusal}")
        return NOT_PASSED
    return DONE


def reasons_of(audited: dict[str, Any], most: int = SHOWN_REASONS) -> list[tuple[str, str]]:
    """Return table rows for a verdict: the loosened limits, then its first ``most`` reasons, which are the worst."""
    reasons, looser = audited["reasons"], audited.get("loosened")
    more = [f"and {len(reasons) - most} more, in the report"] if len(reasons) > most else []
    return [("", text) for text in [*([looser] if looser else []), *reasons[:most], *more]]


def show_result(folder: RunFolder, console: Console) -> None:
    """Print a short table of results and the paths of the release and the report."""
    prepared, generated = folder.summary("prepare"), folder.summary("generate")
    headline, audit = folder.summary("evaluate")["headline"], folder.summary("audit")
    rows = [
        ("source", source_name(folder.config)),
        ("entities: training, held out", f"{prepared['train_entities']}, {prepared['holdout_entities']}"),
        ("series set aside", str(len(prepared["set_aside"]))),
        ("points per series", f"{prepared['length']} of {prepared['step_seconds']} s"),
        ("from, until", f"{prepared.get('first', '')}, {prepared.get('end', '')}"),
        ("groups (smallest)", f"{folder.summary('cluster')['groups']} ({folder.summary('cluster')['smallest']})"),
        ("synthetic series", str(generated["series"])),
        ("fidelity, 1 = real sample", f"{headline['value']:.2f} ({headline['low']:.2f} to {headline['high']:.2f})"),
        ("privacy audit", audit["verdict"]),
    ]
    if audit["verdict"] != "PASS" or audit.get("loosened"):
        rows += reasons_of(audit)
    if folder.done("export"):
        rows.append(("release", str(folder.where / "release")))
    rows.append(("report", str(folder.where / "report.html")))
    console.table("Result", rows)
