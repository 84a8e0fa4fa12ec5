"""Start or join Ray, and check that it has the resources that a run asks for."""

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data
import torch
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.failures import ClusterError
from ttsgan.config import RuntimeConfig
from ttsgan.data.storage import Location
from ttsgan.errors import ConfigError, DataError

SPARE_SLOTS = 2
"""CPU slots of a local Ray beyond its cores, for tasks that only read data and pass them on."""
OBJECT_STORE_BYTES = 1_500_000_000
WORKERS_PER_CORE = 2
"""Workers of one CPU each that may share one core of this machine; slower than a core each, but it works."""
POLL_SECONDS = 5.0


def resources_of_worker(runtime: RuntimeConfig) -> dict[str, int]:
    """Return what a training worker asks Ray for."""
    return {"CPU": runtime.cpus_per_worker} | ({"GPU": 1} if runtime.use_gpu else {})


def start_ray(runtime: RuntimeConfig, address: str, dashboard: bool = False, trials: int = 1) -> None:
    """Start a local Ray for this command (``local``), or join the cluster at ``address``.

    A local Ray has CPU slots for ``trials`` trials at a time, each with all its workers. It has a ``dashboard`` only
    where one is needed, because that costs seconds and memory.

    Raises
    ------
    ClusterError
        If the cluster cannot be joined.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Hide warnings about how Ray Data uses its own actors; Ray's log files still have them.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    # Ray's progress output would bury this program's own.
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
            # Ray's helper processes inherit this; without it they search for a Ray on this machine, and fail on two.
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
        with _no_stderr(), _own_sigterm():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"--address {address} cannot be joined: {' '.join(str(error).split())[:200]}") from error


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def cores() -> int:
    """Return how many cores this process may use: those of its CPU affinity, which a batch system may restrict."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Take SIGTERM as this program does while Ray starts, and afterwards: Ray's handler exits without a message."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as left:
        if left.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Hide what Ray's C++ part writes to stderr at its start; errors are raised all the same."""
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

    A search runs ``trials`` trials at a time, each with all its workers.

    Raises
    ------
    ConfigError
        If GPUs or CPUs are missing; the message says what is asked for and what there is.
    """
    workers, cards = runtime.num_workers * trials, torch.cuda.device_count()
    asked = _asked("runtime.num_workers", runtime.num_workers, trials)
    if runtime.use_gpu and cards < max(workers, 1):
        least = "lower runtime.num_workers" if cards else "set runtime.use_gpu=false (the recipe large is for GPUs)"
        raise ConfigError(
            f"{asked} need {max(workers, 1)} GPUs, this machine has {cards}; {least}, or give the --address of a"
            " cluster"
        )
    if workers * runtime.cpus_per_worker > WORKERS_PER_CORE * cores():
        raise ConfigError(
            f"{asked} need {workers * runtime.cpus_per_worker} CPUs, this machine has"
            f" {cores()} (up to {WORKERS_PER_CORE} workers may share one); lower runtime.num_workers or"
            " runtime.cpus_per_worker, or give the --address of a cluster"
        )


def _asked(field: str, workers: int, trials: int) -> str:
    """Describe the requested workers in words."""
    each = f"{field} = {workers} workers"
    return each if trials == 1 else f"{each} for each of runtime.max_concurrent_trials = {trials} trials"


def check_resources(runtime: RuntimeConfig, trials: int = 1) -> None:
    """Refuse a run that asks for more than the Ray cluster has, instead of waiting for ever.

    A search runs ``trials`` trials at a time, each with all its workers. With ``runtime.scale_up_seconds``, first ask
    the autoscaler for the missing machines and wait for them for up to that long.

    Raises
    ------
    ConfigError
        If resources are missing; the message says what is asked for and what there is.
    """
    workers = _least_workers(runtime) * trials
    each = resources_of_worker(runtime)
    missing = _missing(each, workers)
    if missing and runtime.scale_up_seconds:
        request_resources(bundles=[each] * workers)
        give_up = time.monotonic() + runtime.scale_up_seconds
        try:
            while missing and time.monotonic() < give_up:
                time.sleep(POLL_SECONDS)
                missing = _missing(each, workers)
        finally:
            # Clear the request: it would hold its machines until another request replaces it, long after this run.
            request_resources(bundles=[])
    if missing:
        field = "runtime.min_workers" if runtime.min_workers else "runtime.num_workers"
        asked = _asked(field, _least_workers(runtime), trials)
        raise ConfigError(f"{asked} need {missing}; lower {field} or add machines")


def missing_for(runtime: RuntimeConfig) -> str:
    """Return in words which resources the Ray cluster lacks for the workers of a run, or ""."""
    missing = _missing(resources_of_worker(runtime), _least_workers(runtime)) if ray.is_initialized() else ""
    return missing and f"{_least_workers(runtime)} workers need {missing}"


def _least_workers(runtime: RuntimeConfig) -> int:
    return runtime.min_workers or max(runtime.num_workers, 1)


def _missing(each: dict[str, int], workers: int) -> str:
    have = ray.cluster_resources()
    short = [name for name, count in each.items() if workers * count > have.get(name, 0)]
    if short:
        return ", ".join(f"{workers * each[name]} {name}s, the Ray cluster has {have.get(name, 0):g}" for name in short)
    # All resources of a worker must be on one machine; halves on two machines do not add up.
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(machine.get(name, 0) // count) for name, count in each.items()) for machine in machines)
    asked = " and ".join(f"{count} {name}s" for name, count in each.items())
    return "" if room >= workers else f"{asked} on one machine each, and the machines have room for {room}"


def check_visible(where: Location) -> None:
    """Refuse a run folder on this machine's disk that other machines of the cluster do not see.

    Raises
    ------
    DataError
        If it cannot be seen on a machine; the message names it.
    """
    if not where.is_local:
        return
    probe = where / f".probe-{uuid.uuid4().hex}"
    probe.write_bytes(b"")
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        there = [
            _sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(probe.local_path)
            )
            for node in alive
        ]
        blind = [node["NodeManagerHostname"] for node, seen in zip(alive, ray.get(there), strict=True) if not seen]
    finally:
        probe.remove()
    if blind:
        raise DataError(
            f"{where} is not seen by {len(blind)} of the {len(alive)} machines of the cluster, such as {blind[0]}; give"
            " an --out that all of them reach: s3://, gs://, or a folder that they mount"
        )


@ray.remote(num_cpus=0, max_retries=3)
def _sees(path: str) -> bool:
    return os.path.exists(path)
