"""What training says of itself: JSON lines, TensorBoard scalars, and pictures of real and synthetic weeks."""

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

log = logging.getLogger(__name__)


class Telemetry:
    """Writes into ``folder``; a rank other than 0 is given None and writes nothing.

    What cannot be written is told once and left out: training goes on without it.

    Parameters
    ----------
    folder : Path or None
    total_series : int
        Series that training will see in all.
    left : callable (str, int) -> float, optional
        How many series of a stage all that is left costs as much as, given the stage and the series seen in all
        stages; by default as many as there are left.
    """

    def __init__(self, folder: Path | None, total_series: int, left: Callable[[str, int], float] | None = None) -> None:
        self.folder, self.total_series = folder, total_series
        self.left = left or (lambda stage, series_seen: total_series - series_seen)
        self.stage, self.paused, self.started, self.first_series, self.last_series = "", False, time.monotonic(), 0, 0
        self.writer: SummaryWriter | None = None
        self.failing = False

    def report(self, stage: str, series_seen: int, figures: dict[str, float], doing: str = "") -> None:
        """Write one line: moment (Unix seconds), stage, series seen in all stages, speed, time left, ``figures``.

        The speed is that of this stage: others, and what is done between them, take their own time. Of that work
        ``doing`` says what it is.
        """
        if self.folder is None:
            return
        if stage != self.stage or self.paused or series_seen < self.last_series:
            # The first line of the stage, or the first after other work or after going back.
            self.first_series, self.started = series_seen, time.monotonic()
        self.stage, self.last_series, self.paused = stage, series_seen, bool(doing)
        elapsed = time.monotonic() - self.started
        speed = (series_seen - self.first_series) / elapsed if elapsed > 0 else 0.0
        left = self.left(stage, series_seen) / speed if speed > 0 else None
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
            # Of the first line of a stage no speed is known.
            known = {"series_per_second": speed, "seconds_left": left} if left is not None else {}
            for name, value in {**known, **figures}.items():
                board.add_scalar(name, value, series_seen)

        self._try(series_seen, write)

    def picture(self, name: str, series_seen: int, real: NDArray, synthetic: NDArray, steps: int) -> None:
        """Draw the first ``steps`` points from mid-year of up to four real and four synthetic series (B, C, T)."""
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
        """Finish the files."""
        if self.writer is not None:
            self._try(self.last_series, lambda board: board.close())

    def _try(self, series_seen: int, write: Callable[[SummaryWriter], None]) -> None:
        try:
            # Training that was cut off repeats steps after its last checkpoint: TensorBoard leaves out the old ones.
            self.writer = self.writer or SummaryWriter(str(self.folder), purge_step=series_seen)
            write(self.writer)
            self.failing = False
        except OSError as error:
            if not self.failing:
                log.warning("progress cannot be written (%s); training goes on", one_line(error))
            # The thread that wrote is gone with its file: the next time has new ones.
            self.writer, self.failing = None, True
