"""Readers and preparation: every form of file gives the same series; aggregation by hand-computed values."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import HOURS, NAN, long_table, read, save, three_homes

from ttsgan.config import DataConfig, PatchConfig
from ttsgan.data.prepare import day_points, prepare
from ttsgan.data.readers import read_series
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.steps import aggregate, infer_step_seconds, parse_step
from ttsgan.data.storage import Location
from ttsgan.data.store import write_store
from ttsgan.errors import ConfigError, DataError

series = pytest.fixture(three_homes)


def wide_by_time(series):
    stamps = series.starts[0] + np.arange(series.length) * np.timedelta64(series.step_seconds, "s")
    rows = {key: pa.array(row[0], from_pandas=True) for key, row in zip(series.ids, series.values, strict=True)}
    return pa.table({"": stamps} | rows)


def wide_by_row(series, names=None):
    names = names or [f"h{step}" for step in range(series.length)]
    steps = {name: pa.array(series.values[:, 0, at], from_pandas=True) for at, name in enumerate(names)}
    return pa.table(
        {"id": list(series.ids), "entity": list(series.entities), "tariff": series.attributes["tariff"]} | steps
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
class TestForms:
    def test_long(self, series, tmp_path, suffix):
        shuffled = long_table(series).take(np.random.default_rng(0).permutation(3 * HOURS))
        found = read(shuffled, tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(found.values, series.values)
        assert (list(found.ids), list(found.entities)) == (["a", "b", "c"], ["p", "p", "q"])
        assert (found.step_seconds, found.starts[0]) == (3600, np.datetime64("2013-01-01"))
        assert found.attributes.to_pydict() == {"tariff": ["x", "x", "y"]}

    def test_wide_by_time(self, series, tmp_path, suffix):
        found = read(wide_by_time(series), tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(found.values, series.values)
        assert list(found.ids) == list(found.entities) == ["a", "b", "c"]
        assert (found.step_seconds, found.starts[2]) == (3600, np.datetime64("2013-01-01"))

    def test_wide_by_row(self, series, tmp_path, suffix):
        found = read(wide_by_row(series), tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(found.values, series.values)
        assert (list(found.ids), list(found.entities)) == (["a", "b", "c"], ["p", "p", "q"])
        assert (found.step_seconds, np.isnat(found.starts[0])) == (0, True)
        assert found.attributes.to_pydict() == {"tariff": ["x", "x", "y"]}

    def test_wide_by_row_with_stamps(self, series, tmp_path, suffix):
        stamps = np.datetime64("2013-02-01", "m") + np.arange(HOURS) * np.timedelta64(30, "m")
        found = read(wide_by_row(series, [str(stamp) for stamp in stamps]), tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(found.values, series.values)
        assert (found.step_seconds, found.starts[0]) == (1800, np.datetime64("2013-02-01"))

    def test_absent_stamps_become_missing(self, series, tmp_path, suffix):
        keep = np.delete(np.arange(3 * HOURS), [HOURS + 7, HOURS + 8])
        found = read(long_table(series).take(keep), tmp_path / f"a{suffix}")
        expected = series.values.copy()
        expected[1, 0, 7:9] = NAN
        np.testing.assert_array_equal(found.values, expected)

    def test_starts_may_differ(self, series, tmp_path, suffix):
        late = long_table(SeriesSet(**{**vars(series), "starts": series.starts + np.array([0, 5, 0], "m8[D]")}))
        assert read(late, tmp_path / f"a{suffix}").starts[1] == np.datetime64("2013-01-06")

    @pytest.mark.parametrize("parted", ["by home", "by day"])
    def test_a_folder_of_tables_is_one_table(self, series, tmp_path, suffix, parted):
        """A file may hold some homes or some days, its columns in any order; one of whole numbers among them."""
        table = long_table(series, **{"KWH/hh (per half hour) ": np.repeat(np.arange(3 * HOURS // 4) + 0.5, 4)})
        table = table.append_column("sub-meter", pa.nulls(3 * HOURS, pa.float64()))
        second = np.arange(3 * HOURS) >= 2 * HOURS if parted == "by home" else np.arange(3 * HOURS) % HOURS >= 24
        values = table.column_names.index("KWH/hh (per half hour) ")
        whole = pa.array(np.flatnonzero(second))
        save(table.filter(pa.array(~second)), tmp_path / f"1{suffix}")
        late = table.filter(pa.array(second)).set_column(values, table.column_names[values], whole)
        save(late.select(table.column_names[::-1]), tmp_path / f"2{suffix}")
        (tmp_path / "notes.txt").touch()
        found = read_series(Location.parse(str(tmp_path)))
        expected = np.where(second, np.arange(3 * HOURS), table["KWH/hh (per half hour) "].to_numpy())
        np.testing.assert_array_equal(found.values.reshape(-1), expected)
        assert (list(found.ids), list(found.entities)) == (["a", "b", "c"], ["p", "p", "q"])
        assert found.attributes["tariff"].to_pylist() == ["x", "x", "y"]

    def test_a_folder_of_wide_tables(self, series, tmp_path, suffix):
        table = wide_by_time(series)
        for day in (1, 0):
            save(table.slice(24 * day, 24), tmp_path / f"{day}{suffix}")
        np.testing.assert_array_equal(read_series(Location.parse(str(tmp_path))).values, series.values)


def test_csv_dialects(tmp_path):
    text = "Meter;Timestamp;kWh\n007;2013-01-01T00:00:00+01:00;1\n007;2013-01-01T00:30:00+01:00;Null\n"
    text += "7;2013-01-01T00:00:00+01:00;3e-1\n7;2013-01-01T00:30:00+01:00;4\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    found = read_series(Location.parse(str(tmp_path / "a.csv.gz")))
    assert list(found.ids) == ["007", "7"]
    np.testing.assert_array_equal(found.values[:, 0], np.array([[1, NAN], [0.3, 4]], np.float32))
    assert found.starts[0] == np.datetime64("2012-12-31T23:00:00")
    assert found.step_seconds == 1800


def test_arrays(tmp_path):
    values = np.arange(12.0).reshape(2, 2, 3)
    np.save(tmp_path / "meters.npy", values)
    np.save(tmp_path / "flat.npy", values[:, 0].astype(int))
    found = read_series(Location.parse(str(tmp_path / "meters.npy")))
    np.testing.assert_array_equal(found.values, values)
    assert list(found.ids) == ["meters-000000", "meters-000001"]
    assert read_series(Location.parse(str(tmp_path / "flat.npy"))).values.shape == (2, 1, 3)


def test_step_from_the_length():
    assert [infer_step_seconds(n) for n in (8760, 2190, 365, 17_520, 35_040)] == [3600, 14_400, 86_400, 1800, 900]
    assert [infer_step_seconds(n) for n in (8784, 8759, 100, 0)] == [0, 0, 0, 0]


def test_step_text():
    assert [parse_step(text) for text in ("4h", "30min", "1d", "900s", " 2 H ")] == [14_400, 1800, 86_400, 900, 7200]
    for text in ("4", "h", "0h", "1.5h", "4 weeks", "-1h"):
        with pytest.raises(ConfigError, match=r"data\.step"):
            parse_step(text)


@pytest.mark.parametrize(("how", "expected"), [("mean", [1.5, 4, NAN, NAN]), ("sum", [3, 8, NAN, NAN])])
def test_aggregation_of_two(how, expected):
    values = np.array([[[1, 2, NAN, 4, NAN, NAN, NAN, NAN]]], np.float32)
    np.testing.assert_array_equal(aggregate(values, 2, how)[0, 0], np.array(expected, np.float32))


def test_half_observed_is_enough():
    values = np.array([[[1, NAN, NAN, 4, NAN, 6]], [[NAN, 2, 3, NAN, NAN, NAN]]], np.float32)
    np.testing.assert_array_equal(aggregate(values, 3, "sum")[:, 0], [[NAN, 15], [7.5, NAN]])


def test_prepare_sorts_aggregates_and_reports(series, tmp_path):
    where = Location.parse(str(tmp_path / "store"))
    write_store(series.subset(np.array([2, 0, 1])), where)
    found, report = prepare(DataConfig(step="4h"), [where])
    assert list(found.ids) == ["a", "b", "c"]
    assert list(found.entities) == ["p", "p", "q"]
    np.testing.assert_allclose(found.values, np.nanmean(series.values.reshape(3, 1, 12, 4), axis=-1), rtol=1e-6)
    told = report.to_dict()
    expected = {
        **{"read": 3, "kept": 3, "entities": 2, "length": 12, "channels": 1, "step_seconds": 14_400, "unit": "kW"},
        **{"aggregated_from": 3600, "aggregated_by": "mean", "missing_share": 0.0},
        **{"set_aside": [], "set_aside_by_reason": {}},
        **{"first": "2013-01-01T00:00:00", "end": "2013-01-03T00:00:00"},
        **{"smallest": float(found.values.min()), "largest": float(found.values.max())},
        "mean": pytest.approx(float(found.values.mean()), rel=1e-5),
    }
    assert told == expected
    assert prepare(DataConfig(step="1h"), [where])[1].aggregated_from is None


def test_sources_without_metadata_take_the_settings(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, 48)))
    where = [Location.parse(str(tmp_path / "a.npy"))]
    config = DataConfig(unit="kWh", step_seconds=1800, start="2020-02-01T00:00:00+01:00", step="1h")
    found, _ = prepare(config, where)
    assert (found.unit, found.step_seconds, found.length) == ("kWh", 3600, 24)
    assert found.starts[0] == np.datetime64("2020-01-31T23:00:00")
    assert prepare(DataConfig(step_seconds=1800), where)[0].starts[0] == np.datetime64("2013-01-01")
    with pytest.raises(ConfigError, match=r"data\.start is 'soon'"):
        prepare(DataConfig(step_seconds=1800, start="soon"), where)


@pytest.mark.parametrize("wrong", [{"step": "4x"}, {"start": "soon"}, {"period": "2013"}])
def test_times_that_cannot_be_read_are_refused_before_anything_is_read(tmp_path, wrong):
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(wrong))} is '{next(iter(wrong.values()))}'"):
        prepare(DataConfig(**wrong), [Location.parse(str(tmp_path / "not there.csv"))])


def test_several_sources_are_joined(series, tmp_path):
    places = []
    for row in range(3):
        places.append(Location.parse(str(tmp_path / f"store{row}")))
        write_store(series.subset(np.array([row])), places[-1])
    found, report = prepare(DataConfig(entity="tariff"), places[::-1])
    np.testing.assert_array_equal(found.values, series.values)
    assert list(found.entities) == ["x", "x", "y"]
    assert report.entities == 2
    from_config = prepare(DataConfig(source=tuple(map(str, places))), None)[0]
    assert list(from_config.ids) == ["a", "b", "c"]


def test_sources_without_entities_beside_others_are_refused(series, tmp_path):
    """Two meters of one home would be two homes, and could be trained on and held out at once."""
    places = [Location.parse(str(tmp_path / name)) for name in ("with", "without")]
    for rows, place in zip(([0, 1], [2]), places, strict=True):
        write_store(series.subset(np.array(rows)), place)
    part = tmp_path / "without" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns("entity"), part)
    with pytest.raises(DataError, match="without has no `entity` column"):
        prepare(DataConfig(), places)
    assert list(prepare(DataConfig(entity="id"), places)[0].entities) == ["a", "b", "c"]


def test_simulated_series_need_no_source(series):
    found, report = prepare(DataConfig(step="2h"), None, simulated=series)
    assert (found.length, report.read, report.aggregated_from) == (24, 3, 3600)


def test_a_nearly_empty_meter_stays(series):
    values = series.values.copy()
    values[0] = 0
    values[0, 0, 7] = 1.5
    found, report = prepare(DataConfig(), None, simulated=SeriesSet(**{**vars(series), "values": values}))
    assert (len(found), report.set_aside) == (3, ())


def test_min_observed_moves_the_limit(series):
    values = series.values.copy()
    values[2, 0, : HOURS // 4] = NAN
    given = SeriesSet(**{**vars(series), "values": values})
    assert prepare(DataConfig(min_observed=0.75), None, simulated=given)[1].kept == 3
    _, report = prepare(DataConfig(min_observed=0.76), None, simulated=given)
    assert [(item.id, "observed below 0.76" in item.reason) for item in report.set_aside] == [("c", True)]


def test_the_same_hours_of_the_clock_are_joined_whenever_a_series_begins(caplog):
    """Values are the hour of the clock: joined by four, 1.5, 5.5 and so on, of all series."""
    begins = [0, 0, 3, 23]
    hours = np.stack([(begin + np.arange(48)) % 24 for begin in begins]).astype(np.float32)[:, None]
    given = SeriesSet(
        ids=np.array(list("abcd"), object),
        entities=np.array(list("abcd"), object),
        starts=np.array([f"2013-01-01T{begin:02d}" for begin in begins], "datetime64[s]"),
        values=hours,
        unit="kW",
        step_seconds=3600,
    )
    found, _ = prepare(DataConfig(step="4h"), None, simulated=given)
    assert [str(start)[11:13] for start in found.starts] == ["00", "00", "00", "20"]
    for start, values in zip(found.starts, found.values[:, 0], strict=True):
        clock = (int(str(start)[11:13]) + 4 * np.arange(12)) % 24 + 1.5
        seen = ~np.isnan(values)
        assert seen[1:].all()
        np.testing.assert_array_equal(values[seen], clock[seen])
    assert "2 of 4 series begin between" in caplog.text


def test_points_of_a_token():
    assert day_points(3600, PatchConfig()) == 24
    assert day_points(14_400, PatchConfig()) == 6
    assert day_points(86_400, PatchConfig()) == 1
    assert day_points(7000, PatchConfig(size=5)) == 5
    with pytest.raises(DataError, match=r"steps of 7000 s; set patch\.size.*such as --set patch\.size=12"):
        day_points(7000, PatchConfig())
    with pytest.raises(DataError, match=r"such as --set patch\.size=4"):
        day_points(7 * 86_400, PatchConfig())
    with pytest.raises(DataError, match=r"1440 steps of 60 s, too many.* --step 15min, .* --set patch\.size=60"):
        day_points(60, PatchConfig())
    assert day_points(60, PatchConfig(size=1440)) == 1440


DATA = Path(os.environ.get("TTSGAN_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data: set TTSGAN_DATA to their folder")
class TestRealData:
    def test_london(self):
        where = [Location.parse(str(DATA / "lcl_london_2013.parquet"))]
        found, report = prepare(DataConfig(step="4h"), where)
        assert found.length % day_points(found.step_seconds, PatchConfig()) == 0
        assert (report.read, report.kept, report.entities, report.length) == (200, 200, 200, 2190)
        assert (found.unit, found.step_seconds) == ("kWh/h", 14_400)
        assert np.nanmean(found.values) == pytest.approx(0.423, abs=0.001)
        assert {"MAC000037", "MAC000197"} <= set(found.entities)

    def test_cambridge_by_meter_group(self):
        where = [Location.parse(str(DATA / "ucam_electricity.parquet"))]
        assert prepare(DataConfig(), where)[1].entities == 83
        assert prepare(DataConfig(entity="meter_group"), where)[1].entities == 66
