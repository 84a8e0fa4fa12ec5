"""A training process that is asked to stop saves a checkpoint first, and the same command resumes from it."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.run import run_stage
from ray_jobs.train import run_train
from ttsgan import recipes
from ttsgan.data.storage import Location
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime, Stopped

TRAIN = """
import sys
from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.train import run_train
from ttsgan.data.storage import Location
from ttsgan.training import transitions
transitions.POOL_CHUNK, transitions.POOL_CHUNKS = 16, 2
run_train(RunFolder.load(Location.parse(sys.argv[1])), Console())
"""


@pytest.fixture
def prepared(small_config, tmp_path) -> RunFolder:
    """Return a prepared run folder, in which the encoder stage alone takes 24 steps, without a checkpoint."""
    config = recipes.override(
        small_config,
        [
            "sample.households=40", "data.holdout=0.5", "training.max_series=240",
            "training.encoder_share=0.8", "training.days_share=0.1", "training.log_interval=8",
        ],
    )  # fmt: skip
    folder = RunFolder.create(Location.parse(str(tmp_path / "run")), config, fresh=False)
    run_stage(folder, "prepare", Console(), "local")
    return folder


@pytest.mark.slow
def test_a_process_asked_to_end_goes_on_where_it_was(prepared, tmp_path):
    out, whole = prepared.where.local_path, tmp_path / "whole"
    shutil.copytree(out, whole)
    words = [sys.executable, "-c", TRAIN, str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    lines, give_up = out / "tensorboard" / "progress.jsonl", time.monotonic() + 120
    while not lines.is_file() or not lines.read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "asked to stop" in said
    kept = [p.name for p in (out / "checkpoints" / "train").iterdir()]
    seen = int(kept[0].split("_")[1])
    assert kept == [f"checkpoint_{seen:09d}_0"]
    assert 0 < seen < 192
    assert f"stopped as asked after {seen} series; the same command goes on from there" in said

    run_train(RunFolder.load(prepared.where), Console())
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    told = [line["series_seen"] for line in told if "doing" not in line]
    assert told == [*range(8, 248, 8), 240], "the last line tells how the correction was chosen"
    run_train(RunFolder.load(Location.parse(str(whole))), Console())
    model = "checkpoints/model/networks.safetensors"
    assert (out / model).read_bytes() == (whole / model).read_bytes()


@pytest.mark.parametrize("steps", [1, 4, 5, 10, 14])
def test_stopping_after_any_step_changes_nothing(trainer, tmp_path, monkeypatch, steps):
    """The small configuration has stages of 4, 6 and 4 steps, so steps 4, 10 and 14 are the last of a stage."""
    taken = 0
    real = Trainer._begin

    def counted(self, stage, candidates):
        nonlocal taken
        taken += stage != "generator"
        self.runtime.leaving = taken == steps
        return real(self, stage, candidates)

    monkeypatch.setattr(Trainer, "_begin", counted)
    with pytest.raises(Stopped, match=f"after {8 * steps} series"):
        trainer(runtime=LocalRuntime(tmp_path)).train()
    assert len(list(tmp_path.iterdir())) in (1, 2)
    monkeypatch.setattr(Trainer, "_begin", real)
    stopped = trainer(runtime=LocalRuntime(tmp_path)).train().networks.state_dict()
    straight = trainer().train().networks.state_dict()
    assert [name for name in straight if not stopped[name].equal(straight[name])] == []
