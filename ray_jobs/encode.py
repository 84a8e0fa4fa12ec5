"""Stage encode: Ray Data streams the store through actors that hold the encoder; latents of training series stay."""

from typing import Any

import numpy as np
import ray
import ray.data
import torch

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ttsgan.api import Model
from ttsgan.data.split import read_splits
from ttsgan.data.storage import Location
from ttsgan.data.tables import write_table

BATCH = 128
PART_ROWS = 8192


def load_model(where: Location) -> Model:
    """Return the trained model of a run folder."""
    return Model.load(lambda name: (where / "checkpoints" / "model" / name).read_bytes())


class EncodeBatch:
    """Encodes the training series of each batch."""

    def __init__(self, where: str, threads: int) -> None:
        torch.set_num_threads(threads)
        place = Location.parse(where)
        self.model = load_model(place)
        ids, _, holdout = read_splits(place / "splits.parquet")
        self.train_ids = set(ids[~holdout])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return id, entity, latent and level (mean absolute value, unit of the store) of the training series."""
        keep = np.array([str(i) in self.train_ids for i in batch["id"]], dtype=bool)
        values = np.array(batch["values"][keep], dtype=np.float32)
        values = values[:, None] if values.ndim == 2 else values
        starts = batch["start"][keep].astype("datetime64[s]")
        nothing = np.empty((0, self.model.config.encoder.latent_dim), np.float32)
        mu = self.model.encode(values, starts) if keep.any() else nothing
        level = np.nanmean(np.abs(values), axis=(1, 2))
        return {"id": batch["id"][keep], "entity": batch["entity"][keep], "mu": mu, "level": level}


def run_encode(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Encode all training series; return the summary."""
    where, runtime = folder.where, folder.config.runtime
    store = where / "store"
    workers = max(runtime.num_workers, 1)
    parts_of_store = [part.path for part in store.list(".parquet")]
    read = ray.data.read_parquet(parts_of_store, filesystem=store.filesystem)
    data = read.select_columns(["id", "entity", "start", "values"]).map_batches(
        EncodeBatch,
        fn_constructor_args=(where.uri, runtime.cpus_per_worker),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=runtime.cpus_per_worker,
        num_gpus=int(runtime.use_gpu),
    )
    parts, seen = [], 0
    for batch in data.iter_batches(batch_size=None, batch_format="numpy"):
        parts.append(batch)
        seen += len(batch["id"])
        console.progress(f"encoded {seen} series")
    rows = {name: np.concatenate([part[name] for part in parts]) for name in ("id", "entity", "mu", "level")}
    # Ray Data promises no order; the files must not depend on it.
    order = np.argsort(rows["id"].astype(str))
    with (where / "latents").replace_dir() as out:
        for index, first in enumerate(range(0, len(order), PART_ROWS)):
            part = order[first : first + PART_ROWS]
            write_table(out / f"part-{index:05d}.parquet", {name: column[part] for name, column in rows.items()})
    return {"series": len(order), "latent_dim": int(rows["mu"].shape[1])}
