"""Workers and machines lost during training: the run continues with the others, or ends with a one-line message."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ttsgan import recipes
from ttsgan.training.state import STAGES, stage_series
from ttsgan.training.step import rate_factor

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = [
    "sample.households=120", "training.max_series=640", "training.checkpoint_interval=64", "training.log_interval=32",
    "training.encoder_share=0.5", "training.days_share=0.3", "cluster.min_group_size=10", "encoder.width=16",
    "days.width=16", "days.depth=1", "generator.width=16", "discriminator.width=16",
]  # fmt: skip
MODEL = "checkpoints/model/networks.safetensors"


def train(out, *settings) -> list[str]:
    words = [sys.executable, "-m", "ray_jobs.cli", "train", "--data", "sample", "--out", str(out)]
    return [*words, "--set", *SMALL, *settings]


def told(out) -> list[int]:
    return [line["series_seen"] for line in lines_of(out) if "doing" not in line]


def wait_for(process, out, pattern):
    give_up = time.monotonic() + 180
    while not list((out / "checkpoints" / "train").glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < give_up
        time.sleep(0.05)


def training_workers(ancestor: int) -> list[int]:
    """Return the ids of the training worker processes that descend from process ``ancestor``."""
    parents, workers = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in name:
            workers.append(int(folder.name))

    def descends(number: int) -> bool:
        return number == ancestor or (number in parents and descends(parents[number]))

    return sorted(number for number in workers if descends(number))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """Return the model of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run(train(out), check=True, timeout=400)
    return (out / MODEL).read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_worker_is_lost_and_others_go_on(tmp_path, undisturbed, sent):
    """The model equals that of an undisturbed run, bit for bit; after SIGTERM no step is repeated."""
    out = tmp_path / "run"
    process = subprocess.Popen(train(out), stderr=subprocess.PIPE, text=True)
    wait_for(process, out, "checkpoint_000000128*")
    workers = training_workers(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], sent)
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    seen = told(out)
    back = [later for former, later in itertools.pairwise(seen) if later < former]
    if sent == signal.SIGTERM:
        assert not back, "it went on from the step in which the signal came"
    else:
        assert len(back) <= 1
        assert all(at > 64 for at in back), "it went on from one of the last two checkpoints"
    assert (out / MODEL).read_bytes() == undisturbed


def test_ctrl_c_ends_with_a_line_and_its_own_status(tmp_path):
    """Ray Train would exit without a message and with status 0, after which a script would continue."""
    out = tmp_path / "run"
    process = subprocess.Popen(train(out), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(process, out, "checkpoint_000000064*")
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "interrupted; a run goes on from its last finished stage or checkpoint" in said


def test_training_goes_on_with_ray_what_began_without(tmp_path):
    """Training resumes from the checkpoints in the storage: Ray Train's registry may be old, or cut short by a kill."""
    out = tmp_path / "run"
    process = subprocess.Popen(train(out, "runtime.num_workers=0"), stderr=subprocess.PIPE, text=True)
    wait_for(process, out, "checkpoint_000000128*")
    process.kill()
    process.communicate()
    (out / "checkpoints" / "train" / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [{"ch')
    before = told(out)
    done = subprocess.run(train(out, "runtime.num_workers=1"), timeout=400, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert min(told(out)[len(before) :]) > 128
    assert len(list((out / "checkpoints" / "train").glob("checkpoint_0*"))) <= 4


def test_want_of_memory_ends_in_one_line(tmp_path):
    """An encoder of terabytes: the allocation fails, and after a retry the run ends with a message about it."""
    words = train(tmp_path / "run", "encoder.width=4000000", "runtime.max_failures=1")
    done = subprocess.run(words, timeout=400, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("ttsgan: a worker ran out of memory; run fewer workers")
    assert done.stderr.count("\n") == 1


def test_worker_that_the_system_ends_is_told_in_one_line(tmp_path):
    """SIGKILL to a worker, as from the kernel when memory runs out."""
    process = subprocess.Popen(train(tmp_path / "run", "runtime.max_failures=0"), stderr=subprocess.PIPE, text=True)
    wait_for(process, tmp_path / "run", "checkpoint_000000064*")
    os.kill(training_workers(process.pid)[1], signal.SIGKILL)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 1
    assert said.startswith("ttsgan: a worker was lost more often than runtime.max_failures allows")
    assert said.count("\n") == 1


DRIVER = (
    "import sys; from ray_jobs import cli, train; train.RESIZE_SECONDS, train.SILENT_SECONDS = 5.0, 10.0;"
    "sys.exit(cli.main())"
)
ENVIRONMENT = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
}
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
LONG = ["training.max_series=4800", "training.log_interval=32", "training.checkpoint_interval=320"]


@pytest.fixture
def cluster():
    """Start a Ray cluster on this machine: a head without CPUs, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.others = [made.add_node(**NODE) for _ in range(2)]
    yield made
    made.shutdown()


@contextmanager
def on(cluster, out, *settings, status=0):
    """Train on ``cluster`` and yield at the first checkpoint; after the block the run must end with ``status``."""
    words = [sys.executable, "-c", DRIVER, *train(out, *settings)[3:], "--address", cluster.address]
    with (out.parent / "said").open("w+") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said, env={**os.environ, **ENVIRONMENT})
        try:
            wait_for(process, out, "checkpoint_0*")
            yield process
            assert process.wait(timeout=300) == status, (out.parent / "said").read_text()
        finally:
            process.kill()


def lines_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "tensorboard" / "progress.jsonl").read_text().splitlines()]


def test_lost_machine_is_replaced_and_training_goes_on(cluster, tmp_path):
    out = tmp_path / "run"
    with on(cluster, out, "training.max_series=1280"):
        cluster.remove_node(cluster.others[1], allow_graceful=False)
        cluster.add_node(**NODE)
    seen = told(out)
    again = next(i for i in range(1, len(seen)) if seen[i] <= seen[i - 1])
    assert seen[again] > 32, "it went on from a checkpoint"
    assert seen[-1] == 1280
    summary = json.loads((out / "manifest.json").read_text())["stages"]["train"]["summary"]
    assert (summary["series_seen"], summary["workers"]) == (1280, 2)


def test_a_machine_that_does_not_come_back_is_told_of_and_sigterm_ends_the_wait(cluster, tmp_path):
    out, told = tmp_path / "run", "training waits for machines: 2 workers need 2 CPUs, the Ray cluster has 1"
    with on(cluster, out, "training.max_series=4800", status=130) as process:
        cluster.remove_node(cluster.others[1], allow_graceful=False)
        give_up = time.monotonic() + 180
        while told not in " ".join((tmp_path / "said").read_text().split()):
            assert process.poll() is None
            assert time.monotonic() < give_up, (tmp_path / "said").read_text()
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)


def test_a_cluster_that_is_too_small_is_told_of_before_anything_is_read(cluster, tmp_path):
    words = train(tmp_path / "run", "runtime.num_workers=4", "training.batch_size=16")
    ended = subprocess.run([*words, "--address", cluster.address], capture_output=True, text=True, timeout=180)
    assert ended.returncode == 2
    assert "runtime.num_workers = 4 workers need 4 CPUs, the Ray cluster has 2" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_elastic_run_shrinks_and_grows_on_one_schedule(cluster, tmp_path):
    """A node is preempted after notice, later one is added: 2, 1, 2 workers; batches and rates follow one schedule."""
    out = tmp_path / "run"
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    with on(cluster, out, *LONG, "runtime.min_workers=1") as process:
        why, soon = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), int(1000 * (time.time() + 8))
        GcsClient(cluster.address).drain_node(cluster.others[1].node_id, why, "taken away", soon)
        kept = set()
        while not any(line.get("workers") == 1 for line in lines_of(out)):
            assert process.poll() is None
            kept |= {int(p.name[11:20]) for p in (out / "checkpoints" / "train").glob("checkpoint_0*")}
            time.sleep(0.1)
        cluster.add_node(**NODE)
    lines = [line for line in lines_of(out) if "workers" in line]
    workers = [line["workers"] for line in lines]
    assert [w for i, w in enumerate(workers) if i == 0 or w != workers[i - 1]] == [2, 1, 2]
    config = recipes.from_dict(json.loads((out / "config.json").read_text()))
    training, before = config.training, 0
    for stage in STAGES:
        size = stage_series(training, stage)
        for line in (line for line in lines if line["stage"] == stage):
            phase = "generator" if stage == "adversarial" else stage
            middle = line["series_seen"] - before - training.batch_size / 2
            wanted = getattr(training, f"{phase}_lr") * rate_factor(training, middle / size)
            assert line[f"rate/{phase}"] == pytest.approx(wanted, rel=1e-4)
        before += size
    seen = [line["series_seen"] for line in lines]
    assert set(seen) >= set(range(32, 4801, 32)), "every batch of the schedule, none left out"
    alone = seen[workers.index(1)]
    assert any(alone - 32 <= at < alone for at in kept), "it went on from a checkpoint"
    assert [at for at in kept if at % 320], "one was kept on the notice, between two that were due"
    summary = json.loads((out / "manifest.json").read_text())["stages"]["train"]["summary"]
    assert (summary["series_seen"], summary["workers"]) == (4800, 2)
