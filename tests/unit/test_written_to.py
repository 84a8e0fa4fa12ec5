"""Logs of training in remote run folders: kept whatever the end, and gone on with."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
from pyarrow import fs

from ray_jobs.train import PROGRESS_FILE, _watch, _written_to
from ttsgan import recipes
from ttsgan.data.storage import Location


def say(folder, line):
    with (folder / PROGRESS_FILE).open("a") as file:
        file.write(line)


def fail(place):
    with _written_to(place, keep=True) as folder:
        say(folder, "first\n")
        raise KeyError


def test_remote_logs_are_kept_after_an_error_and_gone_on_with(tmp_path):
    place = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run/tensorboard")
    with pytest.raises(KeyError):
        fail(place)
    with _written_to(place, keep=True) as folder:
        say(folder, "second\n")
    assert (tmp_path / "run" / "tensorboard" / PROGRESS_FILE).read_text() == "first\nsecond\n"
    with _written_to(place, keep=False) as folder:
        (folder / "trial").touch()
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_remote_logs_can_be_read_while_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_jobs.train.COPY_SECONDS", 0.01)
    place = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run/tensorboard")
    shown, stop = [], threading.Event()
    console = SimpleNamespace(progress=shown.append)
    with _written_to(place, keep=True) as folder:
        run = SimpleNamespace(where=place.parent, config=recipes.quick())
        watcher = threading.Thread(target=_watch, args=(run, console, stop, threading.Event()))
        watcher.start()
        time.sleep(0.1)
        say(folder, json.dumps({"stage": "days", "doing": "something"}) + "\n")
        give_up = time.monotonic() + 20
        while not shown and time.monotonic() < give_up:
            time.sleep(0.01)
        stop.set()
        watcher.join()
    assert shown == ["training, before days: something"]
