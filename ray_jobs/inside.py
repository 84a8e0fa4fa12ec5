"""What the owner of a run folder knows: conditions and networks, for the audit's attacks from inside."""

import numpy as np

from ray_jobs.encode import load_model
from ttsgan.data.storage import Location
from ttsgan.data.tables import read_table
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import Inside


def read_inside(where: Location) -> Inside:
    """Return the conditions and networks of a finished run folder, in the form that the audit reads."""
    model = load_model(where)
    groups = where / "groups"
    conditions = read_table([groups / "conditions.parquet"], ["group_id", "cond"])
    members = read_table([groups / "members.parquet"], ["entity", "group_id", "probe"])
    dominance = read_table([groups / "groups.parquet"], ["group_id", "dominance"])
    order = {int(group): row for row, group in enumerate(conditions["group_id"])}
    probes = members["probe"].astype(bool)
    cond = np.asarray(conditions["cond"], np.float32)

    def encode(series: Judged) -> np.ndarray:
        return model.encode(series.values, series.starts)

    def discriminate(series: Judged, latents: np.ndarray) -> np.ndarray:
        nearest = ((latents[:, None] - cond[None]) ** 2).sum(2).argmin(1)
        return model.discriminate(series.values, series.starts, cond[nearest])

    return Inside(
        encode=encode,
        discriminate=discriminate,
        conditions=cond,
        entities=members["entity"][probes].astype(str),
        condition_of=np.array([order[int(group)] for group in members["group_id"][probes]]),
        dominance=dominance["dominance"][[int(g) in order for g in dominance["group_id"]]],
    )
