"""The driver loop of `ttsgan.clustering` over latents that stay in actors, for populations larger than one machine.

Every actor holds the mean latents of its entities (row number modulo the number of actors, entities in ascending order)
and reads them from the Parquet parts itself, so that one that is lost comes back by itself. The driver sees names,
centres, sums, labels, and the few latents that are candidates or belong to groups to dissolve.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from pyarrow import fs
from ray.exceptions import RayTaskError

from ttsgan.clustering import Groups, Shard, entity_latents, form_groups
from ttsgan.config import ClusterConfig
from ttsgan.data.storage import one_line
from ttsgan.errors import DataError, TtsganError

MAX_RESTARTS = 8


def group_latents(
    paths: list[str],
    filesystem: fs.FileSystem | None,
    level_by_entity: Mapping[str, float],
    config: ClusterConfig,
    seed: int,
) -> Groups:
    """Group the entities of encoded series; the same groups as `ttsgan.clustering.form_groups` makes in one process.

    Ray must be initialised. The actors, at most ``config.shards`` and at most one per CPU, are stopped at the end.

    Parameters
    ----------
    paths : list of str
        Parquet parts with the columns ``entity`` (text) and ``mu`` (a tensor or list of float, d per row).
    filesystem : pyarrow.fs.FileSystem or None
        Where the paths are; None: this machine, and the same path on every node.
    level_by_entity : mapping of str to float
        Mean size of each entity's series, in their unit, at least 0.
    config : ClusterConfig
    seed : int

    Returns
    -------
    Groups

    Raises
    ------
    DataError
        A part that cannot be read, or without latents; an entity without a level; and what ``form_groups`` raises.
    """
    entities = _read_entities(paths, filesystem)
    unknown = [entity for entity in entities if entity not in level_by_entity]
    if unknown:
        raise DataError(f"entity {unknown[0]!r} of the latents is not in the training data; encode it again")
    cpus = int(ray.cluster_resources().get("CPU", 1))
    with ActorShards(paths, filesystem, entities, max(1, min(config.shards, cpus, len(entities)))) as shards:
        level = [level_by_entity[entity] for entity in entities]
        return form_groups(entities, None, level, config, seed, shards)


class ActorShards:
    """`ttsgan.clustering.Shards` in Ray actors; leaving the ``with`` block stops them.

    Parameters
    ----------
    paths, filesystem
        As for `group_latents`.
    entities : ndarray of shape (n,), object
        All entities of the parts, each once, ascending.
    count : int
        Number of actors, 1 to n; each takes one CPU.
    """

    def __init__(self, paths: list[str], filesystem: fs.FileSystem | None, entities: NDArray, count: int) -> None:
        self.rows = np.arange(len(entities))
        # Inside a list the reference travels without the names: only an actor that reads its shard fetches them.
        self._entities = [ray.put(entities)]
        options = {"max_restarts": MAX_RESTARTS, "max_task_retries": -1}
        self.actors = [_ShardActor.options(**options).remote(paths, filesystem, at, count) for at in range(count)]

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

    def __init__(self, paths: list[str], filesystem: fs.FileSystem | None, at: int, count: int) -> None:
        self._paths, self._filesystem, self._at, self._count = paths, filesystem, at, count
        self._shard: Shard | None = None

    def call(self, entities: list[ray.ObjectRef], method: str, *arguments: Any) -> Any:
        if self._shard is None:
            names = ray.get(entities[0])
            rows = np.arange(self._at, len(names), self._count)
            self._shard = Shard(_read_latents(self._paths, self._filesystem, names[rows]), rows, len(names))
        return getattr(self._shard, method)(*arguments)


def _batches(paths: list[str], filesystem: fs.FileSystem | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if not paths:
        raise DataError("there are no latents to group; encode the series first")
    for path in paths:
        try:
            with pq.ParquetFile(path, filesystem=filesystem) as file:
                for name in columns:
                    if name not in file.schema_arrow.names:
                        raise DataError(f"{path} has no column {name!r}; encode the series again")
                yield from file.iter_batches(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {path}: {one_line(error)}; encode the series again") from error


def _read_entities(paths: list[str], filesystem: fs.FileSystem | None) -> NDArray:
    """Return all entities, each once, ascending, as text (n,), object."""
    names = [pc.unique(batch.column("entity")) for batch in _batches(paths, filesystem, ["entity"])]
    found = {name for part in names for name in part.to_pylist()}
    if None in found or not found:
        raise DataError(f"column 'entity' of {paths[0]} and its like is empty; encode the series again")
    return np.array(sorted(found), dtype=object)


def _read_latents(paths: list[str], filesystem: fs.FileSystem | None, entities: NDArray) -> NDArray:
    """Return the mean latent (m, d), float32, of each of the given entities (m,), ascending."""
    wanted = pa.array(entities.tolist(), pa.string())
    names, latents = [], []
    for batch in _batches(paths, filesystem, ["entity", "mu"]):
        mine = batch.filter(pc.is_in(batch.column("entity").cast(pa.string()), value_set=wanted))
        if mine.num_rows:
            names.append(mine.column("entity").to_numpy(zero_copy_only=False))
            latents.append(_to_numpy(mine.column("mu")))
    widths = sorted({part.shape[1] for part in latents})
    if len(widths) > 1:
        raise DataError(f"the parts hold latents of {widths[0]} and {widths[-1]} dimensions; encode all series again")
    return entity_latents(np.concatenate(names), np.concatenate(latents))[1]


def _to_numpy(column: pa.Array) -> NDArray:
    """Return a tensor or list column as an array (n, d), float32."""
    lists = column.storage if isinstance(column, pa.ExtensionArray) else column
    nested = pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type)
    widths = pc.unique(pc.list_value_length(lists)).to_pylist() if nested else []
    if len(widths) != 1 or widths[0] in (None, 0):
        raise DataError("column 'mu' of the latents is not one list of equal length per row; encode the series again")
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1).astype(np.float32)
