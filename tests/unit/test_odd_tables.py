"""Tables with what their makers did not mean to give: told, or left out, but never taken for a household."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttsgan.data.readers import read_series
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

STAMPS = np.arange("2021-01-01", "2021-01-05", np.timedelta64(1, "h"), dtype="datetime64[h]")


def frame(**columns):
    return pa.table({"timestamp": pa.array(STAMPS.astype("datetime64[s]")), **columns})


def read(tmp_path, table):
    pq.write_table(table, tmp_path / "a.parquet")
    return read_series(Location.parse(str(tmp_path / "a.parquet")))


def test_row_numbers_are_no_household(tmp_path):
    load = pa.array(np.random.default_rng(0).random(len(STAMPS)))
    for name in ("", "Unnamed: 0", "__index_level_0__"):
        table = frame(h1=load, h2=load).add_column(0, name, pa.array(np.arange(3, 3 + len(STAMPS))))
        assert read(tmp_path, table).ids.tolist() == ["h1", "h2"]


@pytest.mark.parametrize("other", ["total", "Outdoor temperature", "h1_status", "h2 flag"])
def test_what_stands_among_households_and_is_none_is_asked_about(tmp_path, other):
    load = pa.array(np.random.default_rng(0).random(len(STAMPS)))
    with pytest.raises(DataError, match=f"'{other}' among them: leave out"):
        read(tmp_path, frame(h1=load, h2=load, **{other: load}))


@pytest.mark.parametrize("count", [25, 50, 100])
def test_columns_for_the_long_day_of_autumn_are_refused(tmp_path, count):
    days = pa.array(np.repeat(np.arange("2021-01-01", "2021-01-09", dtype="datetime64[D]"), 2))
    table = {"id": ["a", "b"] * 8, "date": days}
    table |= {f"H{i + 1:02d}": np.random.default_rng(i).random(16) for i in range(count)}
    with pytest.raises(DataError, match=rf"{count} columns for a day.*leave the last {count // 25} out"):
        read(tmp_path, pa.table(table))


@pytest.mark.parametrize(("mark", "delimiter"), [(".", ";"), (",", ";"), (",", "\t"), (",", "|")])
def test_marks_of_thousands_are_refused(tmp_path, mark, delimiter):
    """1.560 beside 231 is no 1.56; 1.560 beside 0.231 is."""
    watts = np.random.default_rng(0).integers(50, 3000, len(STAMPS))
    for written, fits in (
        (lambda w: f"{w:,}".replace(",", mark), False),
        (lambda w: f"{w / 1000:.3f}".replace(".", mark), True),
    ):
        lines = [delimiter.join(["time", "a", "b"])]
        lines += [delimiter.join([str(t), written(w), written(w)]) for t, w in zip(STAMPS, watts, strict=True)]
        (tmp_path / "a.csv").write_text("\n".join(lines))
        if fits:
            found = read_series(Location.parse(str(tmp_path / "a.csv")))
            np.testing.assert_allclose(found.values[0, 0], watts / 1000, rtol=1e-6)
        else:
            with pytest.raises(DataError, match=f"column 'a' seems to part thousands by '{mark}'"):
                read_series(Location.parse(str(tmp_path / "a.csv")))


def test_years_of_two_digits(tmp_path):
    lines = ["time,a", *(f"{np.datetime_as_string(t, unit='D')[8:]}.01.21 {str(t)[11:]}:00,1.5" for t in STAMPS)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert read_series(Location.parse(str(tmp_path / "a.csv"))).starts[0] == np.datetime64("2021-01-01")


def test_two_units_are_refused(tmp_path):
    columns = {"id": np.repeat(["a", "b"], 4), "timestamp": np.tile(STAMPS[:4].astype("datetime64[s]"), 2)}
    table = pa.table({**columns, "value": np.arange(8.0), "unit": ["Wh"] * 4 + ["kWh"] * 4})
    with pytest.raises(DataError, match=r"column 'unit' holds 2 units \(Wh, kWh\)"):
        read(tmp_path, table)


def test_the_first_end_of_an_interval_is_its_stamp(tmp_path):
    first = np.tile(STAMPS[:4].astype("datetime64[s]"), 2)
    later = first + np.timedelta64(3600, "s")
    table = pa.table(
        {"id": np.repeat(["a", "b"], 4), "interval_end": later, "interval_start": first, "kwh": np.arange(8.0)}
    )
    assert read(tmp_path, table).starts[0] == STAMPS[0]


def test_categories_that_no_row_has_are_no_ids(tmp_path):
    ids = pa.DictionaryArray.from_arrays(np.repeat([2, 1], 4), ["gone", "b", "a", "last"])
    table = pa.table({"id": ids, "timestamp": np.tile(STAMPS[:4].astype("datetime64[s]"), 2), "value": np.arange(8.0)})
    found = read(tmp_path, table)
    assert found.ids.tolist() == ["a", "b"]
    np.testing.assert_array_equal(found.values[:, 0], [[0, 1, 2, 3], [4, 5, 6, 7]])


@pytest.mark.parametrize("mark", [".", ","])
def test_a_few_marks_of_thousands_are_enough_where_others_have_none(tmp_path, mark):
    watts = np.random.default_rng(0).integers(50, 899, (len(STAMPS), 4)).astype(object)
    watts[[7, 30, 60], [0, 2, 3]] = [f"1{mark}560", f"2{mark}004", f"1{mark}131"]
    lines = ["time;a;b;c;d", *(";".join([str(t), *map(str, row)]) for t, row in zip(STAMPS, watts, strict=True))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="column 'a' seems to part thousands"):
        read_series(Location.parse(str(tmp_path / "a.csv")))
    (tmp_path / "a.csv").write_text("\n".join([*lines, f"2021-01-05T00;7{mark}5;1;2;3", "2021-01-05T01;1;1;2;3"]))
    assert read_series(Location.parse(str(tmp_path / "a.csv"))).values[0, 0, -2] == 7.5


def test_columns_that_are_functions_of_the_row_or_the_week_are_no_households(tmp_path):
    stamps = np.arange("2021-01-01", "2021-02-01", np.timedelta64(1, "h"), dtype="datetime64[s]")
    load = np.random.default_rng(0).random((3, len(stamps)))
    homes = {"timestamp": pa.array(stamps), "h1": load[0], "h2": load[1], "h3": load[2]}
    assert read(tmp_path, pa.table(homes)).ids.tolist() == ["h1", "h2", "h3"]
    shuffled = np.random.default_rng(1).permutation(len(stamps))
    tariff = (np.arange(len(stamps)) % 24 > 20).astype(float)
    for name, column, what in (("no", shuffled, "numbers the rows"), ("t1", tariff, "is the same in every week")):
        with pytest.raises(DataError, match=f"column '{name}' {what}: leave out"):
            read(tmp_path, pa.table(homes | {name: column}))
    with pytest.raises(DataError, match="'grand_total', 'mean_temp_c' among them: leave out"):
        read(tmp_path, pa.table(homes | {"grand_total": load[0], "mean_temp_c": load[1]}))
    everyone = {f"total_{name}": column for name, column in homes.items() if name != "timestamp"}
    assert len(read(tmp_path, pa.table({"timestamp": homes["timestamp"], **everyone})).ids) == 3


def test_columns_of_two_units_are_refused(tmp_path):
    load = pa.array(np.random.default_rng(0).random(len(STAMPS)))
    for names, units in ((("a (kWh)", "b (kW)"), "kW, kWh"), (("a (kWh)", "b", "c (kWh)"), "none, kWh")):
        with pytest.raises(DataError, match=rf"name several units \({units}\)"):
            read(tmp_path, frame(**dict.fromkeys(names, load)))
    for names, unit in (
        (("a_kwh", "b_kwh"), "kWh"),
        (("a (kWh)", "b (kWh)"), "kWh"),
        (("flat_e", "flat_w", "attic_w"), ""),
    ):
        assert read(tmp_path, frame(**dict.fromkeys(names, load))).unit == unit


def test_a_csv_without_a_header_is_refused(tmp_path):
    load = np.random.default_rng(0).random((len(STAMPS), 3))
    rows = [",".join([str(stamp), *(f"{x:.6f}" for x in row)]) for stamp, row in zip(STAMPS, load, strict=True)]
    for lines in (rows, [row.partition(",")[2] for row in rows]):
        (tmp_path / "a.csv").write_text("\n".join(lines))
        with pytest.raises(DataError, match=r"a\.csv has no header line: it begins with"):
            read_series(Location.parse(str(tmp_path / "a.csv")))


@pytest.mark.parametrize("names", [("H0_2021", "H0_2022"), ("H0-2021-01", "H0-2021-02"), ("m7 W01", "m7 W02")])
def test_years_of_a_meter_in_files_of_their_own_are_no_meters(tmp_path, names):
    for name in (*names, "H1_2021"):
        rows = [
            f"{stamp},{value:.3f}" for stamp, value in zip(STAMPS, np.random.default_rng(0).random(96), strict=True)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["timestamp,kwh", *rows]))
    with pytest.raises(DataError, match=f"'{names[0]}' and '{names[1]}' seem to be times of one meter"):
        read_series(Location.parse(str(tmp_path)))
    (tmp_path / "H1_2021.csv").rename(tmp_path / "H17.csv")
    assert len(read_series(Location.parse(str(tmp_path))).ids) == 3, "some numbers of meters look like years"


def test_a_lonely_stamp_is_named(tmp_path):
    stamps = STAMPS.astype("datetime64[s]").copy()
    stamps[0] = np.datetime64("1970-01-01")
    table = pa.table({"timestamp": pa.array(stamps), "a": np.random.default_rng(0).random(len(stamps))})
    with pytest.raises(DataError, match="longest gap begins at 1970-01-01T00:00:00: leave out what is lonely"):
        read(tmp_path, table)


def test_an_id_that_numbers_the_rows_is_no_id(tmp_path):
    meters = pa.array(np.repeat(["a", "b"], len(STAMPS)))
    table = pa.table({
        "id": np.arange(2 * len(STAMPS)), "meter_id": meters, "value": np.random.default_rng(0).random(2 * len(STAMPS)),
        "timestamp": pa.array(np.tile(STAMPS.astype("datetime64[s]"), 2)),
    })  # fmt: skip
    with pytest.raises(DataError, match=r"'id' has another value in each row.*leave it out, and 'meter_id' is the id"):
        read(tmp_path, table)


def test_arrays_whose_last_axis_is_not_time(tmp_path, caplog):
    np.save(tmp_path / "a.npy", np.ones((3, 40, 1)))
    with pytest.raises(DataError, match=r"series of 1 step, shape \(3, 40, 1\); its axes are \(series, chan"):
        read_series(Location.parse(str(tmp_path / "a.npy")))
    np.save(tmp_path / "a.npy", np.ones((8760, 3)))
    read_series(Location.parse(str(tmp_path / "a.npy")))
    assert "if it is 8760 steps of 3 series, transpose it" in caplog.text


def test_a_name_that_says_it_all_needs_no_majority(tmp_path):
    """Beside one household as beside many; a word within a longer name does not."""
    load = pa.array(np.random.default_rng(0).random(len(STAMPS)))
    for other in ("total", "temperature"):
        with pytest.raises(DataError, match=f"'{other}' among them: leave out"):
            read(tmp_path, frame(h1=load, **{other: load}))
    assert read(tmp_path, frame(h1=load, total_2=load)).ids.tolist() == ["h1", "total_2"]


def test_many_marks_of_thousands_in_one_column_are_enough_beside_decimals(tmp_path):
    watts = np.random.default_rng(0).integers(50, 3000, len(STAMPS))
    lines = ["time;a;b"]
    lines += [f"{t};{f'{w:,}'.replace(',', '.')};{w / 100:.1f}" for t, w in zip(STAMPS, watts, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"column 'a' seems to part thousands by '\.'"):
        read_series(Location.parse(str(tmp_path / "a.csv")))
