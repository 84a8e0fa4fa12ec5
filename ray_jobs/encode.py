"""Stage encode: Ray Data actors that hold the encoder read parts of the store and encode the training series."""

from typing import Any

import numpy as np
import torch

from ray_jobs.actors import each_part
from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ttsgan.config import RuntimeConfig
from ttsgan.data.split import read_splits, where_in
from ttsgan.data.storage import Location
from ttsgan.data.store import read_store
from ttsgan.data.tables import write_table
from ttsgan.trained_model import Model
from ttsgan.training.runtime import device_of

PART_ROWS = 8192


def load_model(where: Location, device: str = "cpu") -> Model:
    """Return the trained model of a run folder, on ``device``."""
    return Model.load(lambda name: (where / "checkpoints" / "model" / name).read_bytes(), device)


class EncodePart:
    """Reads parts of the store and encodes their training series."""

    def __init__(self, where: str, parts: list[str], runtime: RuntimeConfig) -> None:
        torch.set_num_threads(runtime.cpus_per_worker)
        self.place, self.parts = Location.parse(where), parts
        self.model = load_model(self.place, device_of(runtime))
        ids, _, holdout = read_splits(self.place / "splits.parquet")
        self.train_ids = set(ids[~holdout].tolist())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return id, entity, latent and level (mean absolute value, in the store's unit) of each training series.

        The column ``id`` of the batch holds the index of one part.
        """
        (number,) = batch["id"]
        series = read_store(self.place / "store" / self.parts[number])
        series = series.subset(where_in(series.ids, self.train_ids))
        nothing = np.empty((0, self.model.config.encoder.latent_dim), np.float32)
        mu = self.model.encode(series.values, series.starts) if len(series) else nothing
        level = np.nanmean(np.abs(series.values), axis=(1, 2))
        return {"id": series.ids.astype(str), "entity": series.entities.astype(str), "mu": mu, "level": level}


def run_encode(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Encode all training series; return the summary."""
    where, runtime = folder.where, folder.config.runtime
    load_model(where)  # Fail here if it cannot be read: of an actor that fails at its start, Ray says it was lost.
    names = [part.name for part in (where / "store").list(".parquet")]
    parts, seen = [], 0
    # Ray Data's own Parquet reader is slower: it starts eight processes to read the ends of the files.
    for batch in each_part(EncodePart, (where.uri, names, runtime), len(names), runtime):
        parts.append(batch)
        seen += len(batch["id"])
        console.progress(f"encoded {seen} series")
    rows = {name: np.concatenate([part[name] for part in parts]) for name in ("id", "entity", "mu", "level")}
    # Ray Data guarantees no order; sort, so that the files do not depend on it.
    order = np.argsort(rows["id"].astype(str))
    with (where / "latents").replace_dir() as out:
        for index, first in enumerate(range(0, len(order), PART_ROWS)):
            part = order[first : first + PART_ROWS]
            write_table(out / f"part-{index:05d}.parquet", {name: column[part] for name, column in rows.items()})
    return {"series": len(order), "latent_dim": int(rows["mu"].shape[1])}
