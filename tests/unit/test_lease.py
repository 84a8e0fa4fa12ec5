"""The lease of a remote run folder: one holder, taken over from a killed one, given back at the end."""

import threading
import time

import pytest

from ray_jobs import lease
from ttsgan.data.storage import Location
from ttsgan.errors import DataError


@pytest.fixture
def file(tmp_path, monkeypatch) -> Location:
    for name, seconds in (("BEAT", 0.05), ("PATIENCE", 0.6), ("SETTLE", 0.01)):
        monkeypatch.setattr(lease, name, seconds)
    return Location.parse(str(tmp_path / ".lock"))


def test_a_second_command_is_refused_while_the_first_works(file):
    with lease.leased(file):
        with pytest.raises(DataError, match="is worked on by another command"), lease.leased(file):
            pytest.fail("two holders")
        first = file.read_json()
        time.sleep(0.3)
        now = file.read_json()
        assert now["holder"] == first["holder"], "the watcher leaves the lease alone"
        assert now["count"] > first["count"]
    assert not file.exists()


def test_the_lease_of_a_killed_command_is_taken_over(file, caplog):
    file.write_json({"holder": "elsewhere, process 7, x", "count": 3})
    began = time.monotonic()
    with lease.leased(file):
        assert time.monotonic() - began >= lease.PATIENCE
        assert file.read_json()["holder"] != "elsewhere, process 7, x"
    assert "still works" in caplog.text
    assert not file.exists()


def test_it_is_given_back_after_an_error(file):
    with pytest.raises(ZeroDivisionError), lease.leased(file):
        raise ZeroDivisionError
    assert not file.exists()
    with lease.leased(file):
        pass


def test_of_two_that_come_at_once_one_holds_it(file, monkeypatch):
    monkeypatch.setattr(lease, "SETTLE", 0.2)
    held, refused, begin = [], [], threading.Barrier(4)

    def command():
        begin.wait()
        try:
            with lease.leased(file):
                held.append(1)
                time.sleep(0.8)
        except DataError:
            refused.append(1)

    commands = [threading.Thread(target=command) for _ in range(4)]
    for one in commands:
        one.start()
    for one in commands:
        one.join()
    assert (len(held), len(refused)) == (1, 3)


def test_a_place_that_cannot_be_written_is_named(file, monkeypatch):
    def fails(*_):
        raise DataError("no room")

    monkeypatch.setattr(Location, "write_json", fails)
    with pytest.raises(DataError, match="no room"), lease.leased(file):
        pytest.fail("it is not held")
