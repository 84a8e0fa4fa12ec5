"""What training asks of the world it runs in: who am I, add up over workers, keep and find checkpoints.

The loop knows this protocol only. `LocalRuntime` is one process; `ProcessGroupRuntime` is one of several that
torch.distributed connects; the Ray driver adds its way of reporting checkpoints.

Data parallelism is one all-reduce of a phase's gradients before its step, and a broadcast at the start. Unlike
DistributedDataParallel it does not depend on which module was called how often and in which order, so that gradient
penalties, frozen networks and several backward passes are exact by construction.

A checkpoint is whole when its seal, written last, names every file in it with size and SHA-256. One that is not is
passed over with a warning, and the one before it is used. A storage that fails for a moment is asked again; one that is
full, or not ours to write, ends training in all workers with one line.
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
"""Of the names of temporary folders."""
MAX_NAME_BYTES = 1024
"""Longest name of a temporary folder."""
SEAL_FILE = "seal.json"
SEAL_FORMAT = "ttsgan checkpoint 1"


class Stopped(TtsganError, RuntimeError):
    """Training was asked to stop, kept a checkpoint, and left; the same command goes on from there."""


class NotKept(DataError):
    """A file of training could not be written; checkpoints are as they were. All workers raise it together."""


PAUSES = (1.0, 4.0, 16.0)
"""Seconds before a storage that failed is asked again."""
PASSING = (
    # Remote storage gives no number.
    None, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE,
    errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH,
)  # fmt: skip
"""Numbers of errors that may be over in a moment."""


def patiently(act: Callable[[], T], what: str) -> T:
    """Return ``act()``; after an error of the storage that may pass, try again after growing pauses.

    Raises
    ------
    OSError, DataError
        The last one, when it does not pass.
    """
    for pause in PAUSES:
        try:
            return act()
        except (OSError, DataError) as error:
            # A `Location` tells of an error in words, and names it as the cause.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in PASSING:
                raise
            log.warning("cannot %s: %s; trying again in %g s", what, one_line(error), pause)
        time.sleep(pause)
    return act()


def device_of(config: RuntimeConfig) -> str:
    """Return where this process computes: ``cuda`` or ``cpu``.

    Raises
    ------
    ConfigError
        If a GPU is asked for that torch does not find.
    """
    if config.use_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.use_gpu is true, but torch finds no GPU here; set runtime.use_gpu=false, or install a driver and "
            "a CUDA build of torch"
        )
    return "cuda" if config.use_gpu else "cpu"


def seal_of(files: dict[str, bytes]) -> bytes:
    """Return the seal of a checkpoint: the sizes and SHA-256 of its files."""
    said = {n: {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()} for n, held in files.items()}
    return json.dumps({"format": SEAL_FORMAT, "files": said}, indent=2).encode()


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, in a few words, or None when it is whole."""
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
    """A folder that the workers of one machine share, and which of them this is: ``worker`` of ``workers``, from 0."""

    folder: Path
    worker: int
    workers: int


class Runtime(Protocol):
    """The world of one training worker."""

    rank: int
    world_size: int
    device: torch.device
    leaving: bool
    """Whether this worker was asked to stop; all stop after the step in which one was."""
    profile: Path | None
    """Folder for a profile of some of this worker's steps; None makes none."""

    def noticed(self) -> bool:
        """Whether a machine of the run is about to be taken away, so that a checkpoint is due now. Collective."""

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all workers, in place. Collective."""

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place. Collective."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the equally shaped tensors of all workers, joined along the first axis in rank order. Collective."""

    def machine(self) -> AbstractContextManager[Machine]:
        """Open a new temporary folder that this machine's workers share; it goes at the end. Collective."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """Open the newest whole checkpoint folder, or None when there is no checkpoint. Collective."""

    def save(self, name: str, files: dict[str, bytes], metrics: dict[str, float]) -> None:
        """Keep rank 0's ``files`` as checkpoint ``name``. Collective.

        Raises
        ------
        NotKept
            If they could not be written.
        """


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
        self.profile: Path | None = None
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

    def place(self) -> tuple[int, int]:
        """Return the number of this worker's machine, and its own number there, both from 0."""
        return 0, self.rank

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """Open a folder that the first worker of each machine makes and names to the others."""
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

    def save(self, name: str, files: dict[str, bytes], metrics: dict[str, float]) -> None:
        """Write a checkpoint, seal included; drop damaged ones and all but the last two."""
        if self.checkpoints is not None:
            self._keep(f"checkpoint {name} in {self.checkpoints}", lambda: self._write(name, files))

    def _keep(self, what: str, write: Callable[[], None]) -> None:
        """Let rank 0 ``write``; the others wait until it has. All raise `NotKept` when it could not. Collective."""
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
        """Write under a temporary name and rename, so that what is half written is never taken for a checkpoint."""
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
            # A full disk stays full of it otherwise.
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
