"""Locations: whole files, whole folders, one-line errors; on the local disk and on another pyarrow file system."""

import contextlib
import os
import pickle
import resource

import pytest
from pyarrow import fs

from ttsgan.data.storage import Location
from ttsgan.errors import DataError


@pytest.fixture(params=["local", "other"])
def folder(request, tmp_path):
    """A folder on the local file system, and the same through the code for every other file system."""
    if request.param == "local":
        return Location.parse(str(tmp_path))
    return Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run", scheme="s3")


@contextlib.contextmanager
def file_size_limit(limit):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_parse_gives_absolute_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location.parse("a/b").local_path == tmp_path / "a" / "b"
    assert Location.parse(f"file://{tmp_path}/a%20b").local_path == tmp_path / "a b"
    assert str(Location.parse(str(tmp_path)) / "x") == f"{tmp_path}/x"
    assert (Location.parse("a") / "b.json").name == "b.json"
    assert (Location.parse("a") / "b").parent == Location.parse("a")


def test_credentials_are_in_the_uri_and_nowhere_else(tmp_path):
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    place = Location(filesystem, "bucket/a b", "s3", "key:secret", "region=x")
    assert str(place / "c") == "s3://bucket/a%20b/c?region=x"
    assert "secret" not in str(place)
    assert "secret" not in repr(place)
    assert place.uri == "s3://key:secret@bucket/a%20b?region=x"


def test_a_location_pickles(folder):
    again = pickle.loads(pickle.dumps(folder / "x"))
    assert again == folder / "x"
    again.write_bytes(b"1")
    assert (folder / "x").read_bytes() == b"1"


def test_files_are_written_listed_and_removed(folder):
    folder.make_dir()
    for name in ("b.parquet", "a.parquet", "note.txt", ".hidden.parquet"):
        (folder / name).write_bytes(name.encode())
    assert [place.name for place in folder.list(".parquet")] == ["a.parquet", "b.parquet"]
    assert (folder / "a.parquet").is_file()
    assert (folder / "a.parquet").size() == len("a.parquet")
    assert folder.is_dir()
    (folder / "a.parquet").remove()
    (folder / "a.parquet").remove()
    assert not (folder / "a.parquet").exists()
    assert (folder / "nothing").list() == []
    folder.remove()
    assert not folder.exists()


def test_json_keeps_the_order_of_keys_and_refuses_nan(folder):
    folder.make_dir()
    place = folder / "a.json"
    place.write_json({"b": 1, "a": [1.5, None, "°C"]})
    assert list(place.read_json()) == ["b", "a"]
    assert place.read_json()["a"] == [1.5, None, "°C"]
    with pytest.raises(ValueError, match="JSON"):
        place.write_json({"a": float("nan")})


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\x00\xff"])
def test_damaged_json_is_named(folder, data):
    folder.make_dir()
    (folder / "config.json").write_bytes(data)
    with pytest.raises(DataError, match=r"config\.json .*cut short") as error:
        (folder / "config.json").read_json()
    assert "\n" not in str(error.value)


def test_replace_dir_swaps_whole_folders(folder):
    folder.make_dir()
    target = folder / "synthetic"
    with target.replace_dir() as new:
        (new / "part-0").write_bytes(b"old")
        assert not target.exists()
    with target.replace_dir() as new:
        (new / "part-1").write_bytes(b"new")
        assert (target / "part-0").exists()
    assert [place.name for place in target.list()] == ["part-1"]
    with contextlib.suppress(KeyError), target.replace_dir() as new:
        (new / "part-2").write_bytes(b"half")
        raise KeyError
    assert [place.name for place in target.list()] == ["part-1"]
    assert [place.name for place in folder.list()] == ["synthetic"]


def test_replace_dir_clears_what_a_killed_process_left(tmp_path):
    target = Location.parse(str(tmp_path / "store"))
    (tmp_path / ".store.partial").mkdir()
    (tmp_path / ".store.partial" / "part-9").write_bytes(b"stale")
    # killed between the two renames: the old folder is aside and nothing is in its place
    (tmp_path / ".store.old").mkdir()
    (tmp_path / ".store.old" / "part-0").write_bytes(b"good")
    with pytest.raises(KeyError), target.replace_dir():
        raise KeyError
    assert (target / "part-0").read_bytes() == b"good"
    with target.replace_dir() as new:
        assert new.list() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    place = Location.parse(str(tmp_path)) / "weights.bin"
    place.write_bytes(b"good")
    with file_size_limit(1000), pytest.raises(DataError, match="no space left on device") as error:
        place.write_bytes(b"x" * 100_000)
    assert "\n" not in str(error.value)
    assert str(place) in str(error.value)
    assert place.read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_a_failed_replace_dir_leaves_the_old_folder(tmp_path):
    target = Location.parse(str(tmp_path)) / "store"
    with target.replace_dir() as new:
        (new / "part-0").write_bytes(b"good")
    with file_size_limit(1000), pytest.raises(DataError, match="no space left"), target.replace_dir() as new:
        (new / "part-0").write_bytes(b"x" * 100_000)
    assert (target / "part-0").read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_swap_that_fails_half_way_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = Location.parse(str(tmp_path)) / "store"
    with target.replace_dir() as new:
        (new / "part-0").write_bytes(b"good")
    rename, asked = os.rename, []

    def failing(source, to):
        asked.append(to)
        if len(asked) == 2:
            raise OSError(5, "Input/output error")
        rename(source, to)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(DataError, match="Input/output error"), target.replace_dir() as new:
        (new / "part-0").write_bytes(b"new")
    assert (target / "part-0").read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


class FailingCopies:
    """A file system as an object store's, which fails at the second copy."""

    def __init__(self, beneath):
        self.beneath, self.copies = beneath, 0

    def __getattr__(self, name):
        return getattr(self.beneath, name)

    def copy_file(self, source, to):
        self.copies += 1
        if self.copies == 2:
            raise OSError(5, "Input/output error")
        self.beneath.copy_file(source, to)


def test_some_of_the_parts_never_pass_for_all_of_them(tmp_path):
    beneath = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    with Location(beneath, "run/store", scheme="s3").replace_dir() as new:
        (new / "part-0").write_bytes(b"old")
    far = Location(FailingCopies(beneath), "run/store", scheme="s3")

    def replace():
        with far.replace_dir() as new:
            for part in range(3):
                (new / f"part-{part}").write_bytes(b"new")

    with pytest.raises(DataError, match=r"store is gone, .* whole in .*store\.partial"):
        replace()
    assert not far.exists()
    assert [part.name for part in (far.parent / ".store.partial").list()] == ["part-0", "part-1", "part-2"]


def test_check_writable(tmp_path, folder):
    folder.check_writable(min_free=1)
    (Location.parse(str(tmp_path)) / "new" / "run").check_writable(min_free=1)
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(DataError, match="no space left on device"):
        Location.parse(str(tmp_path)).check_writable(min_free=10**18)
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(DataError, match="is a file"):
            Location.parse(str(place)).check_writable()


def test_missing_files_are_named(folder):
    with pytest.raises(DataError, match=r"absent.* does not exist"):
        (folder / "absent").read_bytes()
    with pytest.raises(DataError, match=r"absent.* does not exist"):
        (folder / "absent").size()


def test_a_host_that_is_not_part_of_the_path_stays_in_the_uri(tmp_path):
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    place = Location(filesystem, "box/runs/a", "abfs", "box", host="account.dfs.core.windows.net", root="box")
    assert place.uri == "abfs://box@account.dfs.core.windows.net/runs/a"
    assert (place / "store").parent == place
    assert (place / "store").uri == f"{place.uri}/store"
    assert Location(filesystem, "/runs", "hdfs", host="name:8020").uri == "hdfs://name:8020/runs"
