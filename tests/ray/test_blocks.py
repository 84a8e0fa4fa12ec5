"""Blocks worked on by Ray give what one process gives, in order, also when a worker dies."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle
from threadpoolctl import threadpool_info

from ray_jobs import blocks
from ray_jobs.blocks import RaySpread, parquet_loaders
from ttsgan.data.storage import Location
from ttsgan.data.store import SeriesSet, series_metadata, write_part, write_store
from ttsgan.errors import DataError
from ttsgan.evaluation.blocks import Blocks, in_turn
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.inside import Inside
from ttsgan.evaluation.judged import Judged, joined
from ttsgan.evaluation.neighbours import merge_nearest, nearest
from ttsgan.evaluation.privacy import audit

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray4")]
# Workers cannot import this file.
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


def search(spread, targets, loaders):
    counts, parts = zip(*spread(neighbours, targets, loaders), strict=True)
    return merge_nearest(parts, np.cumsum(counts) - counts)


class OneWorker(RaySpread):
    """Hands out one task at a time."""

    def __call__(self, function, shared, loaders):
        for loader in loaders:
            yield from super().__call__(function, shared, [loader])


def test_same_neighbours_with_any_workers_and_blocks(series, store):
    targets = flat(series.values[:60])
    whole = nearest(targets, flat(series.values), 4)
    for rows in (64, 333):
        for spread in (RaySpread(), OneWorker(), in_turn):
            found = search(spread, targets, parquet_loaders(store, rows))
            assert np.array_equal(found[0], whole[0])
            assert np.array_equal(found[1], whole[1])


@pytest.mark.parametrize("rows", [1, 149, 150, 333, 5000])
def test_blocks_are_the_store(series, store, rows):
    loaders = parquet_loaders(store, rows)
    if rows == 1:
        loaders, expected = loaders[299:302], series.subset(np.arange(299, 302))
    else:
        expected = series
    parts = [loader() for loader in loaders]
    assert all(len(part) == rows for part in parts[:-1])
    whole = joined(*parts)
    assert np.array_equal(whole.values, expected.values)
    assert whole.entities.tolist() == expected.entities.tolist()
    assert np.array_equal(whole.starts, expected.starts)
    assert (whole.step_seconds, whole.unit) == (14_400, "kWh")


def test_a_block_reads_only_the_row_groups_it_needs(series, tmp_path, monkeypatch):
    where = Location.parse(str(tmp_path))
    columns = {"synthetic_id": series.ids, "start": series.starts}
    write_part(where / "part-0.parquet", columns, series.values[:, :1], series_metadata("kWh", 14_400, 1))
    pq.write_table(pq.read_table(tmp_path / "part-0.parquet"), tmp_path / "part-0.parquet", row_group_size=100)
    asked = []
    plain = pq.ParquetFile.iter_batches

    def watched(self, *args, row_groups, **options):
        asked.append(row_groups)
        return plain(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    block = parquet_loaders(where, 250)[1]()
    assert asked == [[2, 3, 4]]
    assert np.array_equal(block.values, series.values[250:500, :1])
    assert block.entities.tolist() == series.ids[250:500].tolist()


def test_bad_stores_are_refused(series, tmp_path):
    where = Location.parse(str(tmp_path / "store"))
    with pytest.raises(DataError, match="holds no series"):
        parquet_loaders(where, 10)
    columns = {"id": series.ids[:5], "start": series.starts[:5]}
    write_part(where / "part-0.parquet", columns, series.values[:5], series_metadata("kWh", 14_400, 2))
    write_part(where / "part-1.parquet", columns, series.values[:5], series_metadata("kW", 14_400, 2))
    with pytest.raises(DataError, match="unit is 'kW', but 'kWh'"):
        parquet_loaders(where, 10)
    write_part(where / "part-1.parquet", columns, series.values[:5], series_metadata("kWh", 0, 2))
    with pytest.raises(DataError, match="step_seconds is '0'"):
        parquet_loaders(where, 10)
    write_part(where / "part-1.parquet", columns, series.values[:5], series_metadata("kWh", 14_400, 2))
    loaders = parquet_loaders(where, 10)
    write_part(where / "part-1.parquet", {k: v[:2] for k, v in columns.items()}, series.values[:2], {
        "unit": "kWh", "step_seconds": "14400", "channels": "2"})  # fmt: skip
    with pytest.raises(DataError, match="7 series are there instead of 10"):
        list(RaySpread()(neighbours, flat(series.values[:2]), loaders))


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
    results = RaySpread()(late_if_first, 100, loaders)
    assert next(results) == 100
    assert len(given) == 8
    time.sleep(0.5)
    assert next(results) == 101
    assert len(given) == 9
    assert list(results) == list(range(102, 120))


def test_no_blocks_give_no_results():
    assert list(RaySpread()(late_if_first, 0, [])) == []


def test_errors_of_the_library_arrive_as_they_are():
    def refuse(shared, loader):
        raise DataError("part-3 is wrong; write it again")

    with pytest.raises(DataError, match="part-3 is wrong") as caught:
        list(RaySpread()(refuse, None, [number]))
    assert not isinstance(caught.value, ray.exceptions.RayTaskError)


def test_a_task_has_one_thread():
    def threads(shared, loader):
        shared @ shared
        return [pool["num_threads"] for pool in threadpool_info()]

    (found,) = RaySpread()(threads, np.ones((8, 8)), [number])
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
    assert list(RaySpread()(die_once, str(marker), loaders)) == list(range(6))
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
    """A network that a worker cannot import travels with the work, as that of a run folder does."""
    train, holdout, synthetic = (homes(number, 60) for number in range(3))

    def encode(judged):
        return judged.values.reshape(len(judged), 56, -1).mean(1)

    known = Inside(
        encode=encode, discriminate=None, conditions=encode(train).reshape(4, 15, -1).mean(1),
        entities=train.entities, condition_of=np.repeat(np.arange(4), 15), dominance=np.full(4, 0.1),
    )  # fmt: skip
    audits = [audit(train, holdout, Blocks.of(synthetic, 25), inside=known, spread=s) for s in (in_turn, RaySpread())]
    assert audits[0] == audits[1]
    assert audits[0]["self_test"]["holdout_as_synthetic"] == "clean"
    few = {"bootstrap": 5, "classifier_series": 20, "classifier_seeds": 1}
    cut = [Blocks.of(part, 25) for part in (train, holdout, synthetic)]
    found = [evaluate(train, holdout, synthetic, **few), evaluate(*cut, **few, spread=RaySpread())]
    assert found[0] == found[1]
