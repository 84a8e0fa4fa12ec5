"""Starting Ray, or joining it, and checking that it has what a run asks for."""

import logging
import os

import ray
import ray.data

from ttsgan.config import RuntimeConfig
from ttsgan.errors import ConfigError

SPARE_SLOTS = 2
"""CPU slots of a local Ray beyond the cores, for tasks that only read and hand on."""
OBJECT_STORE_BYTES = 500_000_000


def start_ray(runtime: RuntimeConfig, address: str) -> None:
    """Start a local Ray for this command (``local``), or join the cluster at ``address``.

    Raises
    ------
    ConfigError
        If the cluster cannot be joined.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    # This program shows its own progress; Ray's would bury it.
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if address == "local":
        wanted = runtime.num_workers * runtime.cpus_per_worker
        slots = max(os.cpu_count() or 1, wanted) + SPARE_SLOTS
        ray.init(
            address="local",
            num_cpus=slots,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--address {address} cannot be joined: {' '.join(str(error).split())[:200]}") from error


def check_resources(runtime: RuntimeConfig) -> None:
    """Refuse a run that asks for more than the Ray cluster has, instead of waiting for ever.

    Raises
    ------
    ConfigError
        With what is asked for and what there is.
    """
    have = ray.cluster_resources()
    for name, each in (("CPU", runtime.cpus_per_worker), ("GPU", int(runtime.use_gpu))):
        wanted = max(runtime.num_workers, 1) * each
        if wanted > have.get(name, 0):
            raise ConfigError(
                f"runtime.num_workers = {runtime.num_workers} workers need {wanted} {name}s, the Ray cluster has "
                f"{have.get(name, 0):g}; lower runtime.num_workers or add machines"
            )
