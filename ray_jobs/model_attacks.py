"""The owner's knowledge of a run folder, its conditions and networks, for the audit's attacks from inside."""

from functools import cached_property

import numpy as np

from ray_jobs.encode import load_model
from ttsgan.clustering import assign
from ttsgan.data.storage import Location
from ttsgan.data.tables import read_table
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import Inside
from ttsgan.trained_model import Model


class RunNetworks:
    """The networks of a run folder, loaded in each process at first use.

    Networks cannot be sent to workers; an object of this class can, because it is pickled without them.

    Parameters
    ----------
    where : Location
    cond : ndarray of shape (G, Z), float32
        Conditions of the groups.
    """

    def __init__(self, where: Location, cond: np.ndarray) -> None:
        self.uri, self.cond = where.uri, cond

    @cached_property
    def model(self) -> Model:
        """The trained model."""
        return load_model(Location.parse(self.uri))

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the networks."""
        return {"uri": self.uri, "cond": self.cond}

    def encode(self, series: Judged) -> np.ndarray:
        """Return the latents of series."""
        return self.model.encode(series.values, series.starts)

    def discriminate(self, series: Judged, latents: np.ndarray) -> np.ndarray:
        """Return the discriminator's logits of series, each under the condition nearest to its latent."""
        return self.model.discriminate(series.values, series.starts, self.cond[assign(latents, self.cond)[0]])


def read_inside(where: Location) -> Inside:
    """Return the conditions and networks of a finished run folder, in the form that the audit reads."""
    groups = where / "groups"
    conditions = read_table([groups / "conditions.parquet"], ["group_id", "cond"])
    members = read_table([groups / "members.parquet"], ["entity", "group_id", "probe"])
    dominance = read_table([groups / "groups.parquet"], ["group_id", "dominance"])
    order = {int(group): row for row, group in enumerate(conditions["group_id"])}
    probes = members["probe"].astype(bool)
    networks = RunNetworks(where, np.asarray(conditions["cond"], np.float32))
    return Inside(
        encode=networks.encode,
        discriminate=networks.discriminate,
        conditions=networks.cond,
        entities=members["entity"][probes].astype(str),
        condition_of=np.array([order[int(group)] for group in members["group_id"][probes]]),
        dominance=dominance["dominance"][[int(g) in order for g in dominance["group_id"]]],
    )
