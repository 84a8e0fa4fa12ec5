"""The Parquet store: what is written comes back, and other layouts of the contract are read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ttsgan.data.series_set import SeriesSet, concatenate
from ttsgan.data.storage import Location
from ttsgan.data.store import read_store, series_metadata, write_part, write_store
from ttsgan.errors import DataError


def make_set(values, ids=None, **changes):
    values = np.asarray(values, dtype=np.float32)
    n = len(values)
    ids = np.array([f"s{row}" for row in range(n)] if ids is None else ids, dtype=object)
    fields = {
        "ids": ids,
        "entities": np.array([f"e{row // 2}" for row in range(n)], dtype=object),
        "starts": np.datetime64("2013-01-01", "s") + np.arange(n) * np.timedelta64(86_400, "s"),
        "values": values,
        "unit": "kWh",
        "step_seconds": 3600,
    }
    return SeriesSet(**(fields | changes))


def assert_same(found, expected):
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.entities, expected.entities)
    np.testing.assert_array_equal(found.starts, expected.starts)
    assert (found.unit, found.step_seconds, found.note) == (expected.unit, expected.step_seconds, expected.note)
    assert found.fingerprint() == expected.fingerprint()


@settings(max_examples=25, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 9)),
        elements=st.floats(width=32, allow_infinity=False),
    ),
    rows_per_part=st.integers(1, 4),
    data=st.data(),
)
def test_a_store_keeps_everything(tmp_path_factory, values, rows_per_part, data):
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
    ids = data.draw(st.lists(text, min_size=len(values), max_size=len(values), unique=True))
    where = Location.parse(str(tmp_path_factory.mktemp("store") / "s"))
    attributes = pa.table({"tariff": pa.array([None, *range(len(values) - 1)], pa.int16())})
    series = make_set(values, ids, attributes=attributes, note="simulated")
    write_store(series, where, rows_per_part)
    found = read_store(where)
    assert_same(found, series)
    assert found.attributes.equals(attributes)
    assert len(where.list(".parquet")) == -(-len(values) // rows_per_part)


def test_values_are_the_open_tensor_type(tmp_path):
    where = Location.parse(str(tmp_path))
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    metadata = series_metadata("kW", 900, 3, "simulated")
    columns = {"synthetic_id": np.array(["a", "b"]), "start": np.array(["2024-01-01"] * 2, "M8[s]")}
    write_part(where / "one.parquet", columns, values, metadata)
    table = pq.read_table(tmp_path / "one.parquet")
    assert table["values"].type == pa.fixed_shape_tensor(pa.float32(), [3, 4])
    assert table.schema.metadata == {key.encode(): text.encode() for key, text in metadata.items()}
    assert table.column_names == ["synthetic_id", "start", "values"]
    np.testing.assert_array_equal(table["values"].combine_chunks().to_numpy_ndarray(), values)
    found = read_store(where / "one.parquet")
    assert list(found.ids) == list(found.entities) == ["a", "b"]
    assert (found.unit, found.step_seconds, found.channels, found.note) == ("kW", 900, 3, "simulated")
    assert found.starts[0] == np.datetime64("2024-01-01")
    types = [("synthetic_id", pa.string()), ("start", pa.timestamp("us"))]
    types += [("values", pa.fixed_shape_tensor(pa.float32(), [3, 4]))]
    assert pa.schema(types).equals(table.schema)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 3),
        pa.list_(pa.int32()),
        pa.list_(pa.float16(), 3),
    ],
    ids=str,
)
def test_lists_of_numbers_are_read(tmp_path, kind):
    rows = [[1, None, 3], [4, 5, 6], [7, 8, 9]]
    table = pa.table({"id": [7, 8, 9], "values": pa.array(rows, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = read_store(Location.parse(str(tmp_path / "a.parquet")))
    np.testing.assert_array_equal(found.values, np.array([[[1, np.nan, 3]], [[4, 5, 6]], [[7, 8, 9]]], np.float32))
    assert list(found.ids) == ["7", "8", "9"]
    assert (found.unit, found.step_seconds) == ("", 0)
    assert np.isnat(found.starts).all()
    assert found.values.flags.writeable


def test_metadata_of_other_programs_need_not_be_text(tmp_path):
    foreign = {b"unit": b"kW", b"step_seconds": b"900", b"ARROW:other": b"\xff\xfe", b"\xff": b"x"}
    table = pa.table({"id": ["a", "b"], "values": [[1.0, 2.0], [3.0, 4.0]]}).replace_schema_metadata(foreign)
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_store(Location.parse(str(tmp_path / "a.parquet")))
    assert (found.unit, found.step_seconds) == ("kW", 900)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_kinds_of_text_are_read(tmp_path, kind):
    table = pa.table({"id": pa.array(["b", "a"]).cast(kind), "start": pa.array(["2021-01-01"] * 2).cast(kind)})
    table = table.append_column("tariff", pa.array(["x", "y"]).cast(kind))
    table = table.append_column("values", pa.array([[1.0, 2.0], [3.0, 4.0]]))
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_store(Location.parse(str(tmp_path / "a.parquet")))
    assert list(found.ids) == ["b", "a"]
    assert found.subset(np.array([1])).attributes["tariff"].to_pylist() == ["y"]
    assert (found.starts == np.datetime64("2021-01-01")).all()


def test_channels_come_from_nested_lists_or_from_the_metadata(tmp_path):
    nested = pa.table({"id": ["a", "b"], "values": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]})
    flat = pa.table({"id": ["a", "b"], "values": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]})
    flat = flat.replace_schema_metadata({"channels": "2"})
    for name, table in (("nested", nested), ("flat", flat)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found = read_store(Location.parse(str(tmp_path / f"{name}.parquet")))
        np.testing.assert_array_equal(found.values[1], [[5, 6], [7, 8]])


def test_wrong_channels_are_refused(tmp_path):
    table = pa.table({"id": ["a"], "values": [[1.0, 2.0, 3.0]]}).replace_schema_metadata({"channels": "2"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"shape \(3,\) but the metadata say 2 channels"):
        read_store(Location.parse(str(tmp_path / "a.parquet")))


def test_parts_that_disagree_are_refused(tmp_path):
    where = Location.parse(str(tmp_path))
    for name, unit in (("a", "kWh"), ("b", "kW")):
        columns = {"id": np.array([name]), "start": np.array(["2013-01-01"], "M8[s]")}
        write_part(where / f"{name}.parquet", columns, np.ones((1, 1, 4), np.float32), series_metadata(unit, 3600, 1))
    with pytest.raises(DataError, match=r"b\.parquet: unit is 'kW', but 'kWh' in .*a\.parquet"):
        read_store(where)


@pytest.mark.parametrize("renamed", [{"entity": "Entity", "start": "Start"}, {"id": "ID", "values": "Values"}])
def test_names_of_the_contract_in_other_case(tmp_path, renamed):
    """A column `Entity` that is not seen is a household that is not protected."""
    expected = make_set(np.arange(16).reshape(4, 1, 4))
    write_store(expected, Location.parse(str(tmp_path / "store")))
    table = pq.read_table(tmp_path / "store" / "part-00000.parquet")
    other = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    pq.write_table(other.replace_schema_metadata(table.schema.metadata), tmp_path / "a.parquet")
    assert_same(read_store(Location.parse(str(tmp_path / "a.parquet"))), expected)


def test_a_part_without_entities_among_others_is_refused(tmp_path):
    write_store(make_set(np.arange(32).reshape(8, 1, 4)), Location.parse(str(tmp_path)), rows_per_part=4)
    last = tmp_path / "part-00001.parquet"
    pq.write_table(pq.read_table(last).drop_columns("entity"), last)
    with pytest.raises(DataError, match=r"part-00001\.parquet has no `entity` column"):
        read_store(Location.parse(str(tmp_path)))


def test_writing_replaces_the_whole_store(tmp_path):
    where = Location.parse(str(tmp_path / "store"))
    write_store(make_set(np.ones((5, 1, 4))), where, rows_per_part=1)
    write_store(make_set(np.zeros((2, 1, 4))), where, rows_per_part=1)
    assert len(read_store(where)) == 2


def test_subset_takes_masks_and_positions():
    attributes = pa.table({"size": [10, 20, 30]})
    series = make_set(np.arange(3).reshape(3, 1, 1), attributes=attributes)
    assert list(series.subset(np.array([True, False, True])).ids) == ["s0", "s2"]
    picked = series.subset(np.array([2, 0]))
    assert list(picked.ids) == ["s2", "s0"]
    assert picked.attributes["size"].to_pylist() == [30, 10]
    assert (picked.length, picked.channels, len(picked)) == (1, 1, 2)


def test_the_fingerprint_sees_every_field_but_attributes():
    base = make_set(np.ones((2, 1, 3)))
    prints = {
        base.fingerprint(),
        make_set(np.ones((2, 1, 3)), ["s0", "x"]).fingerprint(),
        make_set(np.array([[[1, 1, 1]], [[1, 1, 2]]])).fingerprint(),
        make_set(np.array([[[1, 1, 1]], [[1, 1, np.nan]]])).fingerprint(),
        make_set(np.ones((2, 1, 3)), unit="kW").fingerprint(),
        make_set(np.ones((2, 1, 3)), step_seconds=900).fingerprint(),
        make_set(np.ones((2, 1, 3)), starts=np.array(["2014-01-01"] * 2, "M8[s]")).fingerprint(),
        make_set(np.ones((2, 1, 3)), entities=np.array(["a", "b"], dtype=object)).fingerprint(),
        make_set(np.ones((2, 3, 1))).fingerprint(),
    }
    assert len(prints) == 9
    assert make_set(np.ones((2, 1, 3)), attributes=pa.table({"a": [1, 2]})).fingerprint() == base.fingerprint()
    odd = np.full((1, 1, 1), np.nan, np.float32)
    other = odd.copy()
    other.view(np.uint32)[:] |= 1
    assert make_set(odd).fingerprint() == make_set(other).fingerprint()


def test_joined_sets_keep_shared_attributes_and_notes():
    one = make_set(np.ones((1, 1, 2)), ["a"], attributes=pa.table({"x": [1], "y": ["p"]}), note="simulated")
    two = make_set(np.ones((1, 1, 2)), ["b"], attributes=pa.table({"x": [2], "y": [3]}))
    both = concatenate([one, two], ["one", "two"])
    assert both.attributes.to_pydict() == {"x": [1, 2]}
    assert both.note == "", "what is said of some is not true of all"
    assert concatenate([one, one.subset(np.array([], int))], ["one", "none"]).note == "simulated"
    with pytest.raises(DataError, match="two: length is 3, but 2 in one"):
        concatenate([one, make_set(np.ones((1, 1, 3)))], ["one", "two"])
