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
