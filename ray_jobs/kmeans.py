"""The driver loop of `ttsgan.clustering` over latents that stay in actors, for populations larger than one machine.

Every actor holds the mean latents of its entities (row number modulo the number of actors, entities in ascending order)
and reads them from the Parquet parts itself, so that one that is lost comes back by itself. The driver sees names,
centres, sums, labels, and the few latents that are candidates or belong to groups to dissolve.
"""

from typing import Any, Self

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from ttsgan.clustering import Groups, Shard, entity_latents, form_groups
from ttsgan.config import ClusterConfig
from ttsgan.data.storage import Location
from ttsgan.data.tables import read_table
from ttsgan.errors import TtsganError

MAX_RESTARTS = 8


def group_latents(
    parts: list[Location], entities: NDArray, level: NDArray, config: ClusterConfig, seed: int, workers: int
) -> Groups:
    """Group the entities of encoded series; the same groups as `ttsgan.clustering.form_groups` makes in one process.

    Ray must be initialised. The actors, at most one per CPU, are stopped at the end.

    Parameters
    ----------
    parts : list of Location
        Parquet parts with the columns ``entity`` (text) and ``mu`` (a tensor of d per row).
    entities : ndarray of shape (n,), object
        All entities of the parts, each once, ascending.
    level : ndarray of shape (n,)
        Mean size of each entity's series, in their unit, at least 0.
    config : ClusterConfig
    seed : int
    workers : int
        Most actors that hold the latents; the groups do not depend on it.

    Returns
    -------
    Groups

    Raises
    ------
    DataError
        A part that cannot be read, or without latents; and what ``form_groups`` raises.
    """
    cpus = int(ray.cluster_resources().get("CPU", 1))
    with ActorShards(parts, entities, max(1, min(workers, cpus, len(entities)))) as shards:
        return form_groups(entities, None, level, config, seed, shards)


class ActorShards:
    """`ttsgan.clustering.Shards` in Ray actors; leaving the ``with`` block stops them.

    Parameters
    ----------
    parts, entities
        As for `group_latents`.
    count : int
        Number of actors, 1 to n; each takes one CPU.
    """

    def __init__(self, parts: list[Location], entities: NDArray, count: int) -> None:
        self.rows = np.arange(len(entities))
        # Inside a list the reference travels without the names: only an actor that reads its shard fetches them.
        self._entities = [ray.put(entities)]
        options = {"max_restarts": MAX_RESTARTS, "max_task_retries": -1}
        self.actors = [_ShardActor.options(**options).remote(parts, at, count) for at in range(count)]

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Return the answers of ``method`` of every `Shard`, in the order of the shards."""
        sent = [ray.put(value) if isinstance(value, np.ndarray) else value for value in arguments]
        try:
            return ray.get([actor.call.remote(self._entities, method, *sent) for actor in self.actors])
        except RayTaskError as error:
            if isinstance(error.cause, TtsganError):
                raise error.cause from None
            raise

    def __enter__(self) -> Self:
        """Return these shards."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the actors."""
        for actor in self.actors:
            ray.kill(actor)


@ray.remote(num_cpus=1)
class _ShardActor:
    """One `Shard`. It is read at the first call: a fault in the data must reach the driver as a `DataError`."""

    def __init__(self, parts: list[Location], at: int, count: int) -> None:
        self._parts, self._at, self._count = parts, at, count
        self._shard: Shard | None = None

    def call(self, entities: list[ray.ObjectRef], method: str, *arguments: Any) -> Any:
        if self._shard is None:
            names = ray.get(entities[0])
            rows = np.arange(self._at, len(names), self._count)
            table = read_table(self._parts, ["entity", "mu"])
            mine = np.isin(table["entity"].astype(str), names[rows].astype(str))
            means = entity_latents(table["entity"][mine], table["mu"][mine])[1]
            self._shard = Shard(means, rows, len(names))
        return getattr(self._shard, method)(*arguments)
