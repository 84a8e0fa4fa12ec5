"""Clustering in actors gives the same groups as in one process, also when an actor is lost."""

import dataclasses
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ray_jobs.kmeans import ActorShards, group_latents
from ttsgan.clustering import entity_latents, form_groups, kmeans
from ttsgan.config import ClusterConfig
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray4")]
CONFIG = ClusterConfig(probes=16)


@dataclasses.dataclass
class Encoded:
    """Encoded series of 200 entities in two parts: one has a tensor column, the other a list column."""

    paths: list[str]
    entities: np.ndarray
    latents: np.ndarray
    level: np.ndarray


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    rng = np.random.default_rng(2)
    entity_row = np.concatenate([rng.permutation(200), rng.integers(200, size=150)])
    entities = np.array([f"e{row:03d}" for row in entity_row], dtype=object)
    latents = (rng.standard_normal((6, 4))[entity_row % 6] * 4 + rng.standard_normal((350, 4))).astype(np.float32)
    level = rng.lognormal(size=200)[entity_row]
    columns = [
        pa.FixedShapeTensorArray.from_numpy_ndarray(latents[:180]),
        pa.FixedShapeTensorArray.from_numpy_ndarray(latents[180:]),
    ]
    folder, paths = tmp_path_factory.mktemp("latents"), []
    for part, column in enumerate(columns):
        rows = slice(0, 180) if part == 0 else slice(180, 350)
        table = {"id": [f"s{row}" for row in range(350)[rows]], "entity": entities[rows].tolist(), "mu": column}
        paths.append(str(folder / f"part-{part}.parquet"))
        pq.write_table(pa.table(table), paths[-1], row_group_size=64)
    return Encoded(paths, entities, latents, level)


def assert_same(groups, others):
    """Assert that members are equal exactly, and means to 1e-6."""
    np.testing.assert_array_equal(groups.members.entity, others.members.entity)
    np.testing.assert_array_equal(groups.members.group_id, others.members.group_id)
    np.testing.assert_array_equal(groups.members.in_condition, others.members.in_condition)
    np.testing.assert_array_equal(groups.members.probe, others.members.probe)
    np.testing.assert_array_equal(groups.size, others.size)
    np.testing.assert_array_equal(groups.dominance, others.dominance)
    np.testing.assert_allclose(groups.centroid, others.centroid, atol=1e-6)
    np.testing.assert_allclose(groups.conditions.cond, others.conditions.cond, atol=1e-6)


def test_groups_of_actors_equal_those_of_one_process(encoded):
    local = form_groups(encoded.entities, encoded.latents, encoded.level, CONFIG, 5)
    assert len(local.group_id) > 2
    names, index = np.unique(encoded.entities.astype(str), return_inverse=True)
    level = np.bincount(index, encoded.level) / np.bincount(index)
    parts = [Location.parse(path) for path in encoded.paths]
    remote = group_latents(parts, names.astype(object), level, CONFIG, 5, workers=3)
    assert_same(local, remote)
    # The actors were stopped: all CPUs become free again.
    until = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 4


class LosingShards(ActorShards):
    """Kills an actor before the fourth call and another one during the ninth."""

    calls = 0

    def each(self, method, *arguments):
        self.calls += 1
        if self.calls == 4:
            ray.kill(self.actors[1], no_restart=False)
        if self.calls == 9:
            self.actors[0].call.remote(self._entities, method, *arguments)
            ray.kill(self.actors[0], no_restart=False)
        return super().each(method, *arguments)


def test_lost_actors_come_back_with_their_shard(encoded):
    unique, means = entity_latents(encoded.entities, encoded.latents)
    with LosingShards([Location.parse(p) for p in encoded.paths], unique, 2) as shards:
        centres, labels, inertia = kmeans(None, 7, 20, 1, shards)
        assert shards.calls > 9
    local_centres, local_labels, local_inertia = kmeans(means, 7, 20, 1)
    np.testing.assert_array_equal(labels, local_labels)
    np.testing.assert_allclose(centres, local_centres, atol=1e-6)
    assert inertia == pytest.approx(local_inertia)


def test_faults_of_the_data_are_told_in_one_line(encoded, tmp_path):
    entities, level = np.array([f"e{row:02d}" for row in range(40)], dtype=object), np.ones(40)
    bad = np.zeros((40, 2), dtype=np.float32)
    bad[3] = np.nan
    path = tmp_path / "part-0.parquet"
    given = [Location.parse(str(path))], entities, level, ClusterConfig(), 0, 1
    # These are found by an actor, and reach the driver as what they are.
    with pytest.raises(DataError, match=r"part-0\.parquet"):
        group_latents(*given)
    for table, message in (
        ({"entity": entities.tolist(), "mu": pa.FixedShapeTensorArray.from_numpy_ndarray(bad)}, "'e03' is not finite"),
        ({"entity": entities.tolist()}, "has no column 'mu'"),
    ):
        pq.write_table(pa.table(table), path)
        with pytest.raises(DataError, match=message) as error:
            group_latents(*given)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="there is no table with entity, mu"):
        group_latents([], *given[1:])
