"""Progress reports of training: JSON lines, TensorBoard scalars, and plots of real and synthetic weeks."""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from ttsgan.data.storage import one_line

PROGRESS_FILE = "progress.jsonl"
LOGGED = ("loss/", "validation/", "score/")
"""Beginnings of the names of figures that are logged, too."""

log = logging.getLogger(__name__)


class Telemetry:
    """Logs progress (level INFO) and writes it into ``folder``; ranks other than 0 get None and only log.

    A failure to write is logged once, and training continues without the report.

    Parameters
    ----------
    folder : Path or None
    total_series : int
        Series that all stages of training see together.
    left : callable (str, int) -> float, optional
        Returns the remaining work in series of the given stage, from the stage and the series seen in all stages; by
        default the number of remaining series.
    """

    def __init__(self, folder: Path | None, total_series: int, left: Callable[[str, int], float] | None = None) -> None:
        self.folder, self.total_series = folder, total_series
        self.left = left or (lambda stage, series_seen: total_series - series_seen)
        self.stage, self.paused, self.started, self.first_series, self.last_series = "", False, time.monotonic(), 0, 0
        self.writer: SummaryWriter | None = None
        self.failing = False

    def report(self, stage: str, series_seen: int, figures: dict[str, float], doing: str = "") -> None:
        """Write one line: time (Unix seconds), stage, series seen in all stages, speed, time left, ``figures``.

        The speed is measured within this stage: other stages, and the work between stages, have their own. ``doing``
        describes such work between stages.
        """
        if stage != self.stage or self.paused or series_seen < self.last_series:
            # The first line of the stage, or the first after other work or a rollback.
            self.first_series, self.started = series_seen, time.monotonic()
        self.stage, self.last_series, self.paused = stage, series_seen, bool(doing)
        elapsed = time.monotonic() - self.started
        speed = (series_seen - self.first_series) / elapsed if elapsed > 0 else 0.0
        left = self.left(stage, series_seen) / speed if speed > 0 else None
        known = [f"{name} {value:.4g}" for name, value in figures.items() if name.startswith(LOGGED)]
        log.info("%s: %d of %d series%s", doing or stage, series_seen, self.total_series, "; ".join(["", *known]))
        if self.folder is None:
            return
        line = {
            "time": round(time.time(), 1),
            "stage": stage,
            "series_seen": series_seen,
            "total_series": self.total_series,
            "series_per_second": round(speed, 3),
            "seconds_left": None if left is None else round(left, 1),
            **{name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in figures.items()},
            **({"doing": doing} if doing else {}),
        }

        def write(board: SummaryWriter) -> None:
            with (self.folder / PROGRESS_FILE).open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            # The speed is unknown at the first line of a stage.
            known = {"series_per_second": speed, "seconds_left": left} if left is not None else {}
            for name, value in {**known, **figures}.items():
                board.add_scalar(name, value, series_seen)

        self._try(series_seen, write)

    def picture(self, name: str, series_seen: int, real: NDArray, synthetic: NDArray, steps: int) -> None:
        """Plot ``steps`` points from the middle of up to four real and four synthetic series (B, C, T), channel 0."""
        if self.folder is None:
            return
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.subplots(4, 2, sharex=True)
        first = real.shape[2] // 2
        for column, (title, series) in enumerate((("real", real), ("synthetic", synthetic))):
            for row, values in enumerate(series[:4]):
                axes[row, column].plot(np.asarray(values[0, first : first + steps]), linewidth=0.8)
            axes[0, column].set_title(title)
        self._try(series_seen, lambda board: board.add_figure(name, figure, series_seen))

    def close(self) -> None:
        """Close the files."""
        if self.writer is not None:
            self._try(self.last_series, lambda board: board.close())

    def _try(self, series_seen: int, write: Callable[[SummaryWriter], None]) -> None:
        try:
            # A resumed run repeats the steps after its last checkpoint: TensorBoard drops the old ones.
            self.writer = self.writer or SummaryWriter(str(self.folder), purge_step=series_seen)
            write(self.writer)
            self.failing = False
        except OSError as error:
            if not self.failing:
                log.warning("progress cannot be written (%s); training goes on", one_line(error))
            # The writer's thread ended with its file: the next call creates a new writer.
            self.writer, self.failing = None, True
