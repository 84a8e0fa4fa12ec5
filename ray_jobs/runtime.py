"""The world of a training worker that Ray Train started."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray.train
import ray.train.torch

from ttsgan.training.runtime import ProcessGroupRuntime


class RayRuntime(ProcessGroupRuntime):
    """Reports checkpoints to Ray Train, which keeps them in the run's storage and hands back the newest."""

    def __init__(self) -> None:
        super().__init__(None, str(ray.train.torch.get_device()))

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Open the newest checkpoint that Ray Train registered, or None."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                yield Path(folder)

    def save(self, name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Report what rank 0 writes; every rank reports, which is a barrier."""
        figures = {**metrics, "checkpoint": name}
        if self.rank != 0:
            ray.train.report(figures)
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(figures, checkpoint=checkpoint, checkpoint_dir_name=f"checkpoint_{name}")
