"""Cost of a training step on a GPU: series per second, share of the card's matrix product rate, memory, precision.

    python tests/benchmarks/bench_gpu.py --keep tests/benchmarks/results

Runs without Ray, on simulated households. A step is one discriminator step and one generator step, unless it is called
a step of the days (the temporal prior). Seconds are wall-clock time: the median of consecutive steps, each of which
ends with its figures on the host. Prints a line of JSON per figure {name, value, limit, ok}; figures without a limit
are for information only. Exit status 1 when a limit is missed.
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from train_steps import LENGTHS, figure, flops, make_trainer, take_steps

from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime

SIZES = (("base", 16), ("base", 256), ("large", 128))
"""Recipes and batch sizes measured with series of 2,190 points, a year."""
PRECISIONS = ("fp32", "bf16", "fp16")
KINDS = {"step": "step", "days": "days step"}
WARMUP, STEPS = 4, 12
SIDE = 8192
"""Number of rows and columns of the large matrices."""
MEMORY_LIMIT = 2.0
"""Gigabytes of GPU memory that a step of 16 series of 8,760 points may take."""


def seconds_of(trainer: Trainer, kind: str, steps: int) -> float:
    """Return the median seconds of a step; each sample is the mean over the steps from one penalty to the next."""
    take_steps(trainer, kind, WARMUP)
    every = trainer.config.loss.penalty_interval if kind == "step" else 1
    taken = []
    for _ in range(max(1, steps // every)):
        torch.cuda.synchronize()
        began = time.perf_counter()
        take_steps(trainer, kind, every)
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - began) / every)
    return statistics.median(taken)


def product_rate(dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of large matrix products."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda").to(dtype) for _ in range(2))
    taken = []
    for number in range(WARMUP + STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        if number >= WARMUP:
            taken.append(time.perf_counter() - began)
    return 2 * SIDE**3 / statistics.median(taken)


def work_of(trainer: Trainer, kind: str) -> float:
    """Return the floating-point operations of a step, with the penalty's averaged over steps."""
    every = trainer.config.loss.penalty_interval if kind == "step" else 1
    trainer.state.series_seen = 0
    return flops(lambda: take_steps(trainer, kind, every)) / every


def rates() -> list[dict[str, Any]]:
    """Return series per second and the share of matrix products, by recipe, batch and precision."""
    out = []
    for precision in PRECISIONS:
        for recipe, batch in SIZES:
            setting = f"training.precision={precision}"
            trainer = make_trainer(2190, batch, LocalRuntime(device="cuda"), recipe, setting)
            of_card = product_rate(trainer.dtype)
            for kind, name in KINDS.items():
                torch.cuda.reset_peak_memory_stats()
                seconds = seconds_of(trainer, kind, STEPS)
                peak, work = torch.cuda.max_memory_allocated() / 1e9, work_of(trainer, kind)
                head = f"{recipe}, batch {batch}, {precision}: {name}"
                out += [
                    figure(f"{head}, series per second", batch / seconds),
                    figure(f"{head}, milliseconds", 1000 * seconds),
                    figure(f"{head}, TFLOP per second", work / seconds / 1e12),
                    figure(f"{head}, share of large matrix products", work / seconds / of_card),
                    figure(f"{head}, peak memory, GB", peak),
                ]
            del trainer
    return out


def growth() -> list[dict[str, Any]]:
    """Return time and memory of the ``base`` step by length, batch 16."""
    out = []
    for length in LENGTHS:
        trainer = make_trainer(length, 16, LocalRuntime(device="cuda"))
        for kind, name in KINDS.items():
            torch.cuda.reset_peak_memory_stats()
            seconds = seconds_of(trainer, kind, STEPS)
            peak = torch.cuda.max_memory_allocated() / 1e9
            limit = MEMORY_LIMIT if (length, kind) == (8760, "step") else None
            head = f"base, batch 16, {length} points: {name}"
            out += [figure(f"{head}, milliseconds", 1000 * seconds), figure(f"{head}, peak memory, GB", peak, limit)]
        del trainer
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", default="", help="folder for the figures, as gpu-<date>.json")
    options = parser.parse_args(arguments)
    parts: tuple[Callable[[], list[dict[str, Any]]], ...] = (rates, growth)
    lines = [line for part in parts for line in part()]
    if options.keep:
        date = datetime.date.today().isoformat()
        about = {"date": date, "card": torch.cuda.get_device_name(), "torch": torch.__version__, "figures": lines}
        (Path(options.keep) / f"gpu-{date}.json").write_text(json.dumps(about, indent=2) + "\n")
    return 0 if all(line["ok"] for line in lines) else 1


@pytest.mark.benchmark
@pytest.mark.gpu
def test_limits():
    """A step of 16 years of hours fits into its limit."""
    assert main([]) == 0


if __name__ == "__main__":
    sys.exit(main())
