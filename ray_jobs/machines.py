"""Starting Ray, or joining it, and checking that it has what a run asks for."""

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data
import torch
from ray.autoscaler.sdk import request_resources

from ttsgan.config import RuntimeConfig
from ttsgan.errors import ConfigError

SPARE_SLOTS = 2
"""CPU slots of a local Ray beyond the cores, for tasks that only read and hand on."""
OBJECT_STORE_BYTES = 1_500_000_000
WORKERS_PER_CORE = 2
"""Workers of one CPU each that may share a core of this machine: slower than one each, but they work."""
POLL_SECONDS = 5.0


def start_ray(runtime: RuntimeConfig, address: str, dashboard: bool = False, trials: int = 1) -> None:
    """Start a local Ray for this command (``local``), or join the cluster at ``address``.

    A local one has room for so many ``trials`` at a time, each with all workers, and a ``dashboard`` only where it is
    needed: it costs seconds and memory.

    Raises
    ------
    ConfigError
        If the cluster cannot be joined.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ray's own log files keep these; on the screen they are warnings about how Ray Data uses its own actors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    # This program shows its own progress; Ray's would bury it.
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    ray.data.DataContext.get_current().enable_progress_bars = False
    if address == "local":
        wanted = runtime.num_workers * runtime.cpus_per_worker * trials
        slots = max(cores(), wanted) + SPARE_SLOTS
        shown = {"include_dashboard": False}
        if dashboard:
            shown = {"include_dashboard": True, "dashboard_port": _free_port()}
            # Ray's own helpers, which inherit this, look for the Ray of this machine and fail where there are two.
            os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{shown['dashboard_port']}"
        with _no_stderr(), _own_sigterm():
            ray.init(
                address="local",
                num_cpus=slots,
                object_store_memory=OBJECT_STORE_BYTES,
                **shown,
                **quiet,
            )
        return
    try:
        with _own_sigterm():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--address {address} cannot be joined: {' '.join(str(error).split())[:200]}") from error


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def cores() -> int:
    """Return how many cores this process may use: those of its affinity, which a batch system may have narrowed."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this program's answer to SIGTERM, one line: that of Ray ends the process without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep what Ray's C++ part says while it starts off the screen; what goes wrong is raised all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_this_machine(runtime: RuntimeConfig, trials: int = 1) -> None:
    """Refuse a local run that asks for more than this machine has, before Ray is started.

    Of a search, so many ``trials`` run at a time, each with all workers.

    Raises
    ------
    ConfigError
        With what is asked for and what there is.
    """
    workers, cards = runtime.num_workers * trials, torch.cuda.device_count()
    asked = _asked("runtime.num_workers", runtime.num_workers, trials)
    if runtime.use_gpu and cards < max(workers, 1):
        least = "runtime.num_workers" if cards else "runtime.use_gpu"
        raise ConfigError(
            f"{asked} need {max(workers, 1)} GPUs, this machine has {cards}; change"
            f" {least}, or give the --address of a cluster"
        )
    if workers * runtime.cpus_per_worker > WORKERS_PER_CORE * cores():
        raise ConfigError(
            f"{asked} need {workers * runtime.cpus_per_worker} CPUs, this machine has"
            f" {cores()} (up to {WORKERS_PER_CORE} workers may share one); lower runtime.num_workers or"
            " runtime.cpus_per_worker, or give the --address of a cluster"
        )


def _asked(field: str, workers: int, trials: int) -> str:
    """Return what the configuration asks for, in words."""
    each = f"{field} = {workers} workers"
    return each if trials == 1 else f"{each} for each of runtime.max_concurrent_trials = {trials} trials"


def check_resources(runtime: RuntimeConfig, trials: int = 1) -> None:
    """Refuse a run that asks for more than the Ray cluster has, instead of waiting for ever.

    Of a search, so many ``trials`` run at a time, each with all workers.
    With ``runtime.scale_up_seconds`` an autoscaler is asked for the machines and given that long to bring them.

    Raises
    ------
    ConfigError
        With what is asked for and what there is.
    """
    of_one = runtime.min_workers or max(runtime.num_workers, 1)
    workers = of_one * trials
    each = {"CPU": runtime.cpus_per_worker, **({"GPU": 1} if runtime.use_gpu else {})}
    missing = _missing(each, workers)
    if missing and runtime.scale_up_seconds:
        request_resources(bundles=[each] * workers)
        give_up = time.monotonic() + runtime.scale_up_seconds
        try:
            while missing and time.monotonic() < give_up:
                time.sleep(POLL_SECONDS)
                missing = _missing(each, workers)
        finally:
            # A request holds its machines until another one takes its place, long after this run.
            request_resources(bundles=[])
    if missing:
        field = "runtime.min_workers" if runtime.min_workers else "runtime.num_workers"
        raise ConfigError(f"{_asked(field, of_one, trials)} need {missing}; lower {field} or add machines")


def _missing(each: dict[str, int], workers: int) -> str:
    have = ray.cluster_resources()
    short = [name for name, count in each.items() if workers * count > have.get(name, 0)]
    if short:
        return ", ".join(f"{workers * each[name]} {name}s, the Ray cluster has {have.get(name, 0):g}" for name in short)
    # A worker lives on one machine: two halves of it on two are none.
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(machine.get(name, 0) // count) for name, count in each.items()) for machine in machines)
    asked = " and ".join(f"{count} {name}s" for name, count in each.items())
    return "" if room >= workers else f"{asked} on one machine each, and the machines have room for {room}"
