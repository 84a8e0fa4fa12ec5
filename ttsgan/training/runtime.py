"""What training asks of the world it runs in: who am I, add up over workers, keep and find checkpoints.

The loop knows this protocol only. `LocalRuntime` is one process; `ProcessGroupRuntime` is one of several that
torch.distributed connects; the Ray driver adds its way of reporting checkpoints.

Data parallelism is one all-reduce of a phase's gradients before its step, and a broadcast at the start. Unlike
DistributedDataParallel it does not depend on which module was called how often and in which order, so that gradient
penalties, frozen networks and several backward passes are exact by construction.

A checkpoint is whole when its seal, written last, names every file in it with size and SHA-256. One that is not is
passed over with a warning, and the one before it is used.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ttsgan.errors import DataError, TtsganError

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
SEAL_FILE = "seal.json"
SEAL_FORMAT = "ttsgan checkpoint 1"


class Stopped(TtsganError, RuntimeError):
    """Training was asked to stop, kept a checkpoint, and left; the same command goes on from there."""


def seal(folder: Path) -> None:
    """Bring the files of a checkpoint to the disk, then write their sizes and SHA-256 beside them."""
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[path.name] = {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    with (folder / SEAL_FILE).open("w") as file:
        json.dump({"format": SEAL_FORMAT, "files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, in a few words, or None when it is whole."""
    try:
        if not (folder / SEAL_FILE).is_file():
            return f"it has no {SEAL_FILE}: half written, or not a checkpoint of this program"
        said = json.loads((folder / SEAL_FILE).read_bytes())
        if not isinstance(said, dict) or said.get("format") != SEAL_FORMAT:
            return f"its {SEAL_FILE} is of another program or version"
        for name, wanted in said["files"].items():
            fault = _fault_of_file(folder / name, wanted)
            if fault:
                return f"{name} {fault}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({type(error).__name__})"
    return None


def _fault_of_file(path: Path, wanted: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != wanted["bytes"]:
        return f"has {size} bytes instead of {wanted['bytes']}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wanted["sha256"]:
            return "has another SHA-256 than when it was written"
    return None


class Runtime(Protocol):
    """The world of one training worker."""

    rank: int
    world_size: int
    device: torch.device
    leaving: bool
    """Whether this worker was asked to stop; all stop after the step in which one was."""

    def noticed(self) -> bool:
        """Whether a machine of the run is about to be taken away, so that a checkpoint is due now. Collective."""

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all workers, in place. Collective."""

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place. Collective."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the equally shaped tensors of all workers, joined along the first axis in rank order. Collective."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """Open the newest whole checkpoint folder, or None when there is no checkpoint. Collective."""

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
        self.leaving = False
        self.damaged: list[str] = []

    def noticed(self) -> bool:
        """Return False: whoever takes this machine away sends a signal, which sets ``leaving``."""
        return False

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

    def _candidates(self) -> list[tuple[str, AbstractContextManager[Path]]]:
        """Return the name of each checkpoint and what opens its folder, the newest first."""
        return [(folder.name, nullcontext(folder)) for folder in reversed(self._kept())]

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Open the newest whole checkpoint folder, or None when there is no checkpoint; name those that are damaged.

        Raises
        ------
        DataError
            If there are checkpoints, and all of them are damaged.
        """
        self.damaged, faults = [], []
        for name, opened in self._candidates():
            with opened as folder:
                fault = fault_of(folder)
                # A worker that reads its own copy may find a fault that the others do not.
                whole = torch.tensor(float(fault is None), device=self.device)
                self.mean([whole])
                if whole == 1:
                    yield folder
                    return
            faults.append(f"{name}: {fault or 'another worker cannot read it'}")
            self.damaged.append(name)
            log.warning("passed over a damaged checkpoint, %s", faults[-1])
        if faults:
            raise DataError(f"no checkpoint can be gone on with ({'; '.join(faults)}); remove them to start over")
        yield None

    def save(self, name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Write a checkpoint under a temporary name, seal and rename it; drop damaged ones and all but the last two."""
        if self.checkpoints is None:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoints / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        seal(temporary)
        final = self.checkpoints / f"checkpoint_{name}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for name in self.damaged:
            if name != final.name:
                shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        self.damaged = []
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
