"""The training set in files: the one in memory bit for bit, shared by workers, and nothing left behind."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ttsgan.errors import DataError
from ttsgan.training import dataset, memory_map
from ttsgan.training.dataset import TrainSet
from ttsgan.training.runtime import LocalRuntime, NotKept

TENSORS = ("scores", "residual", "regular", "observed", "numbers", "calendar", "start_index", "validation")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files, of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def in_files(small):
    """Make the set of the sample in files; ``asked`` collects the rows that were asked for."""
    sample = small.sample

    def make(asked: list | None = None, runtime=None, read=None) -> TrainSet:
        def known(rows):
            if asked is not None:
                asked.append(rows.tolist())
            return sample.values[rows]

        return memory_map.map_train_set(
            read or known, sample.starts, sample.entities, small.scaler, small.config, runtime or LocalRuntime()
        )

    return make


def same(one: TrainSet, other: TrainSet) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)
    return tensors and np.array_equal(one.level, other.level) and one.shape == other.shape


def test_it_is_the_set_in_memory(small, in_files):
    assert same(in_files(), small.data)


def test_blocks_are_read_once_and_written_in_place(small, in_files, monkeypatch):
    """Ties are broken by a series' place in its block, so that the set in memory is made of the same blocks."""
    for module in (dataset, memory_map):
        monkeypatch.setattr(module, "SCALE_ROWS", 20)
    s = small.sample
    wanted = dataset.build_train_set(s.values, s.starts, s.entities, small.scaler, small.config)
    asked = []
    assert same(in_files(asked), wanted)
    assert asked == [list(range(20)), list(range(20, 40)), list(range(40, 48))]


def test_no_name_stays_and_values_do(in_files, temporary):
    data = in_files()
    assert list(temporary.iterdir()) == []
    assert torch.isfinite(data.scores).all()


def test_files_are_for_their_owner_alone(in_files, temporary):
    modes = []

    class Watching(LocalRuntime):
        def mean(self, tensors):
            (folder,) = temporary.iterdir()
            modes.extend(path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir()))

    in_files(runtime=Watching())
    assert set(modes) == {0o700, 0o600}


def test_rows_wanted_next_are_taken_of_all_maps(in_files, small):
    """Asking ahead changes nothing, at either end; past the end is refused."""
    data = in_files()
    data.ahead(torch.tensor([0, 47, 5, 47]), ("scores", "observed", "numbers"))
    data.ahead(torch.arange(0), ("residual",))
    assert same(data, small.data)
    with pytest.raises((ValueError, OSError)):
        data.ahead(torch.tensor([400]), ("scores",))


def test_training_asks_ahead_for_the_batch_that_comes(trainer, small):
    told, taken = [], []

    class Watched(TrainSet):
        def calendar_of(self, rows):
            taken.append(rows.tolist())
            return super().calendar_of(rows)

    held = {name: getattr(small.data, name) for name in TrainSet.__dataclass_fields__}
    made = trainer(data=Watched(**held | {"ahead": lambda rows, _: told.append(rows.tolist())}))
    for _ in range(4):
        made._encoder_step()
        made.state.series_seen += made.config.training.batch_size
    assert told[:-1] == taken[1:]
    assert len(told) == 4


def test_a_full_disk_is_one_clear_error(in_files, temporary, monkeypatch):
    """Asked of the kernel itself: /dev/full takes nothing."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    through = os.open

    def full(path, *rest, **more):
        return through("/dev/full" if str(path).endswith("residual") else path, *rest, **more)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(NotKept, match=r"No space left on device: .*TMPDIR"):
        in_files()
    assert list(temporary.iterdir()) == []


def test_a_failure_elsewhere_ends_this_worker_as_well(in_files):
    class Other(LocalRuntime):
        def mean(self, tensors):
            tensors[0][1] = 0.5

    with pytest.raises(NotKept, match="another worker failed"):
        in_files(runtime=Other())


def test_series_that_a_worker_cannot_read_end_all_workers_in_the_same_turn(in_files):
    """Nobody is left waiting: the worker itself has told the others before it raises."""

    def damaged(rows):
        raise DataError("part-3.parquet is cut short")

    told = []

    class Telling(LocalRuntime):
        def mean(self, tensors):
            told.append(tensors[0].tolist())

    with pytest.raises(DataError, match=r"part-3\.parquet is cut short"):
        in_files(read=damaged, runtime=Telling())
    assert told == [[0, 1, 1]]

    class Other(LocalRuntime):
        def mean(self, tensors):
            tensors[0][1:] = 0.5

    with pytest.raises(DataError, match="another worker could not read") as error:
        in_files(runtime=Other())
    assert not isinstance(error.value, NotKept)


def test_other_errors_are_not_taken_for_a_full_disk(small):
    def read(rows):
        raise KeyError(errno.ENOSPC)

    s = small.sample
    with pytest.raises(KeyError):
        memory_map.map_train_set(read, s.starts, s.entities, small.scaler, small.config, LocalRuntime())
