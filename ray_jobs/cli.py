"""The ``ttsgan`` command.

Exit status: 0 done; 1 refused or failed, with one line that says why; 2 bad usage; 3 no release was
made (run, export), or the verdict is not PASS with the default limits (audit, judge); 130 interrupted.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Suppress

from ray_jobs.options import DataOptions, RunOptions, StageOptions
from ray_jobs.overrides import check_read, joined
from ttsgan import recipes
from ttsgan.errors import ConfigError, ReleaseRefused, TtsganError

FAILED, BAD_USAGE, NOT_PASSED, INTERRUPTED = 1, 2, 3, 130


def run(general: OmitArgPrefixes[RunOptions], data: OmitArgPrefixes[DataOptions], accept_unproven: bool = False) -> int:
    """Make a synthetic set: run all stages in order, and resume where an earlier call stopped.

    Parameters
    ----------
    general : RunOptions
    data : DataOptions
    accept_unproven : bool
        Release a set that is UNPROVEN, or was audited with looser limits than the default; the release says so.
        FAIL and INVALID are never released.
    """
    from ray_jobs.console import Console
    from ray_jobs.settings import open_run

    console = Console()
    folder = open_run(general, data, console)
    # This import takes seconds, so it comes after the checks of the command itself.
    from ray_jobs.run import run_all

    with folder.held():
        return run_all(folder, console, general.address, accept_unproven)


def train(general: OmitArgPrefixes[RunOptions], data: OmitArgPrefixes[DataOptions], profile: bool = False) -> int:
    """Train in a run folder; with --data, prepare it first.

    Parameters
    ----------
    general : RunOptions
    data : DataOptions
    profile : bool
        Profile some steps of each stage on worker 0 into train/profile/ in the run folder.
        Each stage gets a Chrome trace (for chrome://tracing or ui.perfetto.dev) and a table of the heaviest operators.
    """
    from ray_jobs.console import Console
    from ray_jobs.settings import open_run

    console = Console()
    folder = open_run(general, data, console)
    from ray_jobs.run import run_stage
    from ray_jobs.train import PROFILE_FOLDER

    with folder.held():
        if not folder.done("prepare"):
            run_stage(folder, "prepare", console, general.address)
        run_stage(folder, "train", console, general.address, profile=profile)
    if profile:
        console.say(f"profile {folder.where / PROFILE_FOLDER}")
    return 0


def _load(general: StageOptions):
    """Open an existing run folder."""
    from ray_jobs.folder import RunFolder
    from ttsgan.data.storage import Location

    return RunFolder.load(Location.parse(general.out))


def _stage(name: str, general: StageOptions, overrides: tuple[str, ...] = ()) -> int:
    """Run a stage again, with ``overrides`` applied to its settings; return the exit status."""
    from ray_jobs.console import Console

    console, folder = Console(), _load(general)
    check_read(overrides, name)
    folder.config = recipes.override(folder.config, overrides)
    from ray_jobs.run import reasons_of, run_stage

    with folder.held():
        run_stage(folder, name, console, general.address)
    if name == "audit":
        verdict = folder.summary("audit")
        rows = reasons_of(verdict, most=len(verdict["reasons"]))
        console.table("Audit", [("verdict", verdict["verdict"]), *rows])
    if name != "report":
        console.say(f"what comes after it is to be made anew; go on with: ttsgan run --out {folder.where.quoted}")
    return _status_of(verdict) if name == "audit" else 0


def _status_of(audited: dict) -> int:
    """Return the exit status for a verdict."""
    return 0 if audited["verdict"] == "PASS" and not audited["loosened"] else NOT_PASSED


def encode(general: OmitArgPrefixes[StageOptions]) -> int:
    """Encode the training series to latents."""
    return _stage("encode", general)


def cluster(general: OmitArgPrefixes[StageOptions]) -> int:
    """Group the entities by their latents and make the conditions."""
    return _stage("cluster", general)


def generate(general: OmitArgPrefixes[StageOptions], series: int = -1) -> int:
    """Draw synthetic series.

    Parameters
    ----------
    general : StageOptions
    series : int
        Series to write; 0: as many as training entities; -1: the number in the run folder's configuration.
    """
    return _stage("generate", general, () if series == -1 else (f"generate.series={series}",))


def evaluate(general: OmitArgPrefixes[StageOptions], set: tuple[str, ...] = ()) -> int:
    """Measure fidelity against the holdout.

    Parameters
    ----------
    general : StageOptions
    set : tuple of str
        Overrides of the configuration, such as evaluate.bootstrap=500; the run folder keeps them for later calls.
    """
    return _stage("evaluate", general, set)


def audit(general: OmitArgPrefixes[StageOptions], set: tuple[str, ...] = ()) -> int:
    """Attack the synthetic series and give the verdict; exit status 3 unless it is PASS with the default limits.

    It removes the release of an earlier audit. All audits of a run are counted; the release says how many there were.

    Parameters
    ----------
    general : StageOptions
    set : tuple of str
        Overrides of the configuration, such as audit.auc=0.6; the run folder keeps them until they are set again.
    """
    return _stage("audit", general, set)


def report(general: OmitArgPrefixes[StageOptions]) -> int:
    """Rebuild report.html."""
    return _stage("report", general)


def export(general: OmitArgPrefixes[StageOptions], accept_unproven: bool = False) -> int:
    """Write the release folder if the audit allows it; exit status 3 if not.

    Parameters
    ----------
    general : StageOptions
    accept_unproven : bool
        Release a set that is UNPROVEN, or was audited with looser limits than the default; the release says so.
        FAIL and INVALID are never released.
    """
    from ray_jobs.console import Console
    from ray_jobs.run import run_stage

    folder = _load(general)
    with folder.held():
        run_stage(folder, "export", Console(), general.address, accept_unproven=accept_unproven)
    return 0


def prepare(source: tuple[str, ...], out: str, data: OmitArgPrefixes[DataOptions], set: tuple[str, ...] = ()) -> int:
    """Read CSV, Parquet or .npy files, wide or long, and write a store that every command reads as --data.

    It shows what was understood: series, entities, step, unit, missing values. (The stage prepare of a run is part of
    run, train and tune.)

    Parameters
    ----------
    source : tuple of str
        Files, folders or URIs.
    out : str
        Store to write: a folder of Parquet parts.
    data : DataOptions
    set : tuple of str
        Overrides of the configuration, such as data.period=2013-01-01/2014-01-01: the same span of all series.
    """
    from ray_jobs.console import Console
    from ttsgan.data.prepare import check_replaceable
    from ttsgan.data.prepare import prepare as read
    from ttsgan.data.storage import Location
    from ttsgan.data.store import write_store

    console, where = Console(), Location.parse(out)
    where.check_writable()
    check_replaceable(where, map(Location.parse, source))
    check_read(set, "data", but=("data.source", "data.holdout", "data.canaries"))
    usual = recipes.quick()
    config = recipes.override(replace(usual, data=replace(usual.data, source=source, **data.asked())), set).data
    with console.working("preparing"):
        series, told = read(config, None)
        write_store(series, where)
    rows = [("series", f"{told.kept} of {told.read}"), ("entities", str(told.entities))]
    rows += [("set aside", f"{item.id}: {item.reason}") for item in told.set_aside[:10]]
    rows += [("joined", told.joined)] if told.joined else []
    rows += [("points, step, unit", f"{told.length}, {told.step_seconds} s, {told.unit or 'not known (--unit)'}")]
    rows += [("least, mean, largest value", f"{told.smallest:.4g}, {told.mean:.4g}, {told.largest:.4g}")]
    rows += [("missing values", f"{told.missing_share:.2%}")]
    rows += [("from, until", f"{told.first}, {told.end}"), ("store", str(where))]
    console.table("Prepared", rows)
    return 0


def judge(
    train: str,
    holdout: str,
    synthetic: str,
    data: OmitArgPrefixes[DataOptions],
    out: str = "",
    set: tuple[str, ...] = (),
    seed: int = 0,
    address: str = "local",
) -> int:
    """Judge any synthetic series: fidelity and privacy against real training and held-out series.

    Parameters
    ----------
    train : str
        File or folder of real series that the generator was trained on.
    holdout : str
        File or folder of real series that the generator never saw.
    synthetic : str
        File or folder of series that the generator made.
    data : DataOptions
    out : str
        Folder for evaluation.json, audit.json and report.html; by default nothing is written.
    set : tuple of str
        Overrides of the configuration, such as evaluate.bootstrap=500 or audit.auc=0.6.
    seed : int
        Seed of all random choices.
    address : str
        Ray cluster to join for large sets, or 'local' to start one.
    """
    from ray_jobs.console import Console
    from ray_jobs.judge import judge_files
    from ray_jobs.run import reasons_of
    from ttsgan.data.storage import Location

    console = Console()
    unread = ("data.source", "data.holdout", "data.canaries", "data.min_observed")
    check_read(set, "evaluate", "audit", "cluster", "data", "runtime", but=unread)
    usual = recipes.quick()
    asked = replace(usual.data, source=(train,), **data.asked())
    config = recipes.override(replace(usual, seed=seed, data=asked), set)
    where = Location.parse(out) if out else None
    if where is not None:
        where.check_writable()
    with console.working("judging"):
        fidelity, privacy = judge_files(train, holdout, synthetic, config, where, address, console)
    headline = fidelity["headline"]
    rows = [
        ("fidelity, 1 = real sample", f"{headline['value']:.2f} ({headline['low']:.2f} to {headline['high']:.2f})"),
        ("privacy audit", privacy["verdict"]),
        *(reasons_of(privacy) if where else reasons_of(privacy, most=len(privacy["reasons"]))),
    ]
    if where is not None:
        rows.append(("report", str(where / "report.html")))
    console.table("Judgement", rows)
    return _status_of(privacy)


def tune(general: OmitArgPrefixes[RunOptions], data: OmitArgPrefixes[DataOptions], trials: int = 8) -> int:
    """Search patch size, depth and latent dimension with Ray Tune; writes trials.parquet and best.json.

    Trials are compared by the validation loss of the temporal prior. Use the best one in another folder: ttsgan run
    --config OUT/best.json --data ... --out ANOTHER.

    Parameters
    ----------
    general : RunOptions
    data : DataOptions
    trials : int
        Configurations to try; trials that fall behind are stopped early.
    """
    from ray_jobs.console import Console
    from ray_jobs.settings import open_run

    if trials < 1:
        raise ConfigError(f"--trials is {trials}; allowed: 1 or more")
    console = Console()
    folder = open_run(general, data, console)
    from ray_jobs.run import run_stage
    from ray_jobs.tune import run_tune

    with folder.held():
        if not folder.done("prepare"):
            run_stage(folder, "prepare", console, general.address)
        run_tune(folder, console, general.address, trials)
    return 0


def submit(
    address: str,
    no_follow: bool = False,
    working_dir: str = "",
    env: tuple[str, ...] = (),
    command: Suppress[tuple[str, ...]] = (),
) -> int:
    """Run a command on a Ray cluster through its Jobs API: ttsgan submit --address URL -- run --data s3://... ...

    Parameters
    ----------
    address : str
        Address of the cluster's dashboard, such as http://127.0.0.1:8265.
    no_follow : bool
        Return once the job is accepted, instead of showing its output and exiting with its status.
    working_dir : str
        Folder to upload and start the command in; by default only this program's code is uploaded.
    env : tuple of str
        NAME=VALUE pairs for the job's environment; anyone who can see the cluster's jobs can read them.
    command : tuple of str
        The words after ``--``, passed in by `main`.
    """
    from pathlib import Path

    from ray_jobs.submit import submit as send

    wrong = [pair for pair in env if "=" not in pair]
    if wrong:
        raise ConfigError(f"--env {wrong[0]!r} has no '='; write NAME=VALUE")
    return send(
        address,
        list(command),
        working_dir=Path(working_dir) if working_dir else None,
        env=dict(pair.split("=", 1) for pair in env),
        follow=not no_follow,
    )


COMMANDS = {
    command.__name__: command
    for command in (
        run, prepare, train, encode, cluster, generate, evaluate, audit, export, report, judge, tune, submit,
    )
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run the command line ``words`` (by default that of the process); return the exit status."""
    words = sys.argv[1:] if words is None else words
    if words == ["--version"]:
        sys.stdout.write(f"ttsgan {version('ttsgan')}\n")
        return 0
    own = words[: words.index("--")] if "--" in words else words
    if own != words and own[:1] != ["submit"]:
        return _complain("only submit takes a command after two dashes; leave '--' and what follows it out", BAD_USAGE)
    # OpenMP threads that wait by spinning waste most of a busy machine; torch and scikit-learn read this variable.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS | {"submit": partial(submit, command=tuple(words[len(own) + 1 :]))},
            prog="ttsgan",
            description="Synthetic sets of long load profiles: trained, generated and privacy-audited on Ray. To begin "
            "with: ttsgan run --data sample --out runs/first. Version: ttsgan --version.",
            args=joined(own),
            config=(FlagCreatePairsOff,),
        )
    except KeyboardInterrupt:
        is_search = own[:1] == ["tune"]
        anew = "a search begins anew with the same command"
        on = "a run goes on from its last finished stage or checkpoint with the same command"
        return _complain(f"interrupted; {anew if is_search else on}", INTERRUPTED)
    except TtsganError as error:
        return _complain(error, _status(error))
    except Exception as error:
        from ray_jobs.failures import told

        known = told(error)
        if known is None:
            raise
        return _complain(known, _status(known))


def _status(error: TtsganError) -> int:
    if isinstance(error, ReleaseRefused):
        return NOT_PASSED
    return BAD_USAGE if isinstance(error, ConfigError) else FAILED


def _complain(error: object, status: int) -> int:
    sys.stderr.write(f"ttsgan: {' '.join(str(error).split())}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
