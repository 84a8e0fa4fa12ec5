"""The exact neighbour search over Ray, compared with the bare matrix products of the same shapes.

    python tests/benchmarks/bench_search.py --targets 10000 --synthetic 100000 --length 2190
    pytest -m benchmark tests/benchmarks/bench_search.py

Random correlated series are written as a store of Parquet parts. A local Ray of two CPUs reads them in blocks and finds
the 5 nearest neighbours of every target. The CPU-seconds of the search are those of all processes, from the moment when
Ray and its workers are up until the merged answer; reading, sending and Ray's own work are included. Prints one line of
JSON for each figure; exit status 1 when a limit is missed.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pytest
import ray
from ray import cloudpickle
from threadpoolctl import threadpool_limits

from ray_jobs.blocks import RayMap
from ray_jobs.evaluate import blocks_of
from ray_jobs.run_series import open_series
from ttsgan.data.storage import Location
from ttsgan.data.store import series_metadata, write_part
from ttsgan.evaluation.blocks import BLOCK_SERIES
from ttsgan.evaluation.neighbours import QUERY_BLOCK, merge_nearest, nearest

NEIGHBOURS = 5
FACTORS = 40
ROWS_PER_PART = 2000
PLANTED = 10
WORKERS = 2
RATIO_LIMIT = 1.5
MEMORY_LIMIT_GB = 3.0
POLL_SECONDS = 2.0

# Ray workers cannot import this file, so its functions are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Draw:
    """Draws series that share a mean course and 40 factors; each has its own level and noise."""

    def __init__(self, length: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.course = self.rng.standard_normal((1 + FACTORS, length), np.float32)

    def __call__(self, num: int) -> np.ndarray:
        """Return (num, length), float32."""
        weights = 0.3 * self.rng.standard_normal((num, 1 + FACTORS), np.float32)
        weights[:, 0] += 2
        level = np.exp(0.5 * self.rng.standard_normal((num, 1), np.float32))
        return level * (weights @ self.course + self.rng.standard_normal((num, self.course.shape[1]), np.float32))


def write_synthetic(folder: Location, draw: Draw, num: int) -> np.ndarray:
    """Write a store part by part; return its first `PLANTED` series."""
    first = None
    for begin in range(0, num, ROWS_PER_PART):
        values = draw(min(ROWS_PER_PART, num - begin))
        first = values[:PLANTED].copy() if first is None else first
        columns = {
            "synthetic_id": np.array([f"s{begin + row}" for row in range(len(values))]),
            "start": np.full(len(values), np.datetime64("2013-01-01", "s")),
        }
        write_part(folder / f"part-{begin:07d}.parquet", columns, values[:, None], series_metadata("kWh", 14_400, 1))
    return first


def search_block(targets, loader):
    """Return the number of series of a block, and the neighbours of all targets in it."""
    values = loader().values
    return len(values), nearest(targets, values.reshape(len(values), -1), NEIGHBOURS)


def search(targets: np.ndarray, folder: Location) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of the targets in a store."""
    best, begin = None, 0
    for count, found in RayMap()(search_block, targets, blocks_of(open_series(folder)).loaders):
        best = merge_nearest([found] if best is None else [best, found], [begin] if best is None else [0, begin])
        begin += count
    return best


def bare_products(targets: np.ndarray, num: int) -> float:
    """Return the CPU-seconds of the search's matrix products alone, in one thread."""
    base = targets[np.arange(min(BLOCK_SERIES, num)) % len(targets)]
    out = np.empty((QUERY_BLOCK, len(base)), np.float32)
    with threadpool_limits(1):
        started = time.process_time()
        for begin in range(0, num, BLOCK_SERIES):
            block = base[: num - begin]
            for start in range(0, len(targets), QUERY_BLOCK):
                rows = targets[start : start + QUERY_BLOCK]
                np.matmul(rows, block.T, out=out[: len(rows), : len(block)])
        return time.process_time() - started


def tree() -> list[int]:
    """Return the ids of this process and of all its descendants."""
    children, found, at = defaultdict(list), [os.getpid()], 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        fields = _stat(int(pid))
        if fields:
            children[int(fields[1])].append(int(pid))
    while at < len(found):
        found += children[found[at]]
        at += 1
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def tree_cpu_seconds() -> float:
    """Return the CPU-seconds so far of this process and its descendants, including those that have ended."""
    ticks = [sum(map(int, fields[11:15])) for pid in tree() if (fields := _stat(pid))]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def tree_bytes() -> int:
    """Return the proportional set size of this process and its descendants: shared pages count once."""
    total = 0
    for pid in tree():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Watch the memory of the process tree; yield a dict for the peak bytes and the CPU-seconds of watching."""
    seen, done = {"bytes": 0, "cpu": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            seen["bytes"] = max(seen["bytes"], tree_bytes())
            seen["cpu"] = time.thread_time()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def measure(num_targets: int, num_synthetic: int, length: int) -> list[dict]:
    """Run the search and the products; Ray must be up. Return the figures."""
    draw = Draw(length)
    with tempfile.TemporaryDirectory() as folder:
        store = Location.parse(folder)
        planted = write_synthetic(store, draw, num_synthetic)
        targets = draw(num_targets)
        targets[: len(planted)] = planted + np.float32(1e-3)
        for _ in RayMap()(search_block, targets[:8], blocks_of(open_series(store)).loaders[: 2 * WORKERS]):
            pass
        with watched() as seen:
            wall, cpu = time.monotonic(), tree_cpu_seconds()
            indices = search(targets, store)[1]
            wall, cpu = time.monotonic() - wall, tree_cpu_seconds() - cpu - seen["cpu"]
    products = bare_products(targets, num_synthetic)
    found = int((indices[: len(planted), 0] == np.arange(len(planted))).sum())
    figures = [
        ("search: CPU-seconds / those of the products", cpu / products, RATIO_LIMIT),
        ("search: peak memory, GB", seen["bytes"] / 1e9, MEMORY_LIMIT_GB),
        ("search: planted series not found", len(planted) - found, 0),
        ("search: CPU-seconds", cpu, None),
        ("search: wall seconds", wall, None),
        ("products: CPU-seconds", products, None),
    ]
    return [
        {"name": name, "value": round(value, 3), "limit": limit, "ok": limit is None or value <= limit}
        for name, value, limit in figures
    ]


@contextmanager
def local_ray() -> Iterator[None]:
    """Start a Ray of two CPUs for this process, and stop it at the end."""
    ray.init(
        address="local",
        num_cpus=WORKERS,
        object_store_memory=500_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.benchmark
def test_search_is_almost_as_cheap_as_the_products():
    with local_ray():
        figures = measure(10_000, 20_000, 2190)
    for figure in figures:
        print(json.dumps(figure))
    assert all(figure["ok"] for figure in figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--synthetic", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=2190)
    options = parser.parse_args()
    with local_ray():
        figures = measure(options.targets, options.synthetic, options.length)
    for figure in figures:
        print(json.dumps(figure))
    return 0 if all(figure["ok"] for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
