"""Storage faults while a checkpoint is written: it is full, fails for a moment, or denies permission."""

import errno
import json
import os
import shutil
import subprocess
import time

import pytest
import torch
from pyarrow.fs import LocalFileSystem

from ray_jobs import train
from ray_jobs.failures import told
from ray_jobs.runtime import forget_registry, write_checkpoint
from ttsgan.data.storage import Location
from ttsgan.errors import DataError, DivergedError
from ttsgan.training import runtime as runtimes
from ttsgan.training.runtime import LocalRuntime, NotKept, fault_of, patiently

SETTINGS = ("training.checkpoint_interval=8",)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Replace waiting by a record of the waiting times; return the record."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 16 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a disk of a few megabytes cannot be mounted: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_ends_in_one_line_and_leaves_the_checkpoint_before(trainer, small_disk):
    """The disk fills up after two checkpoints, in the middle of the third; once there is room, training resumes."""
    folder = small_disk / "train"
    made, real = trainer(*SETTINGS, runtime=LocalRuntime(folder)), LocalRuntime.save
    size = sum(len(content) for content in made.state.files().values())

    def save(name, files, metrics):
        if made.state.total_series == 24:
            room = shutil.disk_usage(small_disk).free - size // 2
            (small_disk / "other").write_bytes(bytes(room))
        real(made.runtime, name, files, metrics)

    made.runtime.save = save
    with pytest.raises(NotKept) as caught:
        made.train()
    assert str(caught.value) == (
        f"No space left on device: cannot write checkpoint 000000024_0 in {folder}; put that right and run the same "
        "command again, which goes on from the checkpoint before it"
    )
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint_000000008_0", "checkpoint_000000016_0"]
    assert [fault_of(p) for p in folder.iterdir()] == [None, None]
    (small_disk / "other").unlink()
    again = trainer(*SETTINGS, runtime=LocalRuntime(folder)).train().networks.state_dict()
    straight = trainer(*SETTINGS).train().networks.state_dict()
    assert [name for name in straight if not torch.equal(straight[name], again[name])] == []


class Failing:
    """A file system on which writing the ``at``-th file fails, for the first ``times`` attempts."""

    def __init__(self, number: int | None, at: int, times: int, removes: bool = True) -> None:
        self.number, self.at, self.left, self.opened, self.removes = number, at, times, 0, removes
        self.local = LocalFileSystem()

    def delete_dir(self, path):
        if not self.removes:
            raise OSError(self.number, "cannot remove")
        self.local.delete_dir(path)

    def create_dir(self, path, recursive):
        self.opened = 0
        self.local.create_dir(path, recursive=recursive)

    def delete_dir_contents(self, path):
        self.local.delete_dir_contents(path)

    def open_output_stream(self, path):
        self.opened += 1
        if self.opened == self.at and self.left:
            self.left -= 1
            words = "AWS Error NETWORK_CONNECTION" if self.number is None else os.strerror(self.number)
            raise OSError(words) if self.number is None else OSError(self.number, words)
        return self.local.open_output_stream(path)


FILES = {"a": b"one", "b": b"two", "c": b"three"}


@pytest.mark.parametrize("at", [1, 3, 4])
@pytest.mark.parametrize("number", [None, errno.EIO, errno.ETIMEDOUT])
def test_storage_that_fails_twice_is_asked_again(tmp_path, pauses, caplog, number, at):
    storage, folder = Failing(number, at, times=2), tmp_path / "checkpoint_1"
    LocalRuntime(tmp_path)._keep("checkpoint 1", lambda: write_checkpoint(storage, str(folder), FILES))
    assert pauses == [1, 4]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["cannot write checkpoint 1"] * 2
    assert fault_of(folder) is None
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("removes", [True, False])
def test_storage_that_stays_away_is_given_up(tmp_path, pauses, removes):
    storage, folder = Failing(errno.EIO, 4, 10, removes), tmp_path / "checkpoint_1"
    with pytest.raises(NotKept, match=r"Input/output error: cannot write checkpoint 1; put that right"):
        LocalRuntime(tmp_path)._keep("checkpoint 1", lambda: write_checkpoint(storage, str(folder), FILES))
    assert pauses == list(runtimes.PAUSES) == sorted(runtimes.PAUSES)
    assert folder.exists() is not removes
    if not removes:
        assert fault_of(folder) == "it has no seal.json: half written, or not a checkpoint of this program"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_does_not_pass_is_told_at_once(tmp_path, pauses, number):
    storage = Failing(number, 2, times=1)
    with pytest.raises(NotKept, match=f"{os.strerror(number)}: cannot write checkpoint 1"):
        LocalRuntime(tmp_path)._keep("checkpoint 1", lambda: write_checkpoint(storage, str(tmp_path / "x"), FILES))
    assert pauses == []


def test_what_was_never_sealed_does_not_push_out_what_was(tmp_path):
    """Incomplete checkpoints, left by starts on a full disk, must not displace the newest sealed ones."""
    names = [f"checkpoint_{n:09d}_0" for n in (8, 16, 24, 32, 40, 48)]
    for name in names:
        write_checkpoint(LocalFileSystem(), str(tmp_path / name), FILES)
    for name in ("checkpoint_000000004_0", *(f"checkpoint_000000056_0_{n}" for n in range(5))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"one")
    forget_registry(Location.parse(str(tmp_path)))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[:4] == names[2:]
    assert len(left) == 9, "newer ones without a seal are named when training goes on"
    forget_registry(Location.parse(str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_reading_is_patient_too(tmp_path, pauses):
    left = [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")]

    def read():
        if left:
            raise left.pop()
        return 7

    assert patiently(read, "read it") == 7
    assert pauses == [1, 4]


def test_local_disk_that_fails_for_a_moment(trainer, tmp_path, monkeypatch, pauses):
    """The operating system raises an error in the middle of a real checkpoint, twice."""
    real, left = os.fsync, [3, 5]

    def fsync(number):
        calls.append(number)
        if len(calls) in left:
            raise OSError(errno.EIO, "Input/output error")
        real(number)

    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", fsync)
    runtime = LocalRuntime(tmp_path)
    made = trainer(runtime=runtime)
    runtime.save("000000000_0", made.state.files(), {})
    assert pauses == [1, 4]
    kept = tmp_path / "checkpoint_000000000_0"
    assert list(tmp_path.iterdir()) == [kept]
    assert fault_of(kept) is None
    assert json.loads((kept / "progress.json").read_text())["series_seen"] == 0


def test_not_kept_reaches_the_command_line_as_it_is():
    outer = RuntimeError("worker failed")
    outer.__cause__ = NotKept("no space left on device: cannot write checkpoint 1 in runs")
    assert told(outer) is outer.__cause__


def test_a_location_that_fails_for_a_moment_is_asked_again(tmp_path, monkeypatch, pauses):
    """A `DataError` that a `Location` raises for a transient `OSError` is retried; other `DataError`s are not."""
    place, left, real = Location.parse(str(tmp_path / "model")), [1, 1], os.fsync

    def fsync(number):
        if left:
            raise OSError(errno.EIO, f"Input/output error {left.pop()}")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    patiently(lambda: place.write_bytes(b"weights"), f"write {place}")
    assert pauses == [1, 4]
    assert place.read_bytes() == b"weights"
    with pytest.raises(DataError, match=r"cannot read .*Not a directory"):
        patiently((place / "absent").read_bytes, "read it")
    assert len(pauses) == 2


def test_the_end_of_a_log_costs_no_model(tmp_path, monkeypatch, pauses, caplog):
    """The last copy of the log fails repeatedly after a stage that diverged: the divergence is what is reported."""
    place = Location.parse(f"file://{tmp_path}/kept")
    monkeypatch.setattr(Location, "is_local", property(lambda _: False))
    monkeypatch.setattr(train, "_copy", lambda *_: (_ for _ in ()).throw(DataError("cannot write it")))
    with pytest.raises(DivergedError, match="it diverged"), train._written_to(place, keep=True):
        raise DivergedError("it diverged")
    assert "goes on without the end of its log" in caplog.text
