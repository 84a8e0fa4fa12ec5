"""Overhead of Ray Train: the same training steps in its workers and in plain processes.

    python tests/benchmarks/bench_ray.py
    python tests/benchmarks/bench_ray.py --workers 1 --rounds 5 --keep tests/benchmarks/results

Two workers of one thread, 32 series a step at 2190 points, the ``base`` recipe; both kinds of workers average gradients
over gloo in the library's own step. The kinds take turns, ``--rounds`` times. Each round starts new workers, skips the
first steps, and takes the median step in wall-clock time and in CPU time of the busier worker. No step includes a
checkpoint. Prints a line of JSON per figure {name, value, limit, ok}; exit status 1 when the median round's step under
Ray takes more than 3 % longer.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from train_steps import BATCH, figure, make_trainer, take_steps

from ray_jobs.machines import start_ray
from ray_jobs.runtime import RayRuntime
from ttsgan.config import RuntimeConfig
from ttsgan.training.runtime import ProcessGroupRuntime, Runtime

WARM_UP = 3
LIMIT = 1.03


def timed_steps(runtime: Runtime, steps: int) -> list[tuple[float, float]]:
    """Take steps; return for each the wall-clock and the process CPU seconds, after `WARM_UP` unmeasured ones."""
    torch.set_num_threads(1)
    trainer = make_trainer(2190, 2 * BATCH, runtime)
    marks = []
    for _ in range(WARM_UP + steps + 1):
        marks.append((time.monotonic(), time.process_time()))
        take_steps(trainer, "step", 1)
    return [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks[WARM_UP:], marks[WARM_UP + 1 :], strict=False)]


def plain_worker(rank: int, world: int, folder: str, steps: int) -> None:
    """Run as one of ``world`` plain processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    Path(f"{folder}/{rank}.json").write_text(json.dumps(timed_steps(ProcessGroupRuntime(), steps)))
    dist.destroy_process_group()


def ray_worker(settings: dict[str, Any]) -> None:
    """Run as a worker of Ray Train."""
    runtime = RayRuntime()
    Path(f"{settings['folder']}/{runtime.rank}.json").write_text(json.dumps(timed_steps(runtime, settings["steps"])))


def median_step(kind: str, world: int, steps: int) -> tuple[float, float]:
    """Return the median step of one round in seconds: wall-clock time, and CPU time of the busier worker."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "plain":
            mp.start_processes(plain_worker, (world, folder, steps), nprocs=world, start_method="spawn")
        else:
            TorchTrainer(
                ray_worker,
                train_loop_config={"folder": folder, "steps": steps},
                scaling_config=ScalingConfig(num_workers=world, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(name="bench", storage_path=folder),
            ).fit()
        told = [json.loads(Path(f"{folder}/{rank}.json").read_text()) for rank in range(world)]
    by_clock, by_cpu = ([[step[i] for step in steps_of_one] for steps_of_one in told] for i in (0, 1))
    return statistics.median(by_clock[0]), max(statistics.median(one) for one in by_cpu)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures and, with ``--keep``, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--keep", default="", help="folder for the figures, as ray-<date>.json")
    options = parser.parse_args(arguments)
    ratios = []
    start_ray(RuntimeConfig(num_workers=options.workers), "local")
    try:
        for _ in range(options.rounds):
            plain, by_ray = (median_step(kind, options.workers, options.steps) for kind in ("plain", "ray"))
            ratios.append([r / p for r, p in zip(by_ray, plain, strict=True)])
    finally:
        ray.shutdown()
    clocks, cpus = zip(*ratios, strict=True)
    lines = [
        figure("a step under Ray Train over one of plain processes, clock", statistics.median(clocks), LIMIT),
        figure("a step under Ray Train over one of plain processes, CPU-s", statistics.median(cpus), LIMIT),
        figure("the same, smallest of the rounds, clock", min(clocks)),
        figure("the same, largest of the rounds, clock", max(clocks)),
    ]
    if options.keep:
        about = {"date": datetime.date.today().isoformat(), "workers": options.workers, "rounds": ratios}
        about |= {"ray": ray.__version__, "load": [round(x, 1) for x in os.getloadavg()], "figures": lines}
        (Path(options.keep) / f"ray-{about['date']}.json").write_text(json.dumps(about, indent=2) + "\n")
    return 0 if all(line["ok"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
