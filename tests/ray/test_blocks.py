"""Blocks processed on Ray give the same results, in order, as in one process, also when a worker dies."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import cloudpickle
from threadpoolctl import threadpool_info

from ray_jobs import blocks
from ray_jobs import evaluate as jobs
from ray_jobs.blocks import RayMap
from ray_jobs.run_series import open_series
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location
from ttsgan.data.store import series_metadata, write_part, write_store
from ttsgan.errors import DataError
from ttsgan.evaluation.blocks import Blocks, in_turn
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged, joined
from ttsgan.evaluation.model_attacks import Inside
from ttsgan.evaluation.neighbours import merge_nearest, nearest
from ttsgan.evaluation.privacy import audit

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray4")]
# Ray workers cannot import this file, so its functions are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
NUM, CHANNELS, LENGTH = 700, 2, 30


@pytest.fixture(scope="module")
def series():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((NUM, CHANNELS, LENGTH), np.float32)
    values[300:340] = values[:40]
    return SeriesSet(
        ids=np.array([f"s{row}" for row in range(NUM)], object),
        entities=np.array([f"e{row // 2}" for row in range(NUM)], object),
        starts=np.datetime64("2013-01-01", "s") + 3600 * np.arange(NUM),
        values=values,
        unit="kWh",
        step_seconds=14_400,
    )


@pytest.fixture(scope="module")
def store(series, tmp_path_factory):
    where = Location.parse(str(tmp_path_factory.mktemp("blocks") / "store"))
    write_store(series, where, rows_per_part=150)
    return where


def flat(values):
    return values.reshape(len(values), -1)


def neighbours(targets, loader):
    values = loader().values
    return len(values), nearest(targets, flat(values), 4)


def search(parallel_map, targets, loaders):
    counts, parts = zip(*parallel_map(neighbours, targets, loaders), strict=True)
    return merge_nearest(parts, np.cumsum(counts) - counts)


class OneWorker(RayMap):
    """Runs one task at a time."""

    def __call__(self, function, shared, loaders):
        for loader in loaders:
            yield from super().__call__(function, shared, [loader])


def test_same_neighbours_with_any_workers_and_blocks(series, store, monkeypatch):
    targets = flat(series.values[:60])
    whole = nearest(targets, flat(series.values), 4)
    for rows in (100, 333):
        monkeypatch.setattr(jobs, "BLOCK_SERIES", rows)
        for parallel_map in (RayMap(), OneWorker(), in_turn):
            found = search(parallel_map, targets, jobs.blocks_of(open_series(store)).loaders)
            assert np.array_equal(found[0], whole[0])
            assert np.array_equal(found[1], whole[1])


def test_blocks_of_a_store_are_whole_parts_of_it(series, store, monkeypatch):
    """Parts have 150 series; a block takes as many as fit into it, at least one."""
    for rows, sizes in ((100, [150, 150, 150, 150, 100]), (300, [300, 300, 100]), (5000, [700])):
        monkeypatch.setattr(jobs, "BLOCK_SERIES", rows)
        parts = [loader() for loader in jobs.blocks_of(open_series(store)).loaders]
        assert [len(part) for part in parts] == sizes
        whole = joined(*parts)
        assert np.array_equal(whole.values, series.values)
        assert whole.entities.tolist() == series.entities.tolist()
        assert np.array_equal(whole.starts, series.starts)
        assert (whole.step_seconds, whole.unit) == (14_400, "kWh")


def test_parts_that_are_not_those_of_one_store_are_refused(series, tmp_path):
    where = Location.parse(str(tmp_path / "store"))
    columns = {"id": series.ids[:5], "start": series.starts[:5]}
    write_part(where / "part-0.parquet", columns, series.values[:5], series_metadata("kWh", 14_400, 2))
    for metadata, what in (
        (series_metadata("kW", 14_400, 2), "unit is 'kW', but 'kWh'"),
        (series_metadata("kWh", 900, 2), "step_seconds is 900, but 14400"),
    ):
        write_part(where / "part-1.parquet", columns, series.values[:5], metadata)
        with pytest.raises(DataError, match=what):
            list(RayMap()(neighbours, flat(series.values[:2]), jobs.blocks_of(open_series(where)).loaders))
    write_part(where / "part-1.parquet", columns, series.values[:5], series_metadata("kWh", 14_400, 2))
    loaders = jobs.blocks_of(open_series(where)).loaders
    few = {name: column[:2] for name, column in columns.items()}
    write_part(where / "part-1.parquet", few, series.values[:2], series_metadata("kWh", 14_400, 2))
    with pytest.raises(DataError, match=r"part-1\.parquet: 2 series are there, fewer than there were"):
        list(RayMap()(neighbours, flat(series.values[:2]), loaders))


def late_if_first(shared, loader):
    time.sleep(0.5 if loader() == 0 else 0)
    return loader() + shared


def number(value):
    return value


def test_order_is_kept_and_few_results_wait(monkeypatch):
    given = []
    submit = blocks._work.remote
    monkeypatch.setattr(blocks._work, "remote", lambda *args: given.append(args) or submit(*args))
    loaders = [partial(number, value) for value in range(20)]
    results = RayMap()(late_if_first, 100, loaders)
    assert next(results) == 100
    assert len(given) == 8
    time.sleep(0.5)
    assert next(results) == 101
    assert len(given) == 9
    assert list(results) == list(range(102, 120))


def test_no_blocks_give_no_results():
    assert list(RayMap()(late_if_first, 0, [])) == []


def test_errors_of_the_library_arrive_as_they_are():
    def refuse(shared, loader):
        raise DataError("part-3 is wrong; write it again")

    with pytest.raises(DataError, match="part-3 is wrong") as caught:
        list(RayMap()(refuse, None, [number]))
    assert not isinstance(caught.value, ray.exceptions.RayTaskError)


def test_a_task_has_one_thread():
    def threads(shared, loader):
        shared @ shared
        return [pool["num_threads"] for pool in threadpool_info()]

    (found,) = RayMap()(threads, np.ones((8, 8)), [number])
    assert found
    assert set(found) == {1}


def die_once(shared, loader):
    if loader() == 2 and not Path(shared).exists():
        Path(shared).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return loader()


def test_a_lost_worker_is_survived(tmp_path):
    marker = tmp_path / "died"
    loaders = [partial(number, value) for value in range(6)]
    assert list(RayMap()(die_once, str(marker), loaders)) == list(range(6))
    assert marker.exists()


def homes(number, count):
    rng = np.random.default_rng(number)
    level = np.exp(rng.normal(0, 0.5, (count, 1, 1)))
    days = np.exp(0.3 * rng.normal(size=(count, 1, 6)) + 0.4 * rng.normal(size=(count, 56, 6)))
    return Judged(
        values=(level * days).reshape(count, 1, -1).astype(np.float32),
        entities=np.array([f"{number}-{row}" for row in range(count)]),
        starts=np.full(count, np.datetime64("2013-01-01", "s")),
        step_seconds=14_400,
        unit="kWh",
    )


def test_the_judges_find_the_same_over_ray():
    """A network that a worker cannot import is sent with the work, as that of a run folder is."""
    train, holdout, synthetic = (homes(number, 60) for number in range(3))

    def encode(judged):
        return judged.values.reshape(len(judged), 56, -1).mean(1)

    known = Inside(
        encode=encode, discriminate=None, conditions=encode(train).reshape(4, 15, -1).mean(1),
        entities=train.entities, condition_of=np.repeat(np.arange(4), 15), dominance=np.full(4, 0.1),
    )  # fmt: skip
    audits = [
        audit(train, holdout, Blocks.of(synthetic, 25), inside=known, parallel_map=s) for s in (in_turn, RayMap())
    ]
    assert audits[0] == audits[1]
    assert audits[0]["self_test"]["holdout_as_synthetic"] == "clean"
    few = {"bootstrap": 5, "classifier_series": 20, "classifier_seeds": 1}
    cut = [Blocks.of(part, 25) for part in (train, holdout, synthetic)]
    found = [evaluate(train, holdout, synthetic, **few), evaluate(*cut, **few, parallel_map=RayMap())]
    assert found[0] == found[1]
