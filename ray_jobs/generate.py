"""Stage generate: Ray Data actors draw chunks of the plan and write one Parquet part for each chunk."""

from typing import Any

import numpy as np
import torch

from ray_jobs.actors import each_part
from ray_jobs.console import Console
from ray_jobs.encode import load_model
from ray_jobs.folder import RunFolder
from ray_jobs.run_series import open_half
from ttsgan.clustering import allocate
from ttsgan.config import RuntimeConfig
from ttsgan.data.storage import Location
from ttsgan.data.store import series_metadata, write_part
from ttsgan.data.tables import read_table
from ttsgan.errors import DataError
from ttsgan.synthesis import Plan, make_plan, shared_starts
from ttsgan.training.runtime import device_of


class DrawChunk:
    """Draws chunks of the plan and writes them."""

    def __init__(
        self,
        run: str,
        out: str,
        plan: Plan,
        cond: np.ndarray,
        chunk: int,
        metadata: dict[str, str],
        runtime: RuntimeConfig,
    ) -> None:
        torch.set_num_threads(runtime.cpus_per_worker)
        self.synthesizer = load_model(Location.parse(run), device_of(runtime)).synthesizer()
        self.out, self.plan, self.cond, self.chunk, self.metadata = Location.parse(out), plan, cond, chunk, metadata

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the chunks whose indices are in the column ``id``; return how many series each has."""
        counts = []
        for index in batch["id"].tolist():
            part = self.plan.chunk(index, self.chunk)
            values = self.synthesizer.draw(self.cond[part.group], part.start, index)
            first = index * self.chunk
            names = np.array([f"synthetic-{first + i:07d}" for i in range(len(part))], dtype=object)
            write_part(
                self.out / f"part-{index:05d}.parquet",
                {"synthetic_id": names, "start": part.start},
                values,
                self.metadata,
            )
            counts.append(len(part))
        return {"id": batch["id"], "count": np.array(counts)}


def run_generate(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Draw the requested number of series (by default one for each training entity); return the summary."""
    where, config = folder.where, folder.config
    runtime, chunk = config.runtime, config.generate.chunk
    load_model(where)  # Fail here if it cannot be read, as in `run_encode`.
    groups = where / "groups"
    members = read_table([groups / "members.parquet"], ["group_id", "entity"])
    cond = read_table([groups / "conditions.parquet"], ["cond"])["cond"]
    total = config.generate.series or len(members["entity"])
    train = open_half(where, holdout=False)
    starts = shared_starts(train.starts, train.entities.astype(str), config.cluster.min_group_size)
    plan = make_plan(cond, allocate(members["group_id"], total), starts, config.seed)
    of = train.nothing
    metadata = series_metadata(of.unit, of.step_seconds, of.channels, of.note and f"synthetic, from {of.note}")
    chunks = -(-total // chunk)
    with (where / "synthetic").replace_dir() as out:
        done = 0
        arguments = where.uri, out.uri, plan, cond, chunk, metadata, runtime
        for batch in each_part(DrawChunk, arguments, chunks, runtime):
            done += int(batch["count"].sum())
            console.progress(f"generated {done}/{total} series")
        if len(out.list(".parquet")) != chunks:
            raise DataError(f"{out} has {len(out.list('.parquet'))} parts of {chunks}: another command works there")
    return {"series": total, "parts": chunks}
