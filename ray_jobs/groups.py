"""Stage cluster: form groups of entities and their conditions from the latents, in ``groups/``."""

from typing import Any

import numpy as np

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.kmeans import group_latents
from ttsgan.data.tables import read_table, write_table


def run_cluster(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Group the training entities by their latents; return the summary."""
    where, config = folder.where, folder.config.cluster
    parts = (where / "latents").list(".parquet")
    rows = read_table(parts, ["entity", "level"])
    names, index = np.unique(rows["entity"].astype(str), return_inverse=True)
    level = np.bincount(index, rows["level"]) / np.bincount(index)
    console.progress(f"grouping {len(names)} entities")
    workers = folder.config.runtime.num_workers
    groups = group_latents(parts, names.astype(object), level, config, folder.config.seed, workers)
    members, conditions = groups.members, groups.conditions
    with (where / "groups").replace_dir() as out:
        write_table(
            out / "groups.parquet",
            {
                "group_id": groups.group_id,
                "size": groups.size,
                "dominance": groups.dominance,
                "centroid": groups.centroid,
            },
        )
        write_table(
            out / "members.parquet",
            {
                "entity": members.entity,
                "group_id": members.group_id,
                "in_condition": members.in_condition,
                "probe": members.probe,
            },
        )
        write_table(
            out / "conditions.parquet",
            {"group_id": conditions.group_id, "probes": conditions.probes, "cond": conditions.cond},
        )
    return {
        "groups": len(groups.group_id),
        "smallest": int(groups.size.min()),
        "largest": int(groups.size.max()),
        "fewest_probes": int(conditions.probes.min()),
        "suppressed": int((~members.in_condition).sum()),
        "largest_dominance": round(float(groups.dominance.max()), 4),
    }
