"""What is wrong with the input is told in one line that names the place, what was found and what is allowed."""

import contextlib
import resource
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttsgan.config import DataConfig
from ttsgan.data.prepare import prepare
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.split import check_disjoint, check_enough
from ttsgan.data.storage import Location
from ttsgan.data.store import read_store, write_store
from ttsgan.errors import DataError

INF = float("inf")
NAN = float("nan")


@contextlib.contextmanager
def refused(*words):
    """Expect a `DataError` of one line that holds all the words."""
    with pytest.raises(DataError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    assert [word for word in words if word not in message] == [], message


def ready(path, config=None):
    return prepare(config or DataConfig(step_seconds=3600), [Location.parse(str(path))])


def contract(values, ids=None, **columns):
    """A table in the contract from lists of values."""
    ids = ids or [f"s{row}" for row in range(len(values))]
    return pa.table({"id": ids, **columns, "values": values})


def good_set(n=4, length=48):
    values = np.random.default_rng(0).random((n, 1, length), dtype=np.float32)
    ids = np.array([f"s{row}" for row in range(n)], dtype=object)
    return SeriesSet(ids, ids, np.full(n, np.datetime64("2013-01-01", "s")), values, "kW", 3600)


def test_missing_file(tmp_path):
    with refused("absent.csv", "does not exist"):
        ready(tmp_path / "absent.csv")


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.xlsx").write_text("x")
    with refused("a.xlsx", "unknown suffix", ".parquet", ".csv", ".npy"):
        ready(tmp_path / "a.xlsx")


def test_folder_without_parts(tmp_path):
    with refused(str(tmp_path), "without a .parquet file"):
        ready(tmp_path)


def test_dates_in_the_place_of_ids(tmp_path):
    """Hours would have become the households that are protected."""
    rows = [f"01/31/2013 {hour:02d}:00;1;2;{hour}" for hour in range(24)]
    (tmp_path / "a.csv").write_text("\n".join(["Zeitstempel;Haus 1;Haus 2;Haus 3", *rows]))
    with refused("a.csv", "Zeitstempel", "01/31/2013 00:00", "as 2013-01-01 00:30", "name the column of ids 'id'"):
        ready(tmp_path / "a.csv")
    months = [row.replace("01/31/2013", "31-Jan-2013") for row in rows]
    (tmp_path / "b.csv").write_text("\n".join(["Zeitstempel;Haus 1;Haus 2;Haus 3", *months]))
    with refused("b.csv", "Zeitstempel", "31-Jan-2013 00:00", "in the place of ids"):
        ready(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("\n".join(["Zeitstempel;Haus 1;Haus 2;Haus 3", *rows, "Summe;24;48;276"]))
    with refused("c.csv", "in the place of ids", "leave out 'Summe' in row 25"):
        ready(tmp_path / "c.csv")
    (tmp_path / "a.csv").write_text("\n".join(["id;h1;h2;h3", *rows]))
    assert len(ready(tmp_path / "a.csv")[0]) == 24, "ids that look like dates"


def test_two_columns_for_each_step(tmp_path):
    names = [f"{what}_{hour}" for what in ("elec", "gas") for hour in range(24)]
    (tmp_path / "a.csv").write_text(",".join(["id", *names]) + "\na," + ",".join(map(str, range(48))) + "\n")
    with refused("a.csv", "2 columns for each step", "elec_, gas_"):
        ready(tmp_path / "a.csv")


def test_files_of_a_folder_that_do_not_fit(tmp_path):
    (tmp_path / "1.csv").write_text("id,time,kwh\na,2013-01-01 00:00,1\na,2013-01-01 01:00,2\n")
    (tmp_path / "2.csv").write_text("id,time,kwh,tariff\nb,2013-01-01 00:00,1,x\nb,2013-01-01 01:00,2,x\n")
    with refused("2.csv", "1.csv", "tariff", "name files of other columns by themselves"):
        ready(tmp_path)
    (tmp_path / "2.csv").write_text("id,time,kwh\nb,2013-01-01 00:00,1\nb,2013-01-01 01:00,off\n")
    with refused(str(tmp_path), "several kinds", "kwh"):
        ready(tmp_path)
    (tmp_path / "2.csv").write_text("")
    with refused("2.csv", "empty (0 bytes)"):
        ready(tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.npy", "a.csv.gz"])
def test_zero_bytes(tmp_path, name):
    (tmp_path / name).touch()
    with refused(name, "empty (0 bytes)"):
        ready(tmp_path / name)


def test_header_only(tmp_path):
    (tmp_path / "a.csv").write_text("id,timestamp,value\n")
    with refused("a.csv", "is empty", "no rows"):
        ready(tmp_path / "a.csv")


def test_zero_rows(tmp_path):
    pq.write_table(contract(pa.array([], pa.list_(pa.float32()))), tmp_path / "a.parquet")
    with refused("a.parquet", "is empty", "zero rows"):
        ready(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.npy", "a.csv.gz"])
def test_foreign_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93this is something else" * 20)
    with refused(name, "cannot be read"):
        ready(tmp_path / name)


def test_cut_parquet(tmp_path):
    write_store(good_set(), Location.parse(str(tmp_path / "store")))
    part = tmp_path / "store" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    with refused("part-00000.parquet", "cannot be read as Parquet", "cut short"):
        ready(tmp_path / "store")


@pytest.mark.parametrize("other", [[1.0, 2.0], [[1.0], [2.0]]], ids=["numbers", "lists"])
def test_no_values_column(tmp_path, other):
    pq.write_table(pa.table({"id": ["a", "b"], "start": [None, None], "load_curve": other}), tmp_path / "a.parquet")
    with refused(
        "a.parquet", "no `values` column", "load_curve", "needed" if isinstance(other[0], list) else "allowed"
    ):
        ready(tmp_path / "a.parquet")


def test_no_id_column(tmp_path):
    pq.write_table(pa.table({"values": [[1.0, 2.0]]}), tmp_path / "a.parquet")
    with refused("a.parquet", "no `id` column", "values"):
        ready(tmp_path / "a.parquet")


def test_csv_of_unknown_columns(tmp_path):
    (tmp_path / "a.csv").write_text("foo,bar\n1,2\n")
    with refused("a.csv", "foo, bar", "allowed: id + values"):
        ready(tmp_path / "a.csv")


def test_unequal_lengths_of_lists(tmp_path):
    pq.write_table(contract([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0]]), tmp_path / "a.parquet")
    with refused("a.parquet", "unequal lengths", "3 in 's0'", "2 in 's2'", "cut all"):
        ready(tmp_path / "a.parquet")
    pq.write_table(contract([[1.0, 2.0, 3.0], [1.0, 2.0]]), tmp_path / "a.parquet", row_group_size=1)
    with refused("a.parquet", "unequal lengths", "3 in 's0'", "2 in 's1'"):
        ready(tmp_path / "a.parquet")


def test_unequal_lengths_of_long_data(tmp_path):
    rows = [f"{name},2013-01-01 {hour:02d}:00,1" for name, hours in (("a", 5), ("b", 4)) for hour in range(hours)]
    (tmp_path / "a.csv").write_text("id,timestamp,value\n" + "\n".join(rows))
    with refused("a.csv", "unequal lengths", "4 steps for 'b'", "5 for 'a'", "cut all"):
        ready(tmp_path / "a.csv")


def test_sources_of_two_lengths(tmp_path):
    for name, length in (("one", 48), ("two", 24)):
        write_store(good_set(2, length), Location.parse(str(tmp_path / name)))
    with refused("two: length is 24", "48", "one"):
        prepare(DataConfig(), [Location.parse(str(tmp_path / name)) for name in ("one", "two")])


def test_step_that_is_not_known(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, 100)))
    with refused("a.npy", "100 values", "data.step_seconds (--step-seconds)"):
        ready(tmp_path / "a.npy", DataConfig())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DataConfig(step="90min"), ("data.step is 90min", "3600 s")),
        (DataConfig(step="5h"), ("data.step is 5h", "length 48", "multiple of 5")),
        (DataConfig(step="30min"), ("data.step is 30min (1800 s)", "3600 s")),
        (DataConfig(unit="kWh"), ("unit is kW in the file", "kWh", "data.unit")),
        (DataConfig(step_seconds=900), ("step_seconds is 3600 in the file", "900", "data.step_seconds")),
        (DataConfig(entity="postcode"), ("data.entity", "'postcode'", "its columns: id, entity")),
    ],
)
def test_settings_that_do_not_fit(tmp_path, config, words):
    write_store(good_set(), Location.parse(str(tmp_path / "store")))
    with refused(*words):
        ready(tmp_path / "store", config)


def test_unit_that_is_not_known(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, 8760)))
    with refused("unit 'unknown'", "data.aggregate", "data.unit"):
        ready(tmp_path / "a.npy", DataConfig(step="4h"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,2013-01-01 00:00,1\na,2013-01-01 01:00,abc\na,2013-01-01 02:00,x", ("'value'", "'abc'", "row 2")),
        ("a,2013-01-01 00:00,1\na,2013-01-01 01:00,inf", ("'a'", "inf", "position 2", "finite")),
        ("a,2013-01-01 00:00,1\na,2013-01-01 01:00,1e39", ("'a'", "inf", "finite float32")),
        ("a,2013-01-01 00:00,1\na,2013-13-01 01:00,2", ("'timestamp'", "'2013-13-01 01:00'", "row 2", "ISO 8601")),
        ("a,2013-01-01 00:00,1\na,,2", ("'timestamp'", "row 2")),
        ("a,2013-01-01 00:00,1\n,2013-01-01 01:00,2", ("'id'", "null in row 2")),
        ("a,2013-01-01 00:00,1\na,2013-01-01 00:00,2\na,2013-01-01 01:00,2", ("duplicate time stamp", "'a'")),
        ("a,2013-01-01 00:00,1\na,2013-01-01 01:00,2\na,2013-01-01 02:10,2", ("off the grid", "02:10", "3600 s")),
        ("a,2013-01-01 00:00,1\na,2013-01-01 01:00,2,3", ("cannot be read as CSV", "one header line")),
    ],
)
def test_wrong_cells_of_a_long_csv(tmp_path, rows, words):
    (tmp_path / "a.csv").write_text("id,timestamp,value\n" + rows + "\n")
    with refused("a.csv", *words):
        ready(tmp_path / "a.csv")


@pytest.mark.parametrize("wrong", ["", "home-9"])
def test_an_entity_that_is_not_the_same_in_all_rows_of_an_id(tmp_path, wrong):
    """A single bad cell must not change whom a run protects."""
    lines = [f"m{i},2013-01-0{day},1.{day},home-{i // 2}" for i in range(4) for day in range(1, 5)]
    lines[5] = lines[5].replace("home-0", wrong)
    (tmp_path / "a.csv").write_text("\n".join(["id,timestamp,value,entity", *lines]))
    config = DataConfig(source=(str(tmp_path / "a.csv"),), unit="kWh")
    with pytest.raises(DataError, match="'entity' is empty or changes within the id 'm1'"):
        prepare(config, None)


def test_an_empty_column_is_no_hindrance(tmp_path):
    lines = [f"m{i},2013-01-0{day},1.{day}," for i in range(4) for day in range(1, 5)]
    (tmp_path / "a.csv").write_text("\n".join(["id,timestamp,value,extra", *lines]))
    series, _ = prepare(DataConfig(source=(str(tmp_path / "a.csv"),), unit="kWh"), None)
    assert len(series) == 4


def test_text_in_a_wide_csv(tmp_path):
    (tmp_path / "a.csv").write_text("time,home 1,home 2\n2013-01-01,1,2\n2013-01-02,1,n.a.\n")
    with refused("a.csv", "'home 2'", "'n.a.'", "row 2", "allowed: numbers"):
        ready(tmp_path / "a.csv")


def test_text_in_parquet(tmp_path):
    for values in ([["1.5", "x"]], ["1 2 3"], [[True, False]]):
        pq.write_table(contract(values), tmp_path / "a.parquet")
        with refused("a.parquet", "`values` holds", "'s0'", "allowed: one tensor or list of numbers"):
            ready(tmp_path / "a.parquet")


@pytest.mark.parametrize("wrong", [INF, -INF, 1e39])
def test_infinity_in_parquet(tmp_path, wrong):
    pq.write_table(contract([[1.0, 2.0, 3.0], [1.0, wrong, 3.0]]), tmp_path / "a.parquet")
    with refused("a.parquet", "'s1'", "inf at position 2", "allowed: finite"):
        ready(tmp_path / "a.parquet")


def test_infinity_in_an_array(tmp_path):
    np.save(tmp_path / "a.npy", [[1.0, INF]])
    with refused("a.npy", "'a-000000'", "inf"):
        ready(tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.ones(3), np.ones((0, 4)), np.ones((1, 1, 1, 1)), np.array([["a", "b"]])])
def test_arrays_of_a_wrong_kind(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with refused("a.npy", str(array.shape), "allowed: numbers of shape (series, steps)"):
        ready(tmp_path / "a.npy")


def test_null_rows(tmp_path):
    pq.write_table(contract([[1.0], None]), tmp_path / "a.parquet")
    with refused("a.parquet", "`values` of 's1' is null"):
        ready(tmp_path / "a.parquet")
    pq.write_table(contract([[1.0], [2.0]], entity=["a", None]), tmp_path / "a.parquet")
    with refused("a.parquet", "'entity' is null in row 2"):
        ready(tmp_path / "a.parquet")
    pq.write_table(contract([[1.0], [2.0]], ward=["a", None]), tmp_path / "a.parquet")
    with refused("a.parquet", "'ward' is null in row 2"):
        ready(tmp_path / "a.parquet", DataConfig(entity="ward", step_seconds=3600))


def test_duplicate_ids(tmp_path):
    pq.write_table(contract([[1.0], [2.0], [3.0]], ["x", "y", "x"]), tmp_path / "a.parquet")
    with refused("a.parquet", "duplicate ids: 'x'"):
        ready(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("time,home,home\n2013-01-01,1,2\n")
    with refused("a.csv", "duplicate ids", "'home'"):
        ready(tmp_path / "a.csv")


def test_duplicate_ids_across_sources(tmp_path):
    places = [Location.parse(str(tmp_path / name)) for name in ("one", "two")]
    for place in places:
        write_store(good_set(), place)
    with refused("one", "two", "duplicate ids: 's0'"):
        prepare(DataConfig(), places)


def test_useless_series_are_set_aside_and_counted(tmp_path):
    good = good_set(4)
    values = good.values.copy()
    values[0] = NAN
    values[1] = 0.25
    values[2, :, 10:] = NAN
    write_store(SeriesSet(**{**vars(good), "values": values}), Location.parse(str(tmp_path / "store")))
    found, report = ready(tmp_path / "store")
    assert list(found.ids) == ["s3"]
    assert (report.read, report.kept, report.entities) == (4, 1, 1)
    assert [item.id for item in report.set_aside] == ["s0", "s1", "s2"]
    assert report.to_dict()["set_aside_by_reason"] == {
        "all values missing": 1,
        "constant": 1,
        "observed below 0.5 (data.min_observed)": 1,
    }


def test_nothing_left(tmp_path):
    pq.write_table(contract([[1.0, 1.0], [NAN, NAN]]), tmp_path / "a.parquet")
    with refused("none of 2 series can be used", "1 all values missing", "1 constant"):
        ready(tmp_path / "a.parquet")


def test_too_few_entities():
    with refused("29 training entities", "2 groups of at least 15", "30", "cluster.min_group_size"):
        check_enough(np.array([f"e{row}" for row in range(29)] * 3), 15)


def test_holdout_that_shares_entities():
    with refused("1 entities of the holdout", "(b)", "data.holdout"):
        check_disjoint(np.array(["a", "b"]), np.array(["b", "c"]))


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    with refused(str(tmp_path / "out"), "is a file", "choose another"):
        Location.parse(str(tmp_path / "out")).check_writable()
    with refused(str(tmp_path / "out"), "is a file", "choose another"):
        write_store(good_set(), Location.parse(str(tmp_path / "out")))
    assert (tmp_path / "out").read_text() == "x"


def test_no_space_left(tmp_path):
    where = Location.parse(str(tmp_path / "store"))
    with refused("no space left on device", str(where), "MB are free"):
        where.check_writable(min_free=10**18)
    write_store(good_set(2), where)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, old[1]))
    try:
        with refused("no space left on device", "part-00000.parquet"):
            write_store(good_set(100), where)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert len(read_store(where)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_unreachable_storage(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    begin = time.monotonic()
    with refused("cannot reach the storage s3://bucket/x", "127.0.0.1", "check address"):
        Location.parse("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http")
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("text", ["ftp://host/x", "https://key:secret@host/x"])
def test_unknown_storage(text):
    with refused("host/x", "is not known", "s3://", "gs://", "file://", "a local path"):
        Location.parse(text)
    with pytest.raises(DataError, match=r"^(?!.*secret)"):
        Location.parse(text)


def test_empty_path():
    with refused("a path is empty", "s3://"):
        Location.parse(" ")
