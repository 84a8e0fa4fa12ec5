"""Stage train: Ray Train starts workers, and each runs the training loop; with 0 workers it runs here, without Ray."""

import json
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ray_jobs.console import Console
from ray_jobs.evaluate import judged
from ray_jobs.failures import WorkerLost, told
from ray_jobs.folder import RunFolder
from ray_jobs.machines import missing_for, resources_of_worker
from ray_jobs.run_series import open_half
from ray_jobs.runtime import HeedTermination, RayRuntime, forget_registry
from ttsgan import api, recipes
from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.data.storage import Location, one_line
from ttsgan.errors import ConfigError, DataError, DivergedError, TtsganError
from ttsgan.trained_model import Model
from ttsgan.training import transitions
from ttsgan.training.dataset import TrainSet
from ttsgan.training.memory_map import map_train_set
from ttsgan.training.runtime import LocalRuntime, NotKept, Runtime, Stopped, device_of, patiently
from ttsgan.training.telemetry import PROGRESS_FILE

log = logging.getLogger(__name__)

STOP_FILE = "stop"
"""Written by a driver that was asked to stop; worker 0 polls for it."""
POLL_SECONDS = 2.0
COPY_SECONDS = 20.0
"""Seconds between two copies of the log to remote storage."""
SILENT_SECONDS = 60.0
"""Seconds without progress after which missing machines are told of."""
ENDED: dict[str, type[TtsganError]] = {
    "stopped": Stopped,
    "diverged": DivergedError,
    "not kept": NotKept,
    "refused": ConfigError,
}
"""Errors that all workers raise in the same step; they are returned as results, as Ray Train would retry errors."""
TOLD = {
    "diversity": "diversity",
    "generator/cycle": "distance to condition",
    "validation/days": "validation",
    "score/prior": "headline",
    "score/pool": "headline",
}
"""Figures that a progress line shows beside losses and gradients, with their titles."""
PROFILE_FOLDER = "train/profile"
"""Folder in the run folder for a Chrome trace and a table of the heaviest operators of each training stage."""
SCALER_FILE = "scaler.safetensors"
RESIZE_SECONDS = 60.0
"""Seconds between two checks for machines that an elastic run could grow onto."""
SILENCE_SECONDS = 600
"""Timeout of the process group: a worker that waits this long for the others gives up."""


def train_worker(
    where: Location, config: RunConfig, runtime: Runtime, keep_model: bool = True, profile: bool = False
) -> dict[str, Any]:
    """Train on the run folder's training series; return a summary.

    With ``keep_model``, rank 0 writes the model to ``checkpoints/model`` and the log to ``tensorboard``; a trial of a
    search keeps neither. With ``profile``, rank 0 writes `PROFILE_FOLDER`.
    """
    torch.set_num_threads(config.runtime.cpus_per_worker)
    data, scaler, score = _training_data(where, config, runtime)
    with ExitStack() as stack:
        logs = stack.enter_context(_written_to(where / "tensorboard", runtime.rank == 0 and keep_model))
        if profile and runtime.rank == 0:
            runtime.profile = stack.enter_context(_written_to(where / PROFILE_FOLDER, keep=True))
        state = api.train(data, scaler, config, runtime, logs, score)
    if runtime.rank == 0 and keep_model:
        files = Model(state.average, scaler, config).files()
        place = where / "checkpoints" / "model"
        patiently(lambda: _write_all(files, place), f"write {place}")
    return {
        "series_seen": state.total_series,
        "validation_loss_of_days": round(state.best_loss, 4),
        "correction": float(state.average.correction),
        "workers": runtime.world_size,
        "parameters": sum(p.numel() for p in state.networks.parameters()),
    }


def _write_all(files: dict[str, bytes], place: Location) -> None:
    with place.replace_dir() as made:
        for name, content in files.items():
            (made / name).write_bytes(content)


def _training_data(
    where: Location, config: RunConfig, runtime: Runtime
) -> tuple[TrainSet, SeriesScaler, transitions.Score | None]:
    """Return the scaled training series, their scaler and, on rank 0, the score; few series are in memory at a time."""
    half = open_half(where, holdout=False)
    entities, step_seconds = half.entities.astype(str), half.nothing.step_seconds
    scaler = SeriesScaler.from_bytes((where / "checkpoints" / SCALER_FILE).read_bytes(), config.household, step_seconds)
    score = None
    if runtime.rank == 0:
        halves = (judged(half.read(rows)) for rows in api.closeness_rows(entities, config.seed))
        score = api.closeness(*halves, config.seed)
    data = map_train_set(lambda rows: half.read(rows).values, half.starts, entities, scaler, config, runtime)
    return data, scaler, score


@contextmanager
def _written_to(place: Location, keep: bool) -> Iterator[Path]:
    """Yield a local folder whose files end up at ``place``, also after an error; without ``keep`` they are discarded.

    With ``keep`` and a local ``place``, it is that folder. Otherwise it is a temporary one; with ``keep`` this starts
    with the `PROGRESS_FILE` of ``place``, to be appended to, and is copied there every `COPY_SECONDS` and at the end.
    """
    if keep and place.is_local:
        place.local_path.mkdir(parents=True, exist_ok=True)
        yield place.local_path
        return
    with tempfile.TemporaryDirectory() as scratch:
        if keep and (place / PROGRESS_FILE).is_file():
            (Path(scratch) / PROGRESS_FILE).write_bytes((place / PROGRESS_FILE).read_bytes())
        done = threading.Event()
        copier = threading.Thread(target=_copy_until, args=(Path(scratch), place, done), daemon=True)
        if keep:
            copier.start()
        try:
            yield Path(scratch)
        finally:
            done.set()
            if keep:
                copier.join()
                _copy_last(Path(scratch), place)


def _copy_last(scratch: Path, place: Location) -> None:
    """Make the last copy of the log; a failure is only a warning, so that it costs neither model nor another error."""
    try:
        patiently(lambda: _copy(scratch, place), f"write {place}")
    except (DataError, OSError) as error:
        log.warning("%s; training goes on without the end of its log", one_line(error))


def _copy(scratch: Path, place: Location) -> None:
    for file in scratch.iterdir():
        (place / file.name).write_bytes(file.read_bytes())


def _copy_until(scratch: Path, place: Location, done: threading.Event) -> None:
    """Copy the files of a folder every `COPY_SECONDS` until ``done``; after a storage error, try again next time."""
    while not done.wait(COPY_SECONDS):
        with suppress(DataError, OSError):
            _copy(scratch, place)


def _ray_worker(settings: dict[str, Any]) -> dict[str, Any]:
    where, runtime = Location.parse(settings["where"]), RayRuntime()
    done, stop_file = threading.Event(), where / "checkpoints" / STOP_FILE
    if runtime.rank == 0:
        threading.Thread(target=_heed, args=(stop_file, runtime, done), daemon=True).start()
    try:
        return train_worker(where, recipes.from_dict(settings["config"]), runtime, profile=settings["profile"])
    except tuple(ENDED.values()) as error:
        if isinstance(error, Stopped) and not stop_file.is_file():
            # A preempted worker, not a stopped run: let Ray Train retry from the checkpoint with other workers.
            raise
        return next({name: str(error)} for name, kind in ENDED.items() if isinstance(error, kind))
    finally:
        done.set()


def _heed(stop_file: Location, runtime: Runtime, done: threading.Event) -> None:
    """Make this worker leave once ``stop_file`` exists."""
    while not done.wait(POLL_SECONDS):
        # After a storage error, ask again at the next poll.
        with suppress(DataError):
            if stop_file.is_file():
                runtime.leaving = True
                return


def run_train(folder: RunFolder, console: Console, profile: bool = False) -> dict[str, Any]:
    """Fit the scaler if it is missing, then train; return the summary. ``profile`` records some steps of worker 0."""
    where, config = folder.where, folder.config
    if not (where / "checkpoints" / SCALER_FILE).is_file():
        console.progress("fitting the scaler")
        fit_run_scaler(folder)
    stop, starved = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, console, stop, starved), daemon=True)
    watcher.start()
    try:
        if config.runtime.num_workers == 0:
            runtime = LocalRuntime((where / "checkpoints" / "train").local_path, device_of(config.runtime))
            with _on_sigterm(lambda: setattr(runtime, "leaving", True)) as asked:
                summary = train_worker(where, config, runtime, profile=profile)
            _leave_if(asked)
            return summary
        stop_file = where / "checkpoints" / STOP_FILE
        stop_file.remove()

        def leave() -> None:
            if starved.is_set():  # there is no worker to keep a checkpoint
                raise KeyboardInterrupt
            stop_file.write_bytes(b"")

        with _on_sigterm(leave) as asked:
            try:
                summary = _fit(where, config, profile)
            except Exception as error:
                if asked and isinstance(told(error), WorkerLost):
                    raise Stopped(
                        "stopped as asked, but Ray was ended at the same time: the same command goes on from the "
                        "checkpoint before; a signal to this process alone has one kept first"
                    ) from error
                raise
        for name, kind in ENDED.items():
            if name in summary:
                raise kind(summary[name])
        _leave_if(asked)
        return summary
    finally:
        stop.set()
        watcher.join()


def _leave_if(asked: list[bool]) -> None:
    """Raise `Stopped` if training was asked to stop but finished first: no later stage may begin."""
    if asked:
        raise Stopped("stopped as asked, at the end of training; the same command goes on from there")


@contextmanager
def _on_sigterm(act: Callable[[], object]) -> Iterator[list[bool]]:
    """Call ``act`` on the first SIGTERM instead of ending; a second one raises `KeyboardInterrupt`.

    Only the main thread can handle signals; in another thread this does nothing. Yields a list that is empty until the
    first SIGTERM.
    """
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def heard(*_: object) -> None:
        if asked:  # the second time: end at once, wherever the program is
            raise KeyboardInterrupt
        asked.append(True)
        log.warning("asked to stop; a checkpoint is kept first (asked again: at once)")
        act()

    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def fit_run_scaler(folder: RunFolder) -> None:
    """Fit the scaler on the training series of a run folder, and write it there for all workers to read."""
    half, rows, config = open_half(folder.where, holdout=False), None, folder.config
    if len(half) > api.MAX_SCALER_ROWS:
        lowest = np.concatenate([np.nanmin(block.values, axis=2) for block in half.blocks()])
        rows = api.scaler_rows(lowest, half.entities, config.seed)
    series = half.read(rows)
    scaler = SeriesScaler(config.household, series.step_seconds)
    scaler.fit(series.values, series.starts, config.seed, series.entities.astype(str))
    (folder.where / "checkpoints" / SCALER_FILE).write_bytes(scaler.to_bytes())


def _fit(where: Location, config: RunConfig, profile: bool) -> dict[str, Any]:
    runtime = config.runtime
    storage = where / "checkpoints"
    forget_registry(storage / "train")
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"where": where.uri, "config": recipes.to_dict(config), "profile": profile},
        torch_config=TorchConfig(timeout_s=SILENCE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=(runtime.min_workers, runtime.num_workers) if runtime.min_workers else runtime.num_workers,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=runtime.use_gpu,
            resources_per_worker=resources_of_worker(runtime),
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=FailureConfig(max_failures=runtime.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[HeedTermination()],
        ),
    )
    with _own_interrupt():
        return trainer.fit().return_value


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Turn Ray Train's exit on Ctrl-C, which has no message, into `KeyboardInterrupt`; then remove Ray's handler.

    Otherwise Ray Train's handler would stay for the later stages too.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before or signal.default_int_handler)


def _watch(folder: RunFolder, console: Console, stop: threading.Event, starved: threading.Event) -> None:
    """Show the newest progress line that the workers wrote, until ``stop`` is set.

    After `SILENT_SECONDS` without one, say whether machines are missing, and set ``starved`` if they are.
    """
    where, runtime = folder.where, folder.config.runtime
    lines, shown, heard = where / "tensorboard" / PROGRESS_FILE, b"", time.monotonic()
    with suppress(DataError, OSError):
        shown = _last_line(lines)  # from earlier training: not shown again
    while not stop.wait(1.0 if where.is_local else COPY_SECONDS):
        with suppress(DataError, OSError):
            newest = _last_line(lines)
            if newest and newest != shown:
                shown, heard = newest, time.monotonic()
                starved.clear()
                console.progress(_progress_line(newest))
        if runtime.num_workers and time.monotonic() - heard > SILENT_SECONDS:
            heard = time.monotonic()
            if missing := missing_for(runtime):
                starved.set()
                console.say(f"    training waits for machines: {missing}; Ctrl-C or SIGTERM ends the command")


def _last_line(lines: Location) -> bytes:
    """Return the last line of a file, or nothing if the file is empty or absent."""
    return (lines.read_bytes().splitlines() or [b""])[-1] if lines.is_file() else b""


def _progress_line(line: bytes) -> str:
    """Return a progress line in words; unknown figures, and those that are not floats (not finite), are left out."""
    try:
        said = json.loads(line)
    except ValueError:
        return "training"
    if "doing" in said:
        return f"training, before {said['stage']}: {said['doing']}"
    left = "" if said["seconds_left"] is None else f", {said['seconds_left']:.0f} s left"
    speed = f", {said['series_per_second']:.0f}/s" if said["series_per_second"] else ""
    parts = [f"training {said['stage']}: {said['series_seen']}/{said['total_series']} series{speed}{left}"]
    figures = {name: value for name, value in said.items() if isinstance(value, float)}
    for title, prefix in (("loss", "loss/"), ("gradient", "gradient_norm/")):
        told = [f"{k.removeprefix(prefix)} {v:.3f}" for k, v in figures.items() if k.startswith(prefix)]
        parts += [f"{title}: {', '.join(told)}"] if told else []
    parts += [f"{title} {figures[name]:.3f}" for name, title in TOLD.items() if name in figures]
    if "rollbacks" in said:
        parts.append(f"gone back {said['rollbacks']:.0f} times in this stage")
    return "; ".join(parts)
