"""What a machine does not have is refused before anything is read; one that is asked to end twice ends."""

import os
import signal
import sys

import pytest

from ray_jobs import machines
from ray_jobs.cli import main
from ray_jobs.failures import ClusterError
from ray_jobs.machines import check_this_machine
from ray_jobs.train import _leave_if, _on_sigterm
from ttsgan.config import RuntimeConfig
from ttsgan.errors import ConfigError
from ttsgan.training.runtime import Stopped


def test_more_than_this_machine_has_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(machines, "cores", lambda: 4)
    monkeypatch.setattr(machines.torch.cuda, "device_count", lambda: 0)
    for fits in ({"num_workers": 0}, {"num_workers": 4}, {"num_workers": 4, "cpus_per_worker": 2}):
        check_this_machine(RuntimeConfig(**fits))
    with pytest.raises(ConfigError, match=r"64 workers need 1024 CPUs, this machine has 4 .*--address"):
        check_this_machine(RuntimeConfig(num_workers=64, cpus_per_worker=16))
    with pytest.raises(ConfigError, match=r"2 workers need 2 GPUs, this machine has 0; set runtime\.use_gpu=false"):
        check_this_machine(RuntimeConfig(num_workers=2, use_gpu=True))
    monkeypatch.setattr(machines.torch.cuda, "device_count", lambda: 1)
    check_this_machine(RuntimeConfig(num_workers=1, use_gpu=True))
    with pytest.raises(ConfigError, match=r"2 GPUs, this machine has 1; lower runtime\.num_workers"):
        check_this_machine(RuntimeConfig(num_workers=2, use_gpu=True))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["runtime.cpus_per_worker=1000"], "2000 CPUs, this machine has"),
        (["training.precision=fp16"], "'fp16' on a CPU; allowed there: auto, fp32, bf16"),
    ],
)
def test_a_run_is_refused_before_it_reads_anything(tmp_path, capsys, settings, told):
    words = ["run", "--data", "sample", "--out", str(tmp_path / "run"), "--set", *settings]
    assert main(words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run" / "store").exists()


def test_asked_to_end_once_and_twice():
    asked = []
    with _on_sigterm(lambda: asked.append(True)) as noted:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == noted == [True], "a checkpoint first"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_asked_to_end_while_ray_starts(monkeypatch):
    """Ray's handler, which it sets as it starts, exits with status 15 and says nothing."""

    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(machines.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(machines.ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    for address in ("local", "10.0.0.1:6379"):
        with pytest.raises(KeyboardInterrupt):
            machines.start_ray(RuntimeConfig(), address)
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_a_cluster_that_does_not_answer_is_no_wrong_usage(monkeypatch):
    def init(**_):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(machines.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(machines.ray, "init", init)
    with pytest.raises(ClusterError, match=r"--address 10.0.0.1:6379 cannot be joined: nobody there"):
        machines.start_ray(RuntimeConfig(), "10.0.0.1:6379")


def test_trials_at_the_same_time_need_room_each(monkeypatch):
    monkeypatch.setattr(machines, "cores", lambda: 2)
    check_this_machine(RuntimeConfig(num_workers=2), trials=2)
    with pytest.raises(ConfigError, match=r"2 workers for each of .* = 3 trials need 6 CPUs"):
        check_this_machine(RuntimeConfig(num_workers=2), trials=3)


def test_training_that_ends_after_it_was_asked_to_stop_is_no_reason_to_go_on():
    _leave_if([])
    with pytest.raises(Stopped, match="at the end of training; the same command goes on"):
        _leave_if([True])


def test_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert machines.cores() == 1
        with pytest.raises(ConfigError, match="this machine has 1 "):
            check_this_machine(RuntimeConfig(num_workers=3))
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("come", [True, False])
def test_machines_are_not_held_after_they_were_asked_for(monkeypatch, come):
    """A request stays with the autoscaler until the next, whatever becomes of who asked."""
    asked, clock = [], iter(range(1000))
    answers = iter(["4 CPUs, the Ray cluster has 0", *(["still"] * 3), *([""] if come else ["still"] * 100)])
    monkeypatch.setattr(machines, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(machines, "_missing", lambda *_: next(answers))
    monkeypatch.setattr(machines.time, "sleep", lambda _: None)
    monkeypatch.setattr(machines.time, "monotonic", lambda: next(clock))
    wanted = RuntimeConfig(num_workers=4, scale_up_seconds=10)
    if come:
        machines.check_resources(wanted)
    else:
        with pytest.raises(ConfigError, match="4 workers need still"):
            machines.check_resources(wanted)
    assert asked == [[{"CPU": 1}] * 4, []]
