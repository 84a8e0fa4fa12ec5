"""`ttsgan train --profile`: a trace and a table for each stage, and the same training as without it."""

import json
import re

import torch

from ray_jobs.cli import main
from ttsgan.training.profiling import PROFILED
from ttsgan.training.runtime import LocalRuntime

STAGES = ["encoder", "days", "adversarial"]


def recorded(folder, stage) -> set[str]:
    """Return the names of the events in a trace, and check the table beside it."""
    events = json.loads((folder / f"{stage}.trace.json").read_text())["traceEvents"]
    table = (folder / f"{stage}.txt").read_text()
    assert "Self CPU %" in table
    assert re.search(r"aten::\w*mm", table)
    assert len(table.splitlines()) < 30
    return {str(event.get("name")) for event in events}


def test_each_stage_has_a_trace_and_profiling_changes_nothing(trainer, tmp_path):
    settings = ("training.max_series=168",)  # 6, 8 and 7 steps
    runtime = LocalRuntime()
    runtime.profile = tmp_path / "profile"
    profiled = trainer(*settings, runtime=runtime).train().networks.state_dict()
    assert sorted(p.name for p in runtime.profile.iterdir()) == sorted(
        f"{stage}.{kind}" for stage in STAGES for kind in ("trace.json", "txt")
    )
    for stage in STAGES:
        names = recorded(runtime.profile, stage)
        assert {"aten::addmm", "aten::mul"} <= names
        assert len([name for name in names if name.startswith("ProfilerStep#")]) == PROFILED
    straight = trainer(*settings).train().networks.state_dict()
    assert [name for name in straight if not torch.equal(straight[name], profiled[name])] == []


def test_a_stage_of_few_steps_has_none(trainer, tmp_path):
    runtime = LocalRuntime()
    runtime.profile = tmp_path / "profile"
    trainer("training.max_series=24", "training.encoder_share=0.34", runtime=runtime).train()
    assert not runtime.profile.exists()


def test_the_command_writes_it_into_the_run_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ray_jobs.run.ON_RAY", ())
    settings = [
        "runtime.num_workers=0", "sample.households=40", "data.holdout=0.5", "training.max_series=32",
        "training.batch_size=4", "training.encoder_share=0.75", "training.days_share=0.125",
        "cluster.min_group_size=10", "encoder.width=16", "days.width=16", "days.depth=1", "generator.width=16",
        "discriminator.width=16",
    ]  # fmt: skip
    words = ["train", "--data", "sample", "--out", str(tmp_path / "run"), "--profile", "--set", *settings]
    assert main(words) == 0
    folder = tmp_path / "run" / "train" / "profile"
    assert "aten::addmm" in recorded(folder, "encoder")
    assert str(folder) in capsys.readouterr().out.replace("\n", "")
