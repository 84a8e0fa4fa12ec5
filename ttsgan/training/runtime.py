"""What training asks of the world it runs in: who am I, add up over workers, keep and find checkpoints.

The loop knows this protocol only. `LocalRuntime` is one process; `ProcessGroupRuntime` is one of several that
torch.distributed connects; the Ray driver adds its way of reporting checkpoints.

Data parallelism is one all-reduce of a phase's gradients before its step, and a broadcast at the start. Unlike
DistributedDataParallel it does not depend on which module was called how often and in which order, so that gradient
penalties, frozen networks and several backward passes are exact by construction.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

KEPT_CHECKPOINTS = 2


class Runtime(Protocol):
    """The world of one training worker."""

    rank: int
    world_size: int
    device: torch.device

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all workers, in place. Collective."""

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place. Collective."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the equally shaped tensors of all workers, joined along the first axis in rank order. Collective."""

    def latest(self) -> "contextmanager[Path | None]":
        """Open the newest complete checkpoint folder, or None."""

    def save(self, name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Keep what ``write`` puts into an empty folder as checkpoint ``name``. Collective."""


class LocalRuntime:
    """One process, checkpoints in a local folder.

    Parameters
    ----------
    checkpoints : Path or None
        Where checkpoints are kept; None keeps none.
    device : str
    """

    rank = 0
    world_size = 1

    def __init__(self, checkpoints: Path | None = None, device: str = "cpu") -> None:
        self.checkpoints = checkpoints
        self.device = torch.device(device)

    def mean(self, tensors: list[Tensor]) -> None:
        """Do nothing: the mean over one worker."""

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Do nothing: rank 0 is the only one."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def _kept(self) -> list[Path]:
        if self.checkpoints is None or not self.checkpoints.is_dir():
            return []
        return sorted(p for p in self.checkpoints.iterdir() if p.is_dir() and p.name.startswith("checkpoint_"))

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Open the newest complete checkpoint folder, or None."""
        kept = self._kept()
        yield kept[-1] if kept else None

    def save(self, name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Write a checkpoint under a temporary name, rename it, and drop all but the newest two."""
        if self.checkpoints is None:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoints / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        final = self.checkpoints / f"checkpoint_{name}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in self._kept()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)


class ProcessGroupRuntime(LocalRuntime):
    """One of several processes that torch.distributed already connects; rank 0 keeps the checkpoints."""

    def __init__(self, checkpoints: Path | None = None, device: str = "cpu") -> None:
        super().__init__(checkpoints, device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def mean(self, tensors: list[Tensor]) -> None:
        """Average over workers in one message per type."""
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in group])
            dist.all_reduce(flat)
            flat /= self.world_size
            for tensor, new in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.detach().copy_(new.view_as(tensor))

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Send rank 0's tensors to all."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    def gather(self, tensor: Tensor) -> Tensor:
        """Join the tensors of all workers in rank order."""
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def save(self, name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Let rank 0 write; the others wait until it has."""
        if self.rank == 0:
            super().save(name, write, metrics)
        dist.barrier()
