"""Whole commands in their own processes: a search that stops trials early; runs that are killed, stopped or diverge."""

import itertools
import json
import os
import re
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
    "training.encoder_share=0.2",
    "training.days_share=0.68",
    "training.checkpoint_interval=64",
    "training.log_interval=64",
    "cluster.min_group_size=10",
    "evaluate.bootstrap=20",
]


def stages(out) -> dict:
    return json.loads((out / "manifest.json").read_text())["stages"]


@pytest.fixture
def other_ray():
    """Another Ray on this machine, of another program."""
    code = "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False); print('up'); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    yield
    process.communicate("\n", timeout=60)


@pytest.mark.parametrize("at_once", [1, 2])
def test_search_goes_on_after_a_trial_is_stopped_early(tmp_path, other_ray, at_once):
    """Ray frees the workers of a stopped trial through the dashboard of the Ray that it asks: it must be this one."""
    out, small = tmp_path / "run", [*SMALL, f"runtime.max_concurrent_trials={at_once}"]
    words = [*COMMAND, "tune", "--data", "sample", "--out", str(out), "--trials", "3", "--set", *small]
    said = subprocess.run(words, check=True, timeout=540, stdout=subprocess.PIPE, text=True).stdout
    assert "trial 3 of 3 (" in said
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert len({(trial["patch.size"], trial["days.depth"], trial["encoder.latent_dim"]) for trial in trials}) == 3
    assert min(trial["validation"] for trial in trials) < 10
    best = min(trials, key=lambda trial: trial["validation"])
    config = recipes.from_dict(json.loads((out / "best.json").read_text()))
    assert (config.patch.size, config.days.depth) == (best["patch.size"], best["days.depth"])
    assert config.encoder.latent_dim == best["encoder.latent_dim"]


def killed_at(words, out, pattern) -> set[str]:
    """Start a command and kill all its processes once a checkpoint matches ``pattern``; return the stages done."""
    process = subprocess.Popen(words, start_new_session=True)
    kept, give_up = out / "checkpoints" / "train", time.monotonic() + 240
    while not list(kept.glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return set(stages(out))


def test_run_killed_twice_and_called_again_ends_as_one_that_nobody_disturbed(tmp_path):
    """SIGKILL to all processes in the days stage, and again in the adversarial stage: the same model, bit for bit."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    words = [*COMMAND, "run", "--data", "sample", "--out", str(out), "--set", *SMALL]
    for pattern in ("checkpoint_00000025*_1", "checkpoint_*_2"):
        assert killed_at(words, out, pattern) == {"prepare"}
    done = subprocess.run(words, timeout=540, check=False)
    assert done.returncode == 3
    lines = [json.loads(line) for line in (out / "tensorboard" / "progress.jsonl").read_text().splitlines()]
    seen = [line["series_seen"] for line in lines if "doing" not in line]
    back = [later for former, later in itertools.pairwise(seen) if later < former]
    assert all(at > 192 for at in back), "it went on from one of the last two checkpoints"
    assert seen[-1] == 640
    assert {"train", "generate", "audit"} <= set(stages(out))

    words = [*COMMAND, "train", "--data", "sample", "--out", str(whole), "--set", *SMALL]
    subprocess.run(words, check=True, timeout=540)
    models = [folder / "checkpoints" / "model" for folder in (out, whole)]
    names = sorted(path.name for path in models[1].iterdir())
    assert names == sorted(path.name for path in models[0].iterdir())
    assert "networks.safetensors" in names
    for name in names:
        assert (models[0] / name).read_bytes() == (models[1] / name).read_bytes(), name


NARROW = [
    *SMALL, "encoder.width=16", "days.width=16", "days.depth=1", "generator.width=16", "discriminator.width=16",
    "training.log_interval=32", "training.encoder_share=0.5", "training.days_share=0.3", "training.batch_size=32",
]  # fmt: skip
"""Every step is logged, so that a repeated step shows."""


def test_run_asked_to_stop_keeps_a_checkpoint_and_a_damaged_one_is_passed_over(tmp_path):
    """SIGTERM to the driver, then the newest checkpoint is truncated: the model equals that of an undisturbed run."""

    def words(out) -> list[str]:
        return [*COMMAND, "train", "--data", "sample", "--out", str(out), "--set", *NARROW]

    out, whole = tmp_path / "run", tmp_path / "whole"
    process = subprocess.Popen(words(out), stderr=subprocess.PIPE, text=True)
    kept = out / "checkpoints" / "train"
    give_up = time.monotonic() + 180
    while not list(kept.glob("checkpoint_000000128*")):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=180)[1]
    assert process.returncode == 1, said
    seen = int(re.search(r"ttsgan: stopped as asked after (\d+) series; the same command goes on", said)[1])
    assert set(stages(out)) == {"prepare"}
    newest = sorted(kept.glob("checkpoint_0*"))[-1]
    assert newest.name.startswith(f"checkpoint_{seen:09d}_")
    with (newest / "average.safetensors").open("r+b") as file:
        file.truncate(100)

    subprocess.run(words(out), check=True, timeout=540)
    lines = [json.loads(line) for line in (out / "tensorboard" / "progress.jsonl").read_text().splitlines()]
    told = [line["series_seen"] for line in lines if "doing" not in line]
    again = next(i for i in range(1, len(told)) if told[i] <= told[i - 1])
    assert 64 < told[again] <= seen, "it went on from the checkpoint before the damaged one"
    subprocess.run(words(whole), check=True, timeout=540)
    model = "checkpoints/model/networks.safetensors"
    assert (out / model).read_bytes() == (whole / model).read_bytes()


def test_diverged_run_ends_at_once_in_one_line(tmp_path):
    """Every worker raises the same error at the same step, so a retry would only take longer."""
    out = tmp_path / "run"
    words = [*COMMAND, "train", "--data", "sample", "--out", str(out), "--set", *NARROW, "training.encoder_lr=1e30"]
    done = subprocess.run(words, timeout=300, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    said = (
        r"ttsgan: the (loss|gradient) of the encoder is (nan|inf) after \d+ series, after 3 rollbacks, each with .*; "
        r"lower training\.encoder_lr .*over\n"
    )
    assert re.fullmatch(said, done.stderr)
    assert len(list((out / "tensorboard").glob("events.out.tfevents.*"))) == 1


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
