"""The world of a training worker that Ray Train started."""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import ray.train
import ray.train.torch
from pyarrow.fs import FileSelector, FileType

from ttsgan.training.runtime import ProcessGroupRuntime, seal


class RayRuntime(ProcessGroupRuntime):
    """Reports checkpoints to Ray Train, which keeps them in the run's storage and hands back the newest."""

    def __init__(self) -> None:
        super().__init__(None, str(ray.train.torch.get_device()))
        self.saved_on_notice = False

    def noticed(self) -> bool:
        """Whether Ray has notice that a node of the run will be taken away, the first time that it has."""
        first = ray.train.get_preemption_info() is not None and not self.saved_on_notice
        self.saved_on_notice |= first
        return first

    def _candidates(self) -> list[tuple[str, AbstractContextManager[Path]]]:
        """Return the newest checkpoint that Ray Train registered, and those that lie before it in the storage."""
        newest = ray.train.get_checkpoint()
        if newest is None:
            return []
        parent, _, last = newest.path.rstrip("/").rpartition("/")
        entries = newest.filesystem.get_file_info(FileSelector(parent))
        folders = [entry.base_name for entry in entries if entry.type == FileType.Directory]
        names = sorted(n for n in folders if n.startswith("checkpoint_") and n <= last)
        return [
            (name, _opened(ray.train.Checkpoint(f"{parent}/{name}", newest.filesystem))) for name in reversed(names)
        ]

    def save(self, name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Report what rank 0 writes; every rank reports, which is a barrier."""
        figures = {**metrics, "checkpoint": name}
        if self.rank != 0:
            ray.train.report(figures)
            return
        # Ray Train would delete one of two checkpoints of one name, and with it the other.
        again = f"_{uuid.uuid4().hex[:8]}" if f"checkpoint_{name}" in self.damaged else ""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            seal(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(figures, checkpoint=checkpoint, checkpoint_dir_name=f"checkpoint_{name}{again}")


@contextmanager
def _opened(checkpoint: ray.train.Checkpoint) -> Iterator[Path]:
    with checkpoint.as_directory() as folder:
        yield Path(folder)
