"""A half of a run folder's store is read as far as it is asked for, in the order of the store."""

import numpy as np
import pytest

from ray_jobs import run_series
from ray_jobs.run_series import open_half, open_series
from ttsgan.data.canaries import PREFIX
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.split import where_in, write_splits
from ttsgan.data.storage import Location
from ttsgan.data.store import series_metadata, write_part, write_store

COUNT, PART = 23, 5


@pytest.fixture
def where(tmp_path) -> Location:
    """A store of 23 series in parts of five, the third part wholly held out, and one planted series."""
    values = np.arange(COUNT * 4, dtype=np.float32).reshape(COUNT, 1, 4)
    ids = np.array([f"id {i}" for i in range(COUNT)], dtype=object)
    entities = np.array([f"home {i // 2}" for i in range(COUNT)], dtype=object)
    entities[22] = f"{PREFIX}1"
    starts = np.datetime64("2013-01-01", "s") + np.arange(COUNT) * np.timedelta64(3600, "s")
    series = SeriesSet(ids, entities, starts, values, "kWh", 3600, note="a note")
    folder = Location.parse(str(tmp_path))
    write_store(series, folder / "store", rows_per_part=PART)
    # The split's own order is another one than that of the store.
    order = np.random.default_rng(0).permutation(COUNT)
    write_splits(folder / "splits.parquet", ids[order], entities[order], held()[order])
    return folder


def held() -> np.ndarray:
    return np.isin(np.arange(COUNT) // 2, (1, 4)) | (np.arange(COUNT) // PART == 2)


def test_both_halves_are_whole_and_in_order(where):
    for holdout in (False, True):
        half, rows = open_half(where, holdout), np.flatnonzero(held() == holdout)
        series = half.read()
        assert series.ids.tolist() == [f"id {i}" for i in rows]
        assert series.values[:, 0, 0].tolist() == (4.0 * rows).tolist()
        assert half.entities.tolist() == series.entities.tolist()
        assert (half.starts == series.starts).all()
        assert len(half) == len(rows)


def test_rows_are_those_of_the_half(where):
    half = open_half(where, holdout=False)
    whole = half.read()
    for rows in ([0], [3, 4, 5], [0, len(half) - 1], range(len(half))):
        rows = np.array(rows)
        assert (half.read(rows).values == whole.values[rows]).all()
    assert len(half.read(np.empty(0, np.int64))) == 0


def test_only_parts_that_hold_wanted_rows_are_read(where, monkeypatch):
    half, asked = open_half(where, holdout=False), []
    real = run_series.read_store
    monkeypatch.setattr(run_series, "read_store", lambda file: asked.append(file.name) or real(file))
    half.read(np.array([0, 1, len(half) - 1]))
    assert asked == ["part-00000.parquet", "part-00004.parquet"]


def test_blocks_are_the_half_in_turn(where, monkeypatch):
    monkeypatch.setattr(run_series, "READ_SERIES", 4)
    half = open_half(where, holdout=False)
    blocks = list(half.blocks())
    assert [len(block) for block in blocks[:-1]] == [4] * (len(blocks) - 1)
    assert np.concatenate([block.ids for block in blocks]).tolist() == half.read().ids.tolist()


def test_what_is_known_of_all_is_known_without_a_series(where):
    nothing = open_half(where, holdout=True).nothing
    assert (len(nothing), nothing.unit, nothing.step_seconds, nothing.length, nothing.note) == (
        0, "kWh", 3600, 4, "a note",
    )  # fmt: skip


def test_planted_series_can_be_left_out(where):
    whole, real = (open_half(where, holdout=False, planted=planted) for planted in (True, False))
    assert f"{PREFIX}1" in whole.entities
    assert real.ids.tolist() == [name for name in whole.ids if name != "id 22"]
    assert real.read().ids.tolist() == real.ids.tolist()


def test_a_half_has_the_fingerprint_of_its_series(where, monkeypatch):
    monkeypatch.setattr(run_series, "READ_SERIES", 4)
    for holdout in (False, True):
        half = open_half(where, holdout)
        assert half.fingerprint() == half.read().fingerprint()


def test_parts_are_the_half_in_turn(where):
    half = open_half(where, holdout=False)
    parts = [run_series.read_store(file).subset(rows).ids for file, rows in half.parts()]
    assert np.concatenate(parts).tolist() == half.ids.tolist()
    assert len(parts) == 4  # of five, one is wholly held out


def test_synthetic_series_are_their_own_entities(where):
    columns = {"synthetic_id": np.array(["a", "b"], object), "start": np.full(2, "2013-01-01", "datetime64[s]")}
    values = np.ones((2, 1, 4), np.float32)
    write_part(where / "synthetic" / "part-00000.parquet", columns, values, series_metadata("kWh", 3600, 1))
    synthetic = open_series(where / "synthetic")
    assert (synthetic.ids.tolist(), synthetic.entities.tolist()) == (["a", "b"], ["a", "b"])
    assert synthetic.fingerprint() == run_series.read_store(where / "synthetic").fingerprint()


def test_where_in_is_membership():
    ids = np.array(["a", "b", "a", "c"], dtype=object)
    assert where_in(ids, {"a", "c"}).tolist() == [True, False, True, True]
    assert where_in(ids[:0], {"a"}).tolist() == []
