"""The world of a training worker that Ray Train started."""

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
"""Ray Train's list of the checkpoints of a run, beside them."""

TERMINATED = threading.Event()
"""Set in a worker process that was sent SIGTERM."""


class HeedTermination(WorkerCallback):
    """Lets a worker that is sent SIGTERM keep a checkpoint first; by itself it would end at once."""

    def after_init_train_context(self) -> None:
        """Hear of the signal; runs in the main thread of each worker, where alone that can be asked for."""
        signal.signal(signal.SIGTERM, lambda *_: TERMINATED.set())


class RayRuntime(ProcessGroupRuntime):
    """Reports checkpoints to Ray Train, which keeps them in the run's storage and hands back the newest."""

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
        """Return the number of this worker's node, and its own number there, both from 0."""
        context = ray.train.get_context()
        return context.get_node_rank(), context.get_local_rank()

    def noticed(self) -> bool:
        """Whether Ray has notice that a node of the run will be taken away, the first time that it has."""
        first = ray.train.get_preemption_info() is not None and not self.saved_on_notice
        self.saved_on_notice |= first
        return first

    def _candidates(self) -> list[tuple[str, AbstractContextManager[Path]]]:
        """Return the checkpoints in the run's storage, whoever wrote them, the newest first; their seals judge them.

        All workers try those that worker 0 sees, in its order: a shared folder may show a new one later to some.
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
        """Let rank 0 write into the run's storage, then report it; every rank reports, which is a barrier."""
        # Ray Train would delete one of two checkpoints of one name, and with it the other.
        again = f"_{uuid.uuid4().hex[:8]}" if f"{CHECKPOINT_PREFIX}{name}" in self.damaged else ""
        storage = ray.train.get_context().get_storage()
        filesystem = storage.storage_filesystem
        folder = f"{storage.experiment_fs_path}/{CHECKPOINT_PREFIX}{name}{again}"
        # Ray Train's own copying would restart all workers when the storage fails for a moment, or is full.
        self._keep(f"checkpoint {folder}", lambda: write_checkpoint(filesystem, folder, files))
        ray.train.report(
            {**metrics, "checkpoint": name},
            checkpoint=ray.train.Checkpoint(folder, filesystem) if self.rank == 0 else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )


def forget_registry(checkpoints: Location) -> None:
    """Leave of earlier training the newest checkpoints alone, for `RayRuntime` to find.

    Ray Train's own list of them may be cut short by a kill, or name one that training without Ray has removed since; it
    would not start then. What is no longer in a list nobody else would remove.
    """
    (checkpoints / REGISTRY).remove()
    folders = [item for item in checkpoints.list() if item.name.startswith(CHECKPOINT_PREFIX)]
    # What was begun and never sealed does not take the place of what can be gone on with.
    sealed = [item for item in folders if (item / SEAL_FILE).is_file()]
    for old in folders[: folders.index(sealed[-2 * KEPT_CHECKPOINTS])] if len(sealed) > 2 * KEPT_CHECKPOINTS else ():
        old.remove()


def write_checkpoint(filesystem: FileSystem, folder: str, files: dict[str, bytes]) -> None:
    """Write a checkpoint's files, its seal last; what fails is raised, and what it wrote removed where that can be."""
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
