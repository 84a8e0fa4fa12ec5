"""A whole run on a small simulated population: every stage is real, on one local Ray."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from ray_jobs.cli import main
from ray_jobs.export import UNPROVEN_LINE
from ray_jobs.folder import STAGES, RunFolder
from ttsgan.data.storage import Location
from ttsgan.data.store import read_store

pytestmark = pytest.mark.ray

SMALL = (
    "sample.households=120",
    "training.max_series=192",
    "training.encoder_share=0.34",
    "training.days_share=0.33",
    "training.checkpoint_interval=64",
    "encoder.width=16",
    "days.width=16",
    "days.depth=1",
    "generator.width=16",
    "discriminator.width=16",
    "evaluate.bootstrap=20",
    "cluster.min_group_size=10",
    "generate.chunk=8",
)


@pytest.fixture(scope="module")
def finished(ray4, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    status = main(["run", "--data", "sample", "--out", str(out), "--set", *SMALL])
    return out, status


def test_few_households_prove_nothing_and_give_no_release(finished):
    out, status = finished
    audit = json.loads((out / "audit.json").read_text())
    assert audit["verdict"] in ("UNPROVEN", "FAIL")
    assert status == 3
    assert not (out / "release").exists()
    assert (out / "report.html").stat().st_size > 10_000


def test_candidate_keeps_the_contract(finished):
    out, _ = finished
    parts = sorted((out / "synthetic").glob("part-*.parquet"))
    schema = pq.read_schema(parts[0])
    assert set(schema.names) == {"synthetic_id", "start", "values"}
    meta = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert (meta["unit"], meta["step_seconds"], meta["channels"]) == ("kWh/h", "14400", "1")
    series = read_store(Location.parse(str(out / "synthetic")))
    assert series.values.shape == (60, 1, 2190)
    assert np.isfinite(series.values).all()
    assert (series.values >= 0).all()
    assert len(np.unique(series.ids)) == 60


def test_latents_groups_and_model(finished):
    out, _ = finished
    latents = pq.read_table(out / "latents")
    assert {"id", "entity", "mu"} <= set(latents.column_names)
    splits = pq.read_table(out / "splits.parquet").to_pydict()
    train = {i for i, split in zip(splits["id"], splits["split"], strict=True) if split == "train"}
    assert set(latents["id"].to_pylist()) == train
    groups = pq.read_table(out / "groups" / "groups.parquet").to_pydict()
    assert min(groups["size"]) >= 10
    members = pq.read_table(out / "groups" / "members.parquet").to_pydict()
    assert len(members["entity"]) == len(set(members["entity"])) == 60
    assert (out / "checkpoints" / "model" / "networks.safetensors").is_file()
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))


def test_again_does_only_what_is_missing(finished, capsys):
    out, _ = finished
    before = json.loads((out / "manifest.json").read_text())["stages"]["train"]["finished"]
    assert main(["run", "--out", str(out)]) == 3
    assert json.loads((out / "manifest.json").read_text())["stages"]["train"]["finished"] == before
    told = capsys.readouterr().out
    assert "is finished but for its release" in told
    assert [line for line in told.splitlines() if line.startswith("[")] == ["[9/9] export"]


def test_export_trusts_nothing_but_the_audit_of_the_run(finished, capsys):
    out, _ = finished
    own = (out / "audit.json").read_text()
    (out / "audit.json").write_text(json.dumps(json.loads(own) | {"verdict": "PASS"}))
    assert main(["export", "--out", str(out)]) == 3
    assert "not of this run's own audit" in capsys.readouterr().err
    assert not (out / "release").exists()
    (out / "audit.json").write_text(own)


def as_if(out: Path, to: Path, verdict: str, min_group_size: int) -> Path:
    """Copy a finished run, and set the audit's verdict and ``cluster.min_group_size`` in the copy."""
    shutil.copytree(out, to)
    for name in ("audit.json", "manifest.json", "config.json"):
        page = json.loads((to / name).read_text())
        if name == "audit.json":
            page["verdict"] = verdict
        elif name == "manifest.json":
            page["stages"]["audit"]["summary"]["verdict"] = verdict
        else:
            page["cluster"]["min_group_size"] = min_group_size
        (to / name).write_text(json.dumps(page))
    return to


@pytest.mark.parametrize(
    ("verdict", "min_group_size", "accept", "first_line"),
    [
        ("PASS", 15, False, "# Synthetic series (made from SIMULATED households)"),
        ("PASS", 10, False, None),
        ("PASS", 10, True, "LIMITS OF THE AUDIT WERE LOOSENED: cluster.min_group_size = 10, usually 15."),
        ("UNPROVEN", 15, False, None),
        ("UNPROVEN", 15, True, UNPROVEN_LINE),
        ("FAIL", 15, True, None),
        ("INVALID", 15, True, None),
    ],
)
def test_what_each_verdict_releases(finished, tmp_path, verdict, min_group_size, accept, first_line, capsys):
    out = as_if(finished[0], tmp_path / "run", verdict, min_group_size)
    status = main(["export", "--out", str(out), *(["--accept-unproven"] if accept else [])])
    assert status == (0 if first_line else 3)
    assert (out / "release").exists() == bool(first_line)
    if first_line:
        assert (out / "release" / "README.md").read_text().splitlines()[0] == first_line
    else:
        told = capsys.readouterr().err
        assert "there is no release" in told or "released only with --accept-unproven" in told


def test_series_changed_since_their_audit_are_not_released(finished, tmp_path, capsys):
    out = as_if(finished[0], tmp_path / "run", "PASS", 15)
    part = min((out / "synthetic").glob("part-*.parquet"))
    table = pq.read_table(part)
    pq.write_table(table.take(list(range(len(table)))[::-1]), part)
    assert main(["export", "--out", str(out)]) == 3
    assert "has changed since it was audited" in capsys.readouterr().err
    assert not (out / "release").exists()


def test_accepting_what_is_unproven(finished, tmp_path, capsys):
    out = as_if(finished[0], tmp_path / "run", "UNPROVEN", 10)
    assert main(["run", "--out", str(out), "--accept-unproven"]) == 0
    readme = (out / "release" / "README.md").read_text()
    first = readme.splitlines()[0]
    assert first.startswith("NOT PROVEN")
    assert first.endswith("LIMITS OF THE AUDIT WERE LOOSENED: cluster.min_group_size = 10, usually 15.")
    sheet = json.loads((out / "release" / "datasheet.json").read_text())
    assert sheet["verdict"] == "UNPROVEN"
    assert sheet["series"] == 60
    assert sheet["settings"]["audit.auc"] == 0.55
    # The fingerprint of the input would confirm a correct guess of the households.
    secret = json.loads((out / "manifest.json").read_text())["input_fingerprint"]
    assert secret not in readme + json.dumps(sheet)
    assert {p.name for p in (out / "release").iterdir()} == {"README.md", "datasheet.json", "report.html", "synthetic"}
    assert main(["report", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["run", "--out", str(out)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (out / "release" / "README.md").is_file()
    assert all(stage in json.loads((out / "manifest.json").read_text())["stages"] for stage in STAGES)


def test_an_accepted_release_outlives_an_interrupted_report_and_a_refusal(finished, tmp_path, capsys):
    out = as_if(finished[0], tmp_path / "run", "UNPROVEN", 15)
    assert main(["export", "--out", str(out), "--accept-unproven"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["stages"]["report"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert main(["run", "--out", str(out)]) == 0
    assert (out / "release" / "README.md").is_file()
    capsys.readouterr()
    assert main(["export", "--out", str(out)]) == 3
    assert "UNPROVEN" in capsys.readouterr().err
    assert (out / "release" / "README.md").is_file()


def test_other_settings_and_other_data_are_refused(finished, capsys):
    out, _ = finished
    assert main(["run", "--data", "sample", "--out", str(out), "--set", *SMALL, "days.depth=2"]) == 1
    line = capsys.readouterr().err
    assert "days.depth was 1 and is now 2" in line
    assert "--fresh" in line
    assert main(["run", "--data", "sample", "--out", str(out), "--set", *SMALL, "sample.seed=1"]) == 1


def test_machines_that_are_not_there_cost_nothing_that_is(finished, capsys):
    """A run that asks for missing GPUs is refused before the model or anything made with it is removed."""
    out, _ = finished
    folder = RunFolder.load(Location.parse(str(out)))
    before = sorted(path for path in out.rglob("*") if path.is_file())
    more = ["runtime.num_workers=2", "runtime.use_gpu=true"]
    assert main(["train", "--out", str(out), "--set", *more]) == 2
    assert "runtime.num_workers = 2 workers need 2 GPUs" in capsys.readouterr().err
    assert sorted(path for path in out.rglob("*") if path.is_file()) == before
    assert RunFolder.load(folder.where) == folder


@pytest.mark.parametrize("stage", ["encode", "generate"])
def test_a_model_of_another_version_is_told_in_one_line(finished, tmp_path, stage, capsys):
    out, _ = finished
    shutil.copytree(out, tmp_path / "run")
    where = tmp_path / "run" / "checkpoints" / "model" / "scaler.safetensors"
    state = safetensors.numpy.load(where.read_bytes())
    where.write_bytes(safetensors.numpy.save({name: array for name, array in state.items() if name != "signs"}))
    assert main([stage, "--out", str(tmp_path / "run")]) == 1
    assert "another version of ttsgan (signs); train again" in capsys.readouterr().err


def test_one_stage_makes_later_ones_out_of_date(finished):
    out, _ = finished
    assert main(["generate", "--out", str(out), "--series", "30"]) == 0
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    assert set(stages) == {"prepare", "train", "encode", "cluster", "generate"}
    assert not (out / "release").exists()
    assert len(read_store(Location.parse(str(out / "synthetic")))) == 30
    assert main(["export", "--out", str(out)]) == 1
    assert "UNPROVEN" in (out / "report.html").read_text()
    assert main(["report", "--out", str(out)]) == 0
    assert "UNPROVEN" not in (out / "report.html").read_text(), "the verdict is that of other series"


def test_generation_does_not_depend_on_workers(finished, tmp_path):
    out, _ = finished
    main(["generate", "--out", str(out), "--series", "30"])
    first = read_store(Location.parse(str(out / "synthetic"))).values
    config = json.loads((out / "config.json").read_text())
    config["runtime"]["num_workers"] = 1
    (out / "config.json").write_text(json.dumps(config))
    main(["generate", "--out", str(out)])
    np.testing.assert_array_equal(read_store(Location.parse(str(out / "synthetic"))).values, first)
