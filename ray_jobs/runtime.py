"""The training runtime of a worker that Ray Train started."""

import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import ray.train
import ray.train.torch
import torch.distributed as dist
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.train import CheckpointUploadMode
from ray.train.v2._internal.execution.callback import WorkerCallback

from ttsgan.data.storage import Location
from ttsgan.training.runtime import (
    CHECKPOINT_PREFIX,
    KEPT_CHECKPOINTS,
    SEAL_FILE,
    ProcessGroupRuntime,
    patiently,
    seal_of,
)

REGISTRY = "checkpoint_manager_snapshot.json"
"""Ray Train's list of a run's checkpoints, stored beside them."""

TERMINATED = threading.Event()
"""Set in a worker process that has received SIGTERM."""


class HeedTermination(WorkerCallback):
    """Lets a worker save a checkpoint after SIGTERM; without this callback it would end at once."""

    def after_init_train_context(self) -> None:
        """Install the signal handler; runs in each worker's main thread, the only one that may install it."""
        signal.signal(signal.SIGTERM, lambda *_: TERMINATED.set())


class RayRuntime(ProcessGroupRuntime):
    """A process group whose checkpoints are written to the run's storage and reported to Ray Train."""

    def __init__(self) -> None:
        super().__init__(None, str(ray.train.torch.get_device()))
        self.saved_on_notice = False

    @property
    def leaving(self) -> bool:
        """Whether this worker was asked to stop, by the driver or by a signal."""
        return self._asked or TERMINATED.is_set()

    @leaving.setter
    def leaving(self, asked: bool) -> None:
        self._asked = asked

    def place(self) -> tuple[int, int]:
        """Return the rank of this worker's node and the worker's local rank on it, both from 0."""
        context = ray.train.get_context()
        return context.get_node_rank(), context.get_local_rank()

    def noticed(self) -> bool:
        """Return True once, when Ray first has notice that a node of the run will be preempted."""
        first = ray.train.get_preemption_info() is not None and not self.saved_on_notice
        self.saved_on_notice |= first
        return first

    def _candidates(self) -> list[tuple[str, AbstractContextManager[Path]]]:
        """Return all checkpoints in the run's storage, newest first, whoever wrote them; seals are not checked here.

        All workers use worker 0's list, because a shared folder may show a new checkpoint later to some workers.
        """
        storage = ray.train.get_context().get_storage()
        filesystem, parent = storage.storage_filesystem, storage.experiment_fs_path
        names: list[str] = []
        if self.rank == 0:
            selector = FileSelector(parent, allow_not_found=True)
            entries = patiently(lambda: filesystem.get_file_info(selector), f"list {parent}")
            folders = [entry.base_name for entry in entries if entry.type == FileType.Directory]
            names = sorted(name for name in folders if name.startswith(CHECKPOINT_PREFIX))
        seen = [names]
        dist.broadcast_object_list(seen, src=0, device=self.device)
        (names,) = seen
        return [(name, _opened(ray.train.Checkpoint(f"{parent}/{name}", filesystem))) for name in reversed(names)]

    def save(self, name: str, files: dict[str, bytes], metrics: dict[str, float]) -> None:
        """Let rank 0 write the checkpoint into the run's storage; then every rank reports it, which is a barrier."""
        # Not the name of a damaged checkpoint: Ray Train, deleting one of two of the same name, would delete both.
        again = f"_{uuid.uuid4().hex[:8]}" if f"{CHECKPOINT_PREFIX}{name}" in self.damaged else ""
        storage = ray.train.get_context().get_storage()
        filesystem = storage.storage_filesystem
        folder = f"{storage.experiment_fs_path}/{CHECKPOINT_PREFIX}{name}{again}"
        # Written here: an upload by Ray Train would restart all workers if the storage is full or fails for a moment.
        self._keep(f"checkpoint {folder}", lambda: write_checkpoint(filesystem, folder, files))
        ray.train.report(
            {**metrics, "checkpoint": name},
            checkpoint=ray.train.Checkpoint(folder, filesystem) if self.rank == 0 else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )


def forget_registry(checkpoints: Location) -> None:
    """Delete Ray Train's registry and all but the newest checkpoints, which `RayRuntime` then finds by itself.

    The registry may be cut short by a kill, or name a checkpoint that training without Ray has since removed; Ray Train
    would then not start. Old checkpoints are deleted here because, without a registry, nothing else deletes them.
    """
    (checkpoints / REGISTRY).remove()
    folders = [item for item in checkpoints.list() if item.name.startswith(CHECKPOINT_PREFIX)]
    # Count sealed checkpoints only: incomplete ones must not displace those that training can resume from.
    sealed = [item for item in folders if (item / SEAL_FILE).is_file()]
    for old in folders[: folders.index(sealed[-2 * KEPT_CHECKPOINTS])] if len(sealed) > 2 * KEPT_CHECKPOINTS else ():
        old.remove()


def write_checkpoint(filesystem: FileSystem, folder: str, files: dict[str, bytes]) -> None:
    """Write a checkpoint's files, its seal last; on an `OSError`, remove the folder if possible, and raise."""
    try:
        filesystem.create_dir(folder, recursive=True)
        filesystem.delete_dir_contents(folder)
        for name, content in {**files, SEAL_FILE: seal_of(files)}.items():
            with filesystem.open_output_stream(f"{folder}/{name}") as file:
                file.write(content)
    except OSError:
        with suppress(OSError):
            filesystem.delete_dir(folder)
        raise


@contextmanager
def _opened(checkpoint: ray.train.Checkpoint) -> Iterator[Path]:
    with ExitStack() as stack:
        yield Path(patiently(lambda: stack.enter_context(checkpoint.as_directory()), f"read {checkpoint.path}"))
