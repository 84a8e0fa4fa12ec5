"""What tests of the command line share: the one line of a refusal, and a small store."""

import numpy as np

from ray_jobs.cli import main
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location
from ttsgan.data.store import write_store


def complaint(capsys, words: list[str]) -> tuple[int, str]:
    status = main(words)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return status, lines[0]


def small_store(tmp_path, count=40, length=336, **changes):
    rng = np.random.default_rng(0)
    ids = np.array([f"m{i:03d}" for i in range(count)], dtype=object)
    arguments = {
        "ids": ids,
        "entities": ids,
        "starts": np.full(count, np.datetime64("2013-01-01", "s")),
        "values": rng.gamma(1.0, 0.4, (count, 1, length)).astype(np.float32),
        "unit": "kWh/h",
        "step_seconds": 3600,
    }
    write_store(SeriesSet(**{**arguments, **changes}), Location.parse(str(tmp_path / "store")))
    return str(tmp_path / "store")
