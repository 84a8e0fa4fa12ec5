"""Whole commands in processes of their own: a search whose trials are stopped early, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from ttsgan import recipes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "ray_jobs.cli"]
SMALL = [
    "sample.households=120",
    "training.max_series=640",
    "training.checkpoint_interval=64",
    "training.log_interval=64",
    "cluster.min_group_size=10",
    "evaluate.bootstrap=20",
]


def stages(out) -> dict:
    return json.loads((out / "manifest.json").read_text())["stages"]


def test_search_goes_on_after_a_trial_is_stopped_early(tmp_path):
    out = tmp_path / "run"
    words = [*COMMAND, "tune", "--data", "sample", "--out", str(out), "--trials", "3", "--set", *SMALL]
    subprocess.run(words, check=True, timeout=540)
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert len(trials) == 3
    assert min(trial["validation"] for trial in trials) < 10
    best = min(trials, key=lambda trial: trial["validation"])
    config = recipes.from_dict(json.loads((out / "best.json").read_text()))
    assert (config.patch.size, config.days.depth) == (best["patch.size"], best["days.depth"])
    assert config.encoder.latent_dim == best["encoder.latent_dim"]


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    out = tmp_path / "run"
    words = [*COMMAND, "run", "--data", "sample", "--out", str(out), "--set", *SMALL]
    process = subprocess.Popen(words, start_new_session=True)
    kept = out / "checkpoints" / "train"
    give_up = time.monotonic() + 180
    while not list(kept.glob("checkpoint_00000012*")):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert set(stages(out)) == {"prepare"}
    done = subprocess.run(words, timeout=540, check=False)
    assert done.returncode == 3
    lines = [json.loads(line) for line in (out / "tensorboard" / "progress.jsonl").read_text().splitlines()]
    seen = [line["series_seen"] for line in lines]
    again = next(i for i in range(1, len(seen)) if seen[i] <= seen[i - 1])
    assert seen[again] > 64, "training began anew instead of going on from a checkpoint"
    assert {"train", "generate", "audit"} <= set(stages(out))


def test_run_with_canaries_measures_memory_and_releases_nothing(tmp_path):
    out = tmp_path / "run"
    words = [*COMMAND, "run", "--data", "sample", "--out", str(out), "--accept-unproven", "--set", *SMALL]
    done = subprocess.run([*words, "data.canaries=40"], timeout=540, check=False, capture_output=True, text=True)
    assert done.returncode == 3
    audit = json.loads((out / "audit.json").read_text())
    line = next(check for check in audit["checks"] if check["attack"] == "canaries")
    assert line["informs"]
    assert 0 <= line["value"] < 5
    assert audit["sizes"]["train"]["entities"] == 60
    assert not (out / "release").exists()
    assert "planted series" in done.stdout or audit["verdict"] == "FAIL"
