"""Shared code of tests with two worker processes: the rendezvous and the workers' results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ttsgan import recipes

WORKERS = 2
PATIENCE = timedelta(seconds=120)
"""How long a worker waits for the other, which may have ended in an error."""


@contextmanager
def meeting(rank: int, folder: str) -> Iterator[dict]:
    """Join the other worker and yield their common inputs; the worker then saves its results in a file by rank."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=WORKERS, timeout=PATIENCE)
    yield torch.load(f"{folder}/given.pt", weights_only=False)
    dist.destroy_process_group()


def found_by(worker: Callable[[int, str], None], sample, config, folder: Path) -> list[dict]:
    """Run ``worker`` in two processes with these series and settings; return the results that each wrote."""
    given = {
        "config": recipes.to_dict(config),
        "values": sample.values, "starts": sample.starts, "entities": sample.entities,
    }  # fmt: skip
    torch.save(given, folder / "given.pt")
    mp.start_processes(worker, (str(folder),), nprocs=WORKERS, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORKERS)]
