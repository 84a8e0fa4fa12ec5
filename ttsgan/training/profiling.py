"""Profile of some steps of a stage: a Chrome trace and a table of the most expensive operators."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, WARMUP, PROFILED = 2, 1, 3
"""Steps of each stage that are skipped, that warm up the profiler, and that are recorded."""
ROWS = 15
"""Operators in the table."""


@contextmanager
def profiled(folder: Path | None, stage: str, device: torch.device) -> Iterator[Callable[[], None]]:
    """Profile a few steps of ``stage``; the caller calls the yielded function after each step.

    Writes ``STAGE.trace.json`` (for chrome://tracing or ui.perfetto.dev) and ``STAGE.txt`` into ``folder``; None does
    nothing.
    """
    if folder is None:
        yield lambda: None
        return
    on_gpu = device.type == "cuda"
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"

    def write(made: profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        made.export_chrome_trace(str(folder / f"{stage}.trace.json"))
        table = made.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=48)
        (folder / f"{stage}.txt").write_text(table)

    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
        schedule=schedule(wait=SKIPPED, warmup=WARMUP, active=PROFILED, repeat=1),
        on_trace_ready=write,
    ) as recorder:
        yield recorder.step
