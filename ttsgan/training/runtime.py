"""The runtime of training: rank and world size, collective operations, and checkpoints.

The training loop uses only this protocol. `LocalRuntime` is a single process; `ProcessGroupRuntime` is one of several
processes connected by torch.distributed; the Ray driver adds its own way of reporting checkpoints.

Data parallelism is one all-reduce of a phase's gradients before its step, and a broadcast at the start. Unlike
DistributedDataParallel it does not depend on which module is called how often and in which order. So gradient
penalties, frozen networks and several backward passes are exact by construction.

A checkpoint is intact when its files match its seal, which is written last and lists every file with size and SHA-256.
A damaged checkpoint is skipped with a warning, and the one before it is used. Transient storage errors are retried; a
storage that is full or not writable ends training in all workers with a one-line error.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ttsgan.config import RuntimeConfig
from ttsgan.data.storage import one_line
from ttsgan.errors import ConfigError, DataError, TtsganError

log = logging.getLogger(__name__)

T = TypeVar("T")

KEPT_CHECKPOINTS = 2
CHECKPOINT_PREFIX = "checkpoint_"
FOLDER_PREFIX = "ttsgan-"
"""Prefix of the names of temporary folders."""
MAX_NAME_BYTES = 1024
"""Longest path of a temporary folder, in bytes."""
SEAL_FILE = "seal.json"
SEAL_FORMAT = "ttsgan checkpoint 1"


class Stopped(TtsganError, RuntimeError):
    """Training stopped on request and saved a checkpoint; the same command resumes from it."""


class NotKept(DataError):
    """A file of training could not be written; existing checkpoints are unchanged. All workers raise it together."""


PAUSES = (1.0, 4.0, 16.0)
"""Seconds to wait before each retry after a storage error."""
PASSING = (
    # Errors of remote storage have no number.
    None, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE,
    errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH,
)  # fmt: skip
"""Error numbers of transient storage errors."""


def patiently(act: Callable[[], T], what: str) -> T:
    """Return ``act()``; retry after transient storage errors, with growing pauses.

    Raises
    ------
    OSError, DataError
        The error, if it is not transient; the last one, if all retries fail.
    """
    for pause in PAUSES:
        try:
            return act()
        except (OSError, DataError) as error:
            # A `Location` raises a `DataError` with the storage error as its cause.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in PASSING:
                raise
            log.warning("cannot %s: %s; trying again in %g s", what, one_line(error), pause)
        time.sleep(pause)
    return act()


def device_of(config: RuntimeConfig) -> str:
    """Return the device of this process: ``cuda`` or ``cpu``.

    Raises
    ------
    ConfigError
        If a GPU is requested but torch finds none.
    """
    if config.use_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.use_gpu is true, but torch finds no GPU here; set runtime.use_gpu=false, or install a driver and "
            "a CUDA build of torch"
        )
    return "cuda" if config.use_gpu else "cpu"


def seal_of(files: dict[str, bytes]) -> bytes:
    """Return the seal of a checkpoint: sizes and SHA-256 digests of its files, as JSON."""
    said = {n: {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()} for n, held in files.items()}
    return json.dumps({"format": SEAL_FORMAT, "files": said}, indent=2).encode()


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, in a few words, or None when it is intact."""
    try:
        return patiently(lambda: _fault_of(folder), f"read {folder}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({type(error).__name__})"


def _fault_of(folder: Path) -> str | None:
    if not (folder / SEAL_FILE).is_file():
        return f"it has no {SEAL_FILE}: half written, or not a checkpoint of this program"
    said = json.loads((folder / SEAL_FILE).read_bytes())
    if not isinstance(said, dict) or said.get("format") != SEAL_FORMAT:
        return f"its {SEAL_FILE} is of another program or version"
    for name, wanted in said["files"].items():
        fault = _fault_of_file(folder / name, wanted)
        if fault:
            return f"{name} {fault}"
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


@dataclass(frozen=True)
class Machine:
    """Folder shared by the workers of one machine; this worker's number there, from 0; the number of these workers."""

    folder: Path
    worker: int
    workers: int


class Runtime(Protocol):
    """Environment of one training worker."""

    rank: int
    world_size: int
    device: torch.device
    leaving: bool
    """Whether this worker was asked to stop; all workers stop after the step in which any of them was."""
    profile: Path | None
    """Folder for a profile of some of this worker's steps; None disables profiling."""

    def noticed(self) -> bool:
        """Return whether a machine of the run is about to be lost, so that a checkpoint is due now. Collective."""

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all workers, in place. Collective."""

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by rank 0's, in place. Collective."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all workers, concatenated along the first axis in rank order. Collective.

        All workers pass the same shape.
        """

    def machine(self) -> AbstractContextManager[Machine]:
        """Open a new temporary folder shared by this machine's workers; it is deleted on exit. Collective."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """Open the newest intact checkpoint folder, or None when there is no checkpoint. Collective."""

    def save(self, name: str, files: dict[str, bytes], metrics: dict[str, float]) -> None:
        """Save rank 0's ``files`` as checkpoint ``name``. Collective.

        Raises
        ------
        NotKept
            If they could not be written.
        """


class LocalRuntime:
    """A single process with checkpoints in a local folder.

    Parameters
    ----------
    checkpoints : Path or None
        Folder of the checkpoints; None saves none.
    device : str
    """

    rank = 0
    world_size = 1

    def __init__(self, checkpoints: Path | None = None, device: str = "cpu") -> None:
        self.checkpoints = checkpoints
        self.device = torch.device(device)
        self.leaving = False
        self.profile: Path | None = None
        self.damaged: list[str] = []

    def noticed(self) -> bool:
        """Return False: before this machine is lost a signal arrives, which sets ``leaving``."""
        return False

    def mean(self, tensors: list[Tensor]) -> None:
        """Do nothing: the mean over one worker is the tensor itself."""

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Do nothing: rank 0 is the only one."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def place(self) -> tuple[int, int]:
        """Return the index of this worker's machine, and this worker's local rank there, both from 0."""
        return 0, self.rank

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """Open a folder that the first worker of each machine creates; it sends the path to the others."""
        node, local = self.place()
        with ExitStack() as stack:
            name = stack.enter_context(TemporaryDirectory(prefix=FOLDER_PREFIX)) if local == 0 else ""
            said = torch.zeros(2 + MAX_NAME_BYTES, dtype=torch.int64, device=self.device)
            text = torch.tensor([node, local, *os.fsencode(name)], dtype=torch.int64, device=self.device)
            said[: len(text)] = text
            here = [row for row in self.gather(said[None]).tolist() if row[0] == node]
            folder = os.fsdecode(bytes(next(row for row in here if row[1] == 0)[2:]).rstrip(b"\0"))
            yield Machine(Path(folder), sum(row[1] < local for row in here), len(here))
            self.mean([torch.zeros((), device=self.device)])  # nobody needs the folder any more

    def _kept(self) -> list[Path]:
        if self.checkpoints is None or not self.checkpoints.is_dir():
            return []
        return sorted(p for p in self.checkpoints.iterdir() if p.is_dir() and p.name.startswith(CHECKPOINT_PREFIX))

    def _candidates(self) -> list[tuple[str, AbstractContextManager[Path]]]:
        """Return the name of each checkpoint and a context manager that opens its folder, newest first."""
        return [(folder.name, nullcontext(folder)) for folder in reversed(self._kept())]

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Open the newest intact checkpoint folder, or None when there is no checkpoint; warn of damaged ones.

        Raises
        ------
        DataError
            If there are checkpoints, and all of them are damaged.
        """
        self.damaged, faults = [], []
        for name, opened in self._candidates():
            with opened as folder:
                fault = fault_of(folder)
                # A worker may read its own copy and find a fault that the others do not.
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

    def save(self, name: str, files: dict[str, bytes], metrics: dict[str, float]) -> None:
        """Write a checkpoint with its seal; delete damaged checkpoints and all but the last two."""
        if self.checkpoints is not None:
            self._keep(f"checkpoint {name} in {self.checkpoints}", lambda: self._write(name, files))

    def _keep(self, what: str, write: Callable[[], None]) -> None:
        """Call ``write`` on rank 0; the others wait. All raise `NotKept` if it fails. Collective."""
        failure = None
        if self.rank == 0:
            try:
                patiently(write, f"write {what}")
            except OSError as error:
                why = error.strerror or one_line(error)
                failure = NotKept(
                    f"{why}: cannot write {what}; put that right and run the same command again, which goes on from "
                    "the checkpoint before it"
                )
        kept = torch.tensor(float(failure is None), device=self.device)
        self.mean([kept])
        if kept < 1:
            raise failure or NotKept(f"worker 0 could not write {what}")

    def _write(self, name: str, files: dict[str, bytes]) -> None:
        """Write under a temporary name and rename, so that a partial write is never taken for a checkpoint."""
        temporary = self.checkpoints / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for file_name, content in {**files, SEAL_FILE: seal_of(files)}.items():
                with (temporary / file_name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError:
            # Otherwise the partial files keep a full disk full.
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        final = self.checkpoints / f"{CHECKPOINT_PREFIX}{name}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for damaged in self.damaged:
            if damaged != final.name:
                shutil.rmtree(self.checkpoints / damaged, ignore_errors=True)
        self.damaged = []
        for old in self._kept()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)


class ProcessGroupRuntime(LocalRuntime):
    """One of several processes already connected by torch.distributed; rank 0 saves the checkpoints."""

    def __init__(self, checkpoints: Path | None = None, device: str = "cpu") -> None:
        super().__init__(checkpoints, device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def mean(self, tensors: list[Tensor]) -> None:
        """Average over workers with one all-reduce per dtype."""
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in group])
            dist.all_reduce(flat)
            flat /= self.world_size
            for tensor, new in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.detach().copy_(new.view_as(tensor))

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Broadcast rank 0's tensors."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors of all workers in rank order."""
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
