"""Folders of runs, stores and judgements: what is refused before work starts, and what nobody loses."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import complaint, small_store

from ray_jobs.cli import main
from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.options import DataOptions, RunOptions
from ray_jobs.run import run_stage
from ray_jobs.settings import open_run
from ttsgan import recipes
from ttsgan.data.storage import Location
from ttsgan.data.store import read_store, write_store
from ttsgan.errors import DataError


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "r").write_text("x")
    status, line = complaint(capsys, ["run", "--data", "sample", "--out", str(tmp_path / "r")])
    assert status == 1
    assert "is a file" in line


def test_out_holds_something_else(tmp_path, capsys):
    (tmp_path / "photo.jpg").write_text("x")
    status, line = complaint(capsys, ["run", "--data", "sample", "--out", str(tmp_path)])
    assert status == 1
    assert "not a run" in line
    assert (tmp_path / "photo.jpg").exists()


def test_no_data_and_no_run_folder(tmp_path, capsys):
    status, line = complaint(capsys, ["run", "--out", str(tmp_path / "r")])
    assert status == 2
    assert "--data" in line


@pytest.mark.parametrize(("source", "out"), [("real/a.csv", "real"), ("real", "real"), ("real/a.csv", "notes")])
def test_prepare_replaces_nothing_but_a_store(tmp_path, capsys, source, out):
    for folder, name in (("real", "a.csv"), ("notes", "diary.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("id,start\n")
    words = ["prepare", "--source", str(tmp_path / source), "--out", str(tmp_path / out)]
    status, line = complaint(capsys, words)
    assert status == 2
    assert "choose a new folder" in line
    assert (tmp_path / "real" / "a.csv").is_file()
    assert (tmp_path / "notes" / "diary.txt").is_file()


@pytest.mark.parametrize("words", [["run", "--data"], ["prepare", "--source"]])
def test_a_folder_of_hidden_files_is_not_empty(tmp_path, capsys, words):
    (tmp_path / "home" / ".git").mkdir(parents=True)
    (tmp_path / "home" / ".git" / "HEAD").write_text("ref")
    (tmp_path / "a.csv").write_text("id,time,kwh\na,2013-01-01 00:00,1\na,2013-01-01 01:00,2\n")
    _, line = complaint(capsys, [*words, str(tmp_path / "a.csv"), "--out", str(tmp_path / "home")])
    assert ".git" in line
    assert (tmp_path / "home" / ".git" / "HEAD").read_text() == "ref"


def test_a_run_that_cannot_begin_leaves_what_others_put_beside_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.csv").write_text("id,time,kwh\na,2013-01-01 00:00,1\na,2013-01-01 01:00,2\n")
    made = RunFolder.start_over

    def start_over(folder):
        made(folder)
        (tmp_path / "run" / "notes.txt").write_text("mine")

    monkeypatch.setattr(RunFolder, "start_over", start_over)
    words = ["run", "--data", str(tmp_path / "a.csv"), "--out", str(tmp_path / "run")]
    assert complaint(capsys, words)[0] == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    monkeypatch.undo()
    assert complaint(capsys, [*words[:-1], str(tmp_path / "other")])[0] == 1
    assert not (tmp_path / "other").exists()


def test_prepare_takes_the_same_span_of_all(tmp_path, capsys):
    rows = [f"{name},2013-01-01 {hour:02d}:00,{hour}" for name, end in (("a", 5), ("b", 9)) for hour in range(end)]
    (tmp_path / "a.csv").write_text("\n".join(["id,time,kwh", *rows]))
    words = ["prepare", "--source", str(tmp_path / "a.csv"), "--out", str(tmp_path / "store")]
    status, line = complaint(capsys, words)
    assert status == 1
    assert "between 2013-01-01T00:00:00 and 2013-01-01T08:00:00; cut all to one span" in line
    status, line = complaint(capsys, [*words, "--set", "days.width=8"])
    assert status == 2
    assert "data.FIELD=VALUE" in line
    assert main([*words, "--set", "data.period=2013-01-01/2013-01-01T06:00"]) == 0
    store = read_store(Location.parse(str(tmp_path / "store")))
    assert (store.length, store.unit, int(np.isnan(store.values).sum())) == (6, "kWh", 1)


def test_training_in_this_process_needs_a_local_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Location, "is_local", False)
    words = ["--out", str(tmp_path / "r"), "--set", "runtime.num_workers=0"]
    status, line = complaint(capsys, ["run", "--data", "sample", *words])
    assert status == 2
    assert "runtime.num_workers is 0" in line
    assert "give a local --out" in line
    assert not (tmp_path / "r").exists()


def test_fresh_keeps_the_old_run_until_the_new_series_have_been_read(tmp_path, capsys):
    out, bad = tmp_path / "r", tmp_path / "bad.csv"
    RunFolder.create(Location.parse(str(out)), recipes.quick(), fresh=False)
    (out / "checkpoints").mkdir()
    bad.write_text("id,timestamp,value\na,2013-01-01,err\n")
    words = ["train", "--data", str(bad), "--out", str(out), "--fresh"]
    status, line = complaint(capsys, words)
    assert status == 1
    assert "err" in line
    assert (out / "checkpoints").is_dir()
    assert RunFolder.load(Location.parse(str(out))).config == recipes.quick()


def test_another_number_of_series_needs_no_new_training(tmp_path, capsys):
    out = tmp_path / "r"
    folder = RunFolder.create(Location.parse(str(out)), recipes.quick(), fresh=False)
    folder.finish("generate", 1.0, {})
    status, line = complaint(capsys, ["run", "--out", str(out), "--series", "40"])
    assert status == 1
    assert "generate.series was 0 and is now 40" in line
    assert f"ttsgan generate --out {out} --series N" in line


def test_other_limits_need_no_new_training(tmp_path, capsys):
    """Told by a run; what a stage is given is its own, and is kept once the stage begins."""
    out = tmp_path / "my run"
    where = Location.parse(str(out))
    folder = RunFolder.create(where, recipes.quick(), fresh=False)
    status, line = complaint(capsys, ["run", "--out", str(out), "--set", "audit.auc=0.6", "evaluate.bootstrap=50"])
    assert status == 1
    for words in ("run", "evaluate", "audit"):
        assert f"ttsgan {words} --out '{out}' " in line
    status, line = complaint(capsys, ["audit", "--out", str(out), "--set", "training.batch_size=16"])
    assert status == 2
    assert "training.batch_size=16" in line
    assert "audit.FIELD=VALUE" in line
    status, line = complaint(capsys, ["audit", "--out", str(out), "--set", "audit.auc=0.6"])
    assert status == 1
    assert f"ttsgan run --out '{out}'" in line
    assert RunFolder.load(where).config == folder.config
    folder.config = recipes.override(folder.config, ["audit.auc=0.6"])
    folder.begin("audit")
    assert RunFolder.load(where).config.audit.auc == 0.6


def test_a_run_goes_on_with_other_machines_once_its_source_is_gone(tmp_path):
    store = Path(small_store(tmp_path))
    config = recipes.override(recipes.quick(), [f"data.source={store}"])
    where = Location.parse(str(tmp_path / "r"))
    RunFolder.create(where, config, fresh=False)
    elsewhere = RunOptions(out=str(where), data=(f"{tmp_path}/./store",))
    assert open_run(elsewhere, DataOptions(), Console()).manifest["stages"] == {}
    shutil.rmtree(store)
    general = RunOptions(out=str(where), set=("runtime.num_workers=1",))
    folder = open_run(general, DataOptions(), Console())
    assert folder.config.runtime.num_workers == 1
    assert RunFolder.load(where).config == config, "kept before a stage began with it"
    folder.begin("train")
    assert RunFolder.load(where).config.runtime.num_workers == 1
    with pytest.raises(DataError, match="another configuration"):
        open_run(dataclasses.replace(general, set=("seed=5",)), DataOptions(), Console())


def test_ids_of_a_holdout_may_not_be_those_of_the_source(tmp_path):
    """Halves are told apart by id: a series of the holdout would be trained on."""
    store = read_store(Location.parse(small_store(tmp_path)))
    others = dataclasses.replace(store, entities=np.array([f"other {name}" for name in store.ids], dtype=object))
    write_store(others, Location.parse(str(tmp_path / "holdout")))
    sets = [f"data.source={small_store(tmp_path)}", f"data.holdout={tmp_path / 'holdout'}"]
    where = Location.parse(str(tmp_path / "run"))
    folder = RunFolder.create(where, recipes.override(recipes.quick(), sets), fresh=False)
    with pytest.raises(DataError, match=r"duplicate.*holdout|holdout.*duplicate"):
        run_stage(folder, "prepare", Console(), "local")


def test_a_holdout_without_entities_beside_a_source_with_some_is_refused(tmp_path):
    """Meters of one home under two names: what training saw would pass for unseen."""
    source = tmp_path / "source.csv"
    days = [f"2013-01-0{day}" for day in range(1, 4)]
    rows = [(f"{{}}{i}", f"home{i // 2}", day, f"{i + at}") for i in range(4) for at, day in enumerate(days)]
    source.write_text("\n".join(["id,entity,date,kwh", *(",".join(row).format("m") for row in rows)]))
    others = [",".join((name, day, value)).format("n") for name, _, day, value in rows]
    (tmp_path / "holdout.csv").write_text("\n".join(["id,date,kwh", *others]))
    sets = [f"data.source={source}", f"data.holdout={tmp_path / 'holdout.csv'}"]
    folder = RunFolder.create(
        Location.parse(str(tmp_path / "run")), recipes.override(recipes.quick(), sets), fresh=False
    )
    with pytest.raises(DataError, match=r"holdout\.csv has no `entity` column"):
        run_stage(folder, "prepare", Console(), "local")


def test_fresh_leaves_the_folder_of_another_program_alone(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    words = ["run", "--data", "sample", "--out", str(tmp_path), "--fresh"]
    status, line = complaint(capsys, words)
    assert status == 1
    assert "not a run" in line
    assert (tmp_path / "manifest.json").is_file()


def test_judge_does_not_write_into_a_run(tmp_path, capsys):
    RunFolder.create(Location.parse(str(tmp_path / "r")), recipes.quick(), fresh=False)
    store = small_store(tmp_path)
    words = ["judge", "--train", store, "--holdout", store, "--synthetic", store, "--out", str(tmp_path / "r")]
    status, line = complaint(capsys, words)
    assert status == 1
    assert "is a run folder" in line


def test_judge_leaves_the_audit_of_another_program_alone(tmp_path, capsys):
    (tmp_path / "audit.json").write_text("[]")
    store = small_store(tmp_path)
    words = ["judge", "--train", store, "--holdout", store, "--synthetic", store, "--out", str(tmp_path)]
    status, line = complaint(capsys, words)
    assert status == 1
    assert "audit.json is not of a judgement" in line


def test_stage_of_a_folder_that_is_no_run(tmp_path, capsys):
    status, line = complaint(capsys, ["encode", "--out", str(tmp_path)])
    assert status == 1
    assert "not a run folder" in line


def test_a_machine_that_is_too_small_leaves_no_folder(tmp_path, capsys, monkeypatch):
    """The command with another recipe must find the place as it was."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ["run", "--data", small_store(tmp_path), "--out", str(tmp_path / "r"), "--recipe", "large"]
    status, line = complaint(capsys, words)
    assert status == 2
    assert "need 4 GPUs, this machine has 0; set runtime.use_gpu=false (the recipe large is for GPUs)" in line
    assert not (tmp_path / "r").exists()


def test_too_few_entities(tmp_path, capsys):
    store = small_store(tmp_path, count=24)
    status, line = complaint(capsys, ["run", "--data", store, "--out", str(tmp_path / "r")])
    assert status == 1
    assert "18" in line
    assert "30" in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("holdout", "told"), [("0.25", True), ("0.5", False)])
def test_a_holdout_too_small_for_the_audit_is_told_at_once(tmp_path, capsys, holdout, told):
    """Before training, not by a verdict after it: 10 held out of 40 are too few, 20 are enough."""
    sets = [f"data.source={small_store(tmp_path)}", f"data.holdout={holdout}", "cluster.min_group_size=10"]
    folder = RunFolder.create(
        Location.parse(str(tmp_path / "run")), recipes.override(recipes.quick(), sets), fresh=False
    )
    run_stage(folder, "prepare", Console(), "local")
    said = " ".join(capsys.readouterr().out.split())
    assert ("holdout has 10 entities; the audit needs 12, so nothing of this run can be released" in said) == told


def test_too_few_series_to_write_are_told_of_at_once(tmp_path, capsys):
    sets = [
        f"data.source={small_store(tmp_path)}",
        "data.holdout=0.5",
        "cluster.min_group_size=10",
        "generate.series=11",
    ]
    where = Location.parse(str(tmp_path / "run"))
    folder = RunFolder.create(where, recipes.override(recipes.quick(), sets), fresh=False)
    run_stage(folder, "prepare", Console(), "local")
    said = " ".join(capsys.readouterr().out.split())
    assert "generate.series is 11; the audit needs 12 synthetic series, so nothing of this run can be released" in said
    # With 3,102 series and no near-copy the bound of their share, -log(.045) / 3,102, is the limit of .1 %.
    few = "a PASS needs about 3,102 synthetic series (here 11; --series) and 590 training entities (here 20)"
    assert f"the audit can say UNPROVEN at best: {few}" in said
