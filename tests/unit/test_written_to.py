"""Logs of training in remote run folders: kept whatever the end, and gone on with."""

import pytest
from pyarrow import fs

from ray_jobs.train import PROGRESS_FILE, _written_to
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
