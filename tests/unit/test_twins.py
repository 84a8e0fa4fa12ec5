"""A home that was exported twice: it is not trained on and held out at once."""

import numpy as np
import pytest

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.run import run_stage
from ttsgan import recipes
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.split import read_splits
from ttsgan.data.storage import Location
from ttsgan.data.store import write_store
from ttsgan.errors import DataError


def homes(names, seed=0):
    """Return series (n, 1, 2190) of 4 hours, with gaps."""
    values = np.random.default_rng(seed).gamma(1.0, 1.0, (len(names), 1, 2190)).astype(np.float32)
    values[:, 0, 7] = np.nan
    ids = np.array(names, dtype=object)
    return SeriesSet(ids, ids, np.full(len(ids), np.datetime64("2013-01-01", "s")), values, "kW", 14_400)


def prepare(tmp_path, *sets):
    sets = [f"data.source={tmp_path / 'store'}", "cluster.min_group_size=10", *sets]
    folder = RunFolder.create(Location.parse(str(tmp_path / "r")), recipes.override(recipes.quick(), sets), fresh=False)
    run_stage(folder, "prepare", Console(), "local")
    return read_splits(folder.where / "splits.parquet")


def test_two_homes_with_the_same_series_are_one(tmp_path, capsys):
    """Of 60 homes, ten are there twice and one of these three times; half would lie in both halves."""
    series = homes([*(f"m{i:02d}" for i in range(60)), *(f"copy{i}" for i in range(10)), "again0"])
    series.values[60:70] = series.values[:10]
    series.values[70] = series.values[0]
    write_store(series, Location.parse(str(tmp_path / "store")))
    ids, entities, _ = prepare(tmp_path, "data.holdout=0.5")
    owner = dict(zip(ids, entities, strict=True))
    assert len(set(entities)) == 60
    assert owner["m00"] == owner["copy0"] == owner["again0"] == "again0"
    assert owner["m09"] == owner["copy9"] == "copy9"
    assert owner["m10"] == "m10"
    said = " ".join(capsys.readouterr().out.split())
    assert "again0 and copy0 are the same series; they are protected as one, and so are 10 more" in said


def test_homes_are_one_by_way_of_a_third(tmp_path, capsys):
    """p shares one series with q and q another one with r."""
    series = homes([f"m{i:02d}" for i in range(40)])
    series.values[2], series.values[4] = series.values[0], series.values[3]
    entities = series.ids.copy()
    entities[:5] = ["p", "p", "q", "q", "r"]
    write_store(
        SeriesSet(series.ids, entities, series.starts, series.values, "kW", 14_400),
        Location.parse(str(tmp_path / "store")),
    )
    ids, entities, _ = prepare(tmp_path, "data.holdout=0.4")
    assert [dict(zip(ids, entities, strict=True))[f"m{i:02d}"] for i in range(6)] == [*"ppppp", "m05"]
    assert "m00 and m02 are the same series" in " ".join(capsys.readouterr().out.split())


def test_a_home_with_one_series_twice_is_no_matter(tmp_path, capsys):
    series = homes([f"m{i:02d}" for i in range(40)])
    series.values[1] = series.values[0]
    entities = series.ids.copy()
    entities[1] = "m00"
    write_store(
        SeriesSet(series.ids, entities, series.starts, series.values, "kW", 14_400),
        Location.parse(str(tmp_path / "store")),
    )
    assert (prepare(tmp_path, "data.holdout=0.4")[1] == entities).all()
    assert "same series" not in capsys.readouterr().out


def test_a_holdout_with_series_of_the_source_is_refused(tmp_path):
    write_store(homes([f"m{i:02d}" for i in range(40)]), Location.parse(str(tmp_path / "store")))
    held = homes([f"n{i:02d}" for i in range(20)], seed=1)
    held.values[3] = homes([f"m{i:02d}" for i in range(40)]).values[5]
    write_store(held, Location.parse(str(tmp_path / "held")))
    with pytest.raises(DataError, match=r"data\.holdout: 1 of its series are .*'n03', which is 'm05' there; remove"):
        prepare(tmp_path, f"data.holdout={tmp_path / 'held'}")
