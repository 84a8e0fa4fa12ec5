"""Preparation of ids that are not alike: a span of all, homes beside meters, dates of some, arrays beside tables."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from tables import NAN, long_table, read, three_homes

from ttsgan.config import DataConfig
from ttsgan.data.prepare import prepare
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location
from ttsgan.data.store import write_store
from ttsgan.errors import ConfigError, DataError

series = pytest.fixture(three_homes)


# ---- a span of all ---------------------------------------------------------------------------------------------------


def spanned(path, period, **more):
    config = DataConfig(period=period, unit="kW", min_observed=0.01, **more)
    return prepare(config, [Location.parse(str(path))])[0]


def test_ids_that_begin_and_end_when_they_like(tmp_path):
    """Of a and b the second to the fifth hour; c has none of these and is set aside; the street of a stays."""
    hours = {"a": range(4), "b": range(2, 8), "c": range(7, 9)}
    rows = [f"{name},2013-01-01 {hour:02d}:00,{hour + 1},{name}-street" for name, of in hours.items() for hour in of]
    (tmp_path / "a.csv").write_text("\n".join(["id,time,kw,street", *rows]))
    with pytest.raises(DataError, match=r"unequal lengths.*data\.period"):
        spanned(tmp_path / "a.csv", "")
    found = spanned(tmp_path / "a.csv", "2013-01-01T01:00/2013-01-01T05:00")
    assert list(found.ids) == ["a", "b"]
    np.testing.assert_array_equal(found.values[:, 0], [[2, 3, 4, NAN], [NAN, 3, 4, 5]])
    assert (found.starts == np.datetime64("2013-01-01T01:00")).all()
    assert found.attributes["street"].to_pylist() == ["a-street", "b-street"]


def test_a_span_of_a_column_for_each_series(tmp_path):
    rows = [f"2013-01-01 {hour:02d}:00,{hour},{hour * 2}" for hour in range(1, 6)]
    (tmp_path / "a.csv").write_text("\n".join(["time,a,b", *rows]))
    found = spanned(tmp_path / "a.csv", "2013-01-01/2013-01-01T04:00")
    np.testing.assert_array_equal(found.values[:, 0], [[NAN, 1, 2, 3], [NAN, 2, 4, 6]])


def test_a_span_of_a_store(tmp_path, series):
    starts = np.array(["2013-01-01T00", "2013-01-01T06", "2012-12-31T00"], dtype="datetime64[s]")
    where = Location.parse(str(tmp_path / "store"))
    write_store(dataclasses.replace(series, starts=starts), where)
    found = spanned(tmp_path / "store", "2013-01-01T04:00/2013-01-01T08:00")
    np.testing.assert_array_equal(found.values[0], series.values[0, :, 4:8])
    np.testing.assert_array_equal(found.values[1, 0], [NAN, NAN, *series.values[1, 0, :2]])
    np.testing.assert_array_equal(found.values[2], series.values[2, :, 28:32])


@pytest.mark.parametrize(
    ("period", "error", "told"),
    [
        ("2013-01-01", ConfigError, "data.period is '2013-01-01'; allowed: two times in order"),
        ("2014-01-01/2013-01-01", ConfigError, "two times in order"),
        ("2013-01-01/tomorrow", ConfigError, "tomorrow"),
        ("2015-01-01/2016-01-01", DataError, "no time stamp within data.period.*2013-01-01T01:00:00 to 2013"),
        ("2013-01-01T00:00/2013-01-01T02:30", DataError, "no whole number of steps of 3600 s"),
        ("2013-01-01T00:30/2013-01-01T02:30", DataError, "off the grid|not on a regular grid"),
    ],
)
def test_spans_that_are_refused(tmp_path, period, error, told):
    rows = [f"{name},2013-01-01 {hour:02d}:00,{hour}" for name in "ab" for hour in range(1, 6)]
    (tmp_path / "a.csv").write_text("\n".join(["id,time,kw", *rows]))
    with pytest.raises(error, match=told):
        spanned(tmp_path / "a.csv", period)


# ---- a home beside a meter -------------------------------------------------------------------------------------------


def meters_of_a_home(path, header):
    rows = [f"07,{meter},2013-01-01 0{hour}:00,{hour}" for meter in (1, 2) for hour in (0, 1)]
    path.write_text("\n".join([header, *rows]))
    return [Location.parse(str(path))]


def test_a_home_beside_a_meter(tmp_path):
    """Whom to protect is for the user to say: a household may have several meters."""
    places = meters_of_a_home(tmp_path / "a.csv", "Household ID,Meter,Date Time,kWh")
    with pytest.raises(DataError, match=r"a\.csv.*'Meter' and 'Household ID'.*--entity 'Household ID', or --entity id"):
        prepare(DataConfig(), places)
    found = prepare(DataConfig(entity="Household ID", step_seconds=3600), places)[0]
    assert (list(found.ids), list(found.entities), found.unit) == (["1", "2"], ["07", "07"], "kWh")


def test_ids_of_another_kind_of_text(series, tmp_path):
    table = long_table(series)
    table = table.set_column(0, "LCLid", table["LCLid"].cast(pa.string_view()))
    found = read(table, tmp_path / "a.parquet")
    np.testing.assert_array_equal(found.values, series.values)
    assert (list(found.ids), list(found.entities)) == (["a", "b", "c"], ["p", "p", "q"])


def test_dates_of_some_series_alone_are_refused(series, tmp_path):
    starts = np.array(["2021-01-01", "NaT", "NaT"], dtype="datetime64[s]")
    write_store(dataclasses.replace(series, starts=starts), Location.parse(str(tmp_path / "s")))
    places = [Location.parse(str(tmp_path / "s"))]
    with pytest.raises(DataError, match=r"s: 2 of 3 series have no start, such as 'b', .*; write .*--start"):
        prepare(DataConfig(), places)
    found = prepare(DataConfig(start="2021-01-01"), places)[0]
    assert (found.starts == np.datetime64("2021-01-01")).all()


@pytest.mark.parametrize(("start", "told"), [("2021-01-01", False), ("2020-06-01", True)])
def test_a_start_beside_dates_is_not_used(series, tmp_path, caplog, start, told):
    starts = np.array(["2021-01-01"] * 3, dtype="datetime64[s]")
    write_store(dataclasses.replace(series, starts=starts), Location.parse(str(tmp_path / "s")))
    found = prepare(DataConfig(start=start), [Location.parse(str(tmp_path / "s"))])[0]
    np.testing.assert_array_equal(found.starts, starts)
    assert ("it tells its own dates; 2020-06-01 is not used (--start)" in caplog.text) == told


def test_a_home_beside_the_id_of_the_contract(tmp_path, caplog):
    places = meters_of_a_home(tmp_path / "a.csv", "household,id,time,kwh")
    found = prepare(DataConfig(step_seconds=3600), places)[0]
    assert list(found.entities) == list(found.ids) == ["1", "2"]
    assert "--entity 'household'" in caplog.text


def test_an_array_beside_joined_series_has_the_step_that_makes_it_as_long(tmp_path, caplog):
    """Training series of half-hours were joined to four hours; an array of as many half-hours tells no step."""
    values = np.random.default_rng(0).gamma(1.0, 1.0, (20, 1, 336)).astype(np.float32)
    ids = np.array([f"m{i:02d}" for i in range(20)], dtype=object)
    starts = np.full(20, np.datetime64("2021-01-01", "s"))
    write_store(SeriesSet(ids, ids, starts, values, "kWh", 1800), Location.parse(str(tmp_path / "train")))
    np.save(tmp_path / "array.npy", values[:, 0])
    config = DataConfig(step="4h")
    train, _ = prepare(config, [Location.parse(str(tmp_path / "train"))], keep_all=True)
    other, _ = prepare(config, [Location.parse(str(tmp_path / "array.npy"))], keep_all=True, like=train)
    np.testing.assert_allclose(other.values, train.values, rtol=1e-6)
    assert (other.unit, other.step_seconds, other.starts[0]) == (train.unit, 14_400, train.starts[0])
    given = "the step of 1800 s and the unit kWh and the start 2021-01-01T00:00:00 of the training series"
    assert f"array.npy: it tells none, so it is given {given}" in caplog.text
    # Where nothing was joined, an array twice as long is not taken for one of half the step.
    short = dataclasses.replace(train, values=values[..., :168], step_seconds=1800)
    with pytest.raises(DataError, match="the step of 336 values is not known"):
        prepare(DataConfig(), [Location.parse(str(tmp_path / "array.npy"))], keep_all=True, like=short)


def test_files_that_share_ids_may_be_parts_of_one_table(tmp_path):
    values = np.random.default_rng(0).gamma(1.0, 1.0, (3, 1, 48)).astype(np.float32)
    ids, starts = np.array(["a", "b", "c"], dtype=object), np.full(3, np.datetime64("2021-01-01", "s"))
    places = [Location.parse(str(tmp_path / name)) for name in ("january", "march")]
    for place in places:
        write_store(SeriesSet(ids, ids, starts, values, "kWh", 3600), place)
    with pytest.raises(DataError, match=r"duplicate ids: 'a' .*; parts of one table, such as months, are joined where"):
        prepare(DataConfig(), places)
