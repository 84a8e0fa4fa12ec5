"""The driver loop of `ttsgan.clustering` over latents held by actors, for populations larger than one machine.

Entities are in ascending order; actor ``i`` of ``n`` holds the mean latents of rows ``i``, ``i + n``, ``i + 2 n``, and
so on. It reads them from the Parquet parts itself, so that it needs no help after a restart. The driver receives names,
centres, sums, labels, and only those latents that are candidates or belong to groups to dissolve.
"""

from typing import Any, Self

import numpy as np
import ray
from numpy.typing import NDArray

from ray_jobs.blocks import result_of
from ttsgan.clustering import Groups, Shard, entity_latents, form_groups
from ttsgan.config import ClusterConfig
from ttsgan.data.storage import Location
from ttsgan.data.tables import read_table

MAX_RESTARTS = 8


def group_latents(
    parts: list[Location], entities: NDArray, level: NDArray, config: ClusterConfig, seed: int, workers: int
) -> Groups:
    """Group the entities of encoded series, exactly as `ttsgan.clustering.form_groups` does in one process.

    Ray must be initialised. There is at most one actor per CPU; all are stopped at the end.

    Parameters
    ----------
    parts : list of Location
        Parquet parts with the columns ``entity`` (text) and ``mu`` (a tensor of d values in each row).
    entities : ndarray of shape (n,), object
        All entities of the parts, each once, ascending.
    level : ndarray of shape (n,)
        Mean size of each entity's series, in their unit, at least 0.
    config : ClusterConfig
    seed : int
    workers : int
        Maximum number of actors; the groups do not depend on it.

    Returns
    -------
    Groups

    Raises
    ------
    DataError
        If a part cannot be read or has no latents, or ``form_groups`` raises it.
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
        # Ray does not resolve a reference inside a list: the names are fetched only by actors that read their shard.
        self._entities = [ray.put(entities)]
        options = {"max_restarts": MAX_RESTARTS, "max_task_retries": -1}
        self.actors = [_ShardActor.options(**options).remote(parts, at, count) for at in range(count)]

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call ``method`` of every `Shard`; return the results in the order of the shards."""
        sent = [ray.put(value) if isinstance(value, np.ndarray) else value for value in arguments]
        return result_of([actor.call.remote(self._entities, method, *sent) for actor in self.actors])

    def __enter__(self) -> Self:
        """Return these shards."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the actors."""
        for actor in self.actors:
            ray.kill(actor)


@ray.remote(num_cpus=1)
class _ShardActor:
    """Holds one `Shard`, read at the first call, so that a fault in the data reaches the driver as a `DataError`."""

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
