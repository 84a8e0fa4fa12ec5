"""Tables as utilities and public data sets write them: each form gives the same series as a plain long table."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttsgan.config import DataConfig
from ttsgan.data.plausibility import look_like_registers
from ttsgan.data.prepare import prepare
from ttsgan.data.readers import read_series
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

HOURS, NAMES = 48, ("H1", "H2", "H3")
START = np.datetime64("2013-01-01T00:00")
STAMPS = [str(START + np.timedelta64(hour, "h")).replace("T", " ") for hour in range(HOURS)]
VALUES = np.round(np.random.default_rng(5).gamma(1.0, 1.0, (3, HOURS)), 3)


def text(where, header, rows, name="a.csv"):
    path = where / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def read(path, **options):
    return read_series(Location.parse(str(path)), **options)


def long_rows(form="{name},{stamp},{value}"):
    return [
        form.format(name=name, stamp=stamp, value=value, day=stamp[:10], clock=stamp[11:], hour=int(stamp[11:13]))
        for name, row in zip(NAMES, VALUES, strict=True)
        for stamp, value in zip(STAMPS, row, strict=True)
    ]


def same(series, unit="kWh", ids=NAMES):
    assert series.ids.tolist() == list(ids)
    assert (series.step_seconds, series.unit, series.starts[0]) == (3600, unit, START)
    np.testing.assert_allclose(series.values[:, 0], VALUES, rtol=1e-6)


class TestTheColumnOfValues:
    def test_a_unit_in_the_name_tells(self, tmp_path):
        rows = long_rows("{name};{stamp};{value};21;{hour}")
        same(read(text(tmp_path, "meter;time;Verbrauch [kWh];temperature;quality", rows)))

    def test_text_beside_the_only_numbers_is_asked(self, tmp_path):
        """The status would have become the load."""
        rows = long_rows("{name};{stamp};{value};1")
        rows[7] = rows[7].rsplit(";", 2)[0] + ";-;1"
        path = text(tmp_path, "id;time;Verbrauch;status", rows)
        with pytest.raises(DataError, match=r"not clear \(Verbrauch, status found\)"):
            read(path)

    def test_words_beside_the_only_numbers_are_no_question(self, tmp_path, caplog):
        rows = [row + (";ok" if at % 2 else ";est") for at, row in enumerate(long_rows("{name};{stamp};{value}"))]
        same(read(text(tmp_path, "id;time;Verbrauch;status", rows)), unit="")
        assert "not read, for they change within an id: 'status'" in caplog.text

    def test_decimals_and_a_column_of_units(self, tmp_path):
        table = pa.table({
            "id": np.repeat(NAMES, HOURS), "time": pa.array(np.tile(np.array(STAMPS, "datetime64[us]"), 3)),
            "amount": pa.array(VALUES.reshape(-1)).cast(pa.decimal128(9, 3)), "unit": ["kWh"] * (3 * HOURS),
        })  # fmt: skip
        pq.write_table(table, tmp_path / "a.parquet")
        same(read(tmp_path / "a.parquet"))


class TestRows:
    def test_as_london_writes_them(self, tmp_path, caplog):
        """Rows twice, and a stamp off the grid that has no value."""
        rows = long_rows("{name},Std,{stamp}:00, {value}")
        rows = [*rows[:5], rows[4], "H1,Std,2013-01-01 15:13:41,Null", *rows[5:]]
        same(read(text(tmp_path, "LCLid,stdorToU,DateTime,KWH/hh (per half hour) ", rows)))
        assert "1 rows that say again" in caplog.text

    def test_a_missing_value_and_a_value_for_one_stamp(self, tmp_path):
        rows = ["H1,2013-01-01 03:00,", *long_rows()]
        same(read(text(tmp_path, "id,time,kwh", rows)))

    def test_two_values_for_one_stamp(self, tmp_path):
        for again, told in (
            (1, "keep one row for each"),
            (30, "several series in one: make one id.*--entity COLUMN"),
        ):
            rows = [f"H1,{stamp},9" for stamp in STAMPS[:again]] + long_rows()
            with pytest.raises(DataError, match=rf"duplicate time stamp .* for 'H1' \({again} in all\).*{told}"):
                read(text(tmp_path, "id,time,kwh", rows))

    def test_series_of_another_step(self, tmp_path):
        """Half of their readings would be missing, and their sums would double."""
        rows = [row for at, row in enumerate(long_rows()) if at < 2 * HOURS or at % 2 == 0]
        path = text(tmp_path, "id,time,kwh", rows)
        with pytest.raises(DataError, match=r"'H3' has a value every 7200 s, where the step is 3600 s \(1 of 3 such\)"):
            read(path)

    def test_a_series_with_many_gaps_is_none_of_another_step(self, tmp_path):
        keep = np.random.default_rng(0).random(3 * HOURS) < 0.6
        keep[::HOURS] = keep[HOURS - 1 :: HOURS] = True
        rows = [row for row, kept in zip(long_rows(), keep, strict=True) if kept]
        series = read(text(tmp_path, "id,time,kwh", rows))
        np.testing.assert_allclose(
            series.values.reshape(-1), np.where(keep, VALUES.reshape(-1), np.nan), rtol=1e-6
        )  # fmt: skip

    def test_the_span_that_all_have_is_told(self, tmp_path):
        rows = [row for at, row in enumerate(long_rows()) if at >= 20]
        with pytest.raises(DataError, match=r"unequal lengths.*data\.period=2013-01-02/2013-01-03$"):
            read(text(tmp_path, "id,time,kwh", rows))


class TestStamps:
    @pytest.mark.parametrize(
        ("header", "form"),
        [
            ("id,date,time,kwh", "{name},{day},{clock},{value}"),
            ("id,date,time,kwh", "{name},{day},{clock}:00,{value}"),
            ("hour,id,date,kwh", "{hour},{name},{day},{value}"),
        ],
    )
    def test_a_date_and_a_clock(self, tmp_path, header, form):
        same(read(text(tmp_path, header, long_rows(form))))

    def test_hours_by_their_ends(self, tmp_path):
        rows = long_rows("{name},{day},{hour},{value}")
        rows = [",".join([*row.split(",")[:2], str(int(row.split(",")[2]) + 1), row.split(",")[3]]) for row in rows]
        same(read(text(tmp_path, "id,date,hour,kwh", rows)))

    def test_a_year_and_an_hour_that_is_no_clock(self, tmp_path):
        """Stamps that have their time keep it."""
        same(read(text(tmp_path, "id,date,hour,kwh", long_rows("{name},{stamp},{hour},{value}"))))

    def test_day_first_and_decimal_commas(self, tmp_path):
        rows = [
            f"{stamp[8:10]}.{stamp[5:7]}.{stamp[:4]} {stamp[11:]};"
            + ";".join(f"{v:.3f}".replace(".", ",") for v in row)
            for stamp, row in zip(STAMPS, VALUES.T, strict=True)
        ]
        same(read(text(tmp_path, '"";' + ";".join(NAMES), rows, "a.txt")), unit="")

    def test_decimal_commas_between_commas_are_told(self, tmp_path):
        with pytest.raises(DataError, match="text '1,5' in row 1; allowed: numbers with a decimal point"):
            read(text(tmp_path, "id,time,kwh", ['a,2013-01-01 00:00,"1,5"', 'a,2013-01-01 01:00,"1,5"']))

    def test_an_index_of_stamps_comes_last(self, tmp_path):
        columns = dict(zip(NAMES, VALUES, strict=True))
        pq.write_table(
            pa.table({**columns, "__index_level_0__": np.array(STAMPS, "datetime64[ns]")}), tmp_path / "a.pq"
        )
        same(read(tmp_path / "a.pq"), unit="")

    def test_a_year_of_installation_is_no_stamp_of_a_row(self, tmp_path):
        columns = {f"h{hour}": VALUES[:, hour] for hour in range(HOURS)}
        since = np.array(["2009-05-01"] * 3, "datetime64[D]")
        pq.write_table(pa.table({"id": NAMES, "installed": since, **columns}), tmp_path / "a.pq")
        series = read(tmp_path / "a.pq")
        np.testing.assert_allclose(series.values[:, 0], VALUES, rtol=1e-6)
        assert series.attributes.column_names == ["installed"]

    def test_the_first_of_two_stamps_of_a_row(self, tmp_path):
        rows = long_rows("{name},{stamp},{value},{stamp}")
        same(read(text(tmp_path, "id,start_time,kwh,end_time", rows)))

    def test_units_in_brackets_of_all_columns(self, tmp_path):
        rows = [stamp + "".join(f",{value}" for value in row) for stamp, row in zip(STAMPS, VALUES.T, strict=True)]
        header = "time," + ",".join(f"{name} [kW]" for name in NAMES)
        same(read(text(tmp_path, header, rows)), unit="kW", ids=[f"{name} [kW]" for name in NAMES])


class TestDayRows:
    def test_one_row_for_each_day(self, tmp_path):
        rows = [
            f"{name},x,{day}" + "".join(f",{value}" for value in row[at : at + 24])
            for at, day in ((24, "2013-01-02"), (0, "2013-01-01"))
            for name, row in zip(NAMES, VALUES, strict=True)
        ]
        for prefix, unit, day in (("hh_", "", "date"), ("kwh_", "kWh", "day")):
            header = f"LCLid,tariff,{day}," + ",".join(f"{prefix}{hour}" for hour in range(24))
            series = read(text(tmp_path, header, rows))
            same(series, unit=unit)
            assert series.attributes["tariff"].to_pylist() == ["x"] * 3


class TestFolders:
    def meters(self, where, header="timestamp,kWh,imputed", suffix=".csv"):
        for name, row in zip(NAMES, VALUES, strict=True):
            rows = [f"{stamp},{value},{at % 2}" for at, (stamp, value) in enumerate(zip(STAMPS, row, strict=True))]
            text(where, header, rows, name + suffix)
        return where

    def test_a_file_for_each_meter(self, tmp_path):
        same(read(self.meters(tmp_path / "homes")))
        same(read(self.meters(tmp_path / "stations", header="utc,load (kWh),note")))
        one = read(tmp_path / "homes" / "H2.csv")
        assert one.ids.tolist() == ["H2"]

    def test_a_file_for_each_month_of_a_table_by_time(self, tmp_path):
        for month, at in (("1", 0), ("2", 24)):
            rows = [
                stamp + "".join(f",{value}" for value in row)
                for stamp, row in zip(STAMPS[at : at + 24], VALUES.T[at : at + 24], strict=True)
            ]
            text(tmp_path, "time," + ",".join(NAMES), rows, f"{month}.csv")
        same(read(tmp_path), unit="")

    def test_a_total_beside_many_series_is_no_meter_of_its_own(self, tmp_path):
        names = [f"home {n}" for n in range(20)]
        rows = [",".join([stamp, *map(str, range(21))]) for stamp in STAMPS]
        path = text(tmp_path, ",".join(["time", *names, "load"]), rows)
        assert read(path).ids.tolist() == [*names, "load"]

    def test_what_is_not_read_is_told(self, tmp_path, caplog):
        text(tmp_path, "id,time,kwh", long_rows())
        (tmp_path / "more").mkdir()
        for name in ("b.zip", "_SUCCESS", ".hidden"):
            (tmp_path / name).write_bytes(b"x")
        same(read(tmp_path))
        assert "1 of its files read; not read: b.zip, more" in caplog.text

    def test_tables_of_two_kinds(self, tmp_path):
        text(tmp_path, "id,time,kwh", long_rows())
        pq.write_table(pa.table({"id": ["a"], "values": [[1.0, 2.0]]}), tmp_path / "b.parquet")
        with pytest.raises(DataError, match=r"tables of two kinds, such as 'b\.parquet' and 'a\.csv'"):
            read(tmp_path)

    def test_folders_in_a_folder(self, tmp_path):
        (tmp_path / "id=a").mkdir()
        with pytest.raises(DataError, match=r"folders in it, such as 'id=a', are not read"):
            read(tmp_path)


def test_readings_of_a_register_are_told(tmp_path, caplog):
    counters = np.cumsum(VALUES, axis=1)[:, None].astype(np.float32)
    counters[1, 0, 5:9] = np.nan
    assert look_like_registers(counters)
    assert not look_like_registers(VALUES[:, None].astype(np.float32))
    assert not look_like_registers(np.ones((3, 1, HOURS), np.float32))
    np.save(tmp_path / "a.npy", np.cumsum(VALUES, axis=1))
    config = DataConfig(source=(str(tmp_path / "a.npy"),), step_seconds=3600)
    prepare(config, None)
    assert "readings of a register" in caplog.text


def test_months_are_no_regular_steps(tmp_path):
    rows = [f"2013-{month:02d}-01,{month},{2 * month}" for month in range(1, 13)]
    with pytest.raises(DataError, match=r"regular grid .*; months and years are not of one length: take days or weeks"):
        read(text(tmp_path, "time,H1,H2", rows))


@pytest.mark.parametrize("column", ["Household ID", "Page"])
def test_whom_to_protect_may_be_the_id(tmp_path, column):
    """Its column may have any name, where it is named by --entity."""
    for value, unit in ("kWh", "kWh"), ("visits", ""):
        path = text(tmp_path, f"{column},Time,{value}", long_rows())
        found, report = prepare(DataConfig(entity=column, unit="" if unit else "visits"), [Location.parse(str(path))])
        same(found, unit or "visits")
        assert found.entities.tolist() == list(NAMES)
        assert report.entities == 3
    if column == "Page":
        with pytest.raises(DataError, match="--entity"):
            read(path)


@pytest.mark.parametrize("first", [0, 30])
def test_days_by_columns_of_times(tmp_path, first):
    """By the beginnings of half hours, 0:00 to 23:30, or by their ends, 0:30 to 0:00, as Ausgrid writes them."""
    minutes = (np.arange(48) * 30 + first) % 1440
    load = np.random.default_rng(0).random((2, 3, 48)).round(3)
    lines = [",".join(["Customer", "Postcode", "date", *(f"{m // 60}:{m % 60:02d}" for m in minutes)])]
    for home in range(2):
        for day in range(3):
            lines.append(",".join([str(home + 1), "2076", f"2012-07-0{day + 1}", *map(str, load[home, day])]))
    (tmp_path / "a.csv").write_text("\n".join(lines))
    found = read_series(Location.parse(str(tmp_path / "a.csv")))
    assert (found.ids.tolist(), found.step_seconds, str(found.starts[0])) == (["1", "2"], 1800, "2012-07-01T00:00:00")
    np.testing.assert_allclose(found.values, load.reshape(2, 1, -1), rtol=1e-6)
    assert found.attributes["Postcode"].to_pylist() == [2076, 2076]
